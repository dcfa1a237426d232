"""The training step on made batches: devices, resuming, freezing. Compiling it takes minutes."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from finecausal_jax import settings
from finecausal_jax.training import loop, sharding, state
from finecausal_jax.training.checkpoints import OPTIMISER, VARIABLES, CheckpointStore

STEPS_PER_EPOCH = 4


def tiny_config():
    config = demo.get_config()
    config.data.frames = 16
    config.data.frame_size = 16
    config.model.window_frames = 8
    config.model.window_stride = 8
    config.model.width = 1 / 16
    config.model.frame_width = 1 / 8
    config.model.embedding = 8
    config.model.stage_frames = (4, 4, 4)
    config.model.stage_margin = 1
    config.train.batch_size = 8
    return config


def made_batch(config, seed=0):
    random = np.random.default_rng(seed)
    b, t, s = config.train.batch_size, config.data.frames, config.data.frame_size

    def video():
        first = random.integers(1, t // 2, b)
        second = random.integers(t // 2, t - 1, b)
        return {
            "frames": random.integers(0, 256, (b, t, s, s, 3)).astype(np.uint8),
            "mask": random.integers(0, 256, (b, t, s, s)).astype(np.uint8),
            "transitions": np.stack([first, second], 1).astype(np.int32),
            "completeness": random.uniform(0, 30, b).astype(np.float32),
            "difficulty": np.full(b, 3, np.float32),
            "row": np.arange(b, dtype=np.int32),
        }

    return {"query": video(), "exemplar": video()}


def made_state(config, model, optimiser):
    """Parameters near 0.1 from NumPy: the model's own initial values take long to draw."""
    random = np.random.default_rng(0)
    video = jnp.zeros((1, config.data.frames, 16, 16, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), video, video)
    params = jax.tree.map(
        lambda x: jnp.asarray(random.uniform(-0.1, 0.2, x.shape), x.dtype), shapes["params"]
    )
    stats = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes["batch_stats"])
    params["awl"] = jnp.ones(3)
    return state.init_state({"params": params, "batch_stats": stats}, optimiser)


def run_steps(mesh, count, config=None):
    config = config or tiny_config()
    model = settings.make_model(config)
    step, optimiser = loop.make_step(config, model, STEPS_PER_EPOCH, mesh)
    current = jax.device_put(made_state(config, model, optimiser), sharding.replicated(mesh))
    results = []
    for number in range(count):
        batch = sharding.place_batch(made_batch(config, number), mesh)
        current, losses = step(current, batch, jax.random.key(1))
        results.append(jax.device_get(losses))
    return step, current, results


def check_devices():
    """Run under 8 devices: one step on one of them and on all of them."""
    one = jax.make_mesh(
        (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
    )
    eight = sharding.make_mesh()
    assert eight.size == 8
    _, state1, (losses1,) = run_steps(one, 1)
    _, state8, (losses8,) = run_steps(eight, 1)
    # Sums over the batch are taken in another order: float32 keeps 1e-5 of a loss.
    for a, b in zip(jax.tree.leaves(losses1), jax.tree.leaves(losses8), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(state1.batch_stats), jax.tree.leaves(state8.batch_stats), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # Adam's first step is the learning rate times the sign of the gradient, so a gradient that is
    # zero but for rounding may turn around: at most 2 rates apart, and few are.
    rate = 2 * demo.get_config().train.base_lr
    far = total = 0
    for a, b in zip(jax.tree.leaves(state1.params), jax.tree.leaves(state8.params), strict=True):
        difference = np.abs(np.asarray(a) - np.asarray(b))
        assert difference.max() <= rate * 1.01
        far, total = far + np.sum(difference > 1e-5), total + difference.size
    assert far < 0.05 * total, f"{far} of {total} parameters differ"


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__], check=True, env=environment)


@pytest.mark.slow
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    mesh = sharding.make_mesh()
    config = tiny_config()
    step, unbroken, losses = run_steps(mesh, 3, config)
    assert int(unbroken.step) == 3
    assert all(np.isfinite(jax.tree.leaves(part)).all() for part in losses)

    current = jax.device_put(
        made_state(
            config,
            settings.make_model(config),
            loop.make_step(config, settings.make_model(config), STEPS_PER_EPOCH, mesh)[1],
        ),
        sharding.replicated(mesh),
    )
    for number in range(3):
        batch = sharding.place_batch(made_batch(config, number), mesh)
        current, _ = step(current, batch, jax.random.key(1))
        if number == 1:  # stop here, and start again from the files
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), current
            )
            items = {"step": current.step, "opt_state": current.opt_state}
            with CheckpointStore(tmp_path) as store:
                store.save(2, {VARIABLES: current.variables, OPTIMISER: items})
            with CheckpointStore(tmp_path) as store:
                loaded = store.load(
                    store.find("latest"),
                    {
                        VARIABLES: abstract.variables,
                        OPTIMISER: {"step": abstract.step, "opt_state": abstract.opt_state},
                    },
                )
            current = state.TrainState(**loaded[OPTIMISER], **loaded[VARIABLES])
    for a, b in zip(jax.tree.leaves(unbroken), jax.tree.leaves(current), strict=True):
        np.testing.assert_array_equal(a, b)


if __name__ == "__main__":
    check_devices()
