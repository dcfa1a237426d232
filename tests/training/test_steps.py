"""The training step on synthetic batches.

What a step does around the network (freezing, which transitions, losses) is seen on a stand-in; on
several devices and resumed, the network itself is run, whose step takes minutes to compile.
"""

import dataclasses
import functools
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import demo
from finecausal_jax.models.finecausal import FineCausal, Outputs
from finecausal_jax.models.layers import BatchNorm, Dense
from finecausal_jax.runtime.checkpoints import OPTIMISER, VARIABLES, CheckpointStore
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.settings import read, things
from finecausal_jax.training import schedule, state, steps
from finecausal_jax.training.optimiser import OptimiserSettings, make_optimiser

STEPS_PER_EPOCH = 4


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(2, name="norm")(Dense(2, name="linear")(x), train=train)


class StandIn(FineCausal):
    """A few parameters under the network's names, with its BatchNorms in the modes they have.

    `delta` is 100 more where the static encoder is to be cut at predicted transitions.
    """

    frames: int = 4
    window_frames: int = 4
    window_stride: int = 4

    def setup(self):
        """None of the network's parts."""

    @nn.compact
    def __call__(
        self, query, exemplar, *, train=False, transitions=None, static_from_prediction=None
    ):
        videos = jnp.concatenate([query, exemplar])
        v, t, height, width, _ = videos.shape
        pixels = videos.mean((2, 3)).reshape(v, -1)
        motion = Encoder(name="base_model")(pixels, False)
        masks = Encoder(name="segmenter")(pixels, train)
        self.param("awl", nn.initializers.ones, (3,))
        delta = Dense(1, name="regressor_delta1")(jnp.concatenate([motion, masks], 1))
        if static_from_prediction is not None:
            delta += jnp.where(static_from_prediction, 100.0, 0.0)
        logits = Dense(2 * t, name="psnet_model")(masks).reshape(v, t, 2)
        maps = jnp.broadcast_to(masks[:, :1, None, None, None], (v, 1, t, height, width))
        said = {
            "delta": delta,
            "transition_probability": nn.sigmoid(logits),
            "mask_logits": (maps,) * 5,
        }
        return Outputs(**dict.fromkeys(f.name for f in dataclasses.fields(Outputs)) | said)


@pytest.fixture(scope="module")
def small():
    """A batch, the stand-in, its first state, and its jitted step by non-default settings."""
    config = tiny_config()
    config.data.frames, config.data.frame_size, config.train.batch_size = 4, 2, 3
    batch = synthetic_batch(config)
    model = StandIn()
    video, random = jnp.zeros((3, 4, 2, 2, 3)), np.random.default_rng(3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), video, video)
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    variables["params"] |= jax.tree.map(
        lambda x: random.uniform(-0.5, 0.5, x.shape).astype(x.dtype),
        {name: tree for name, tree in shapes["params"].items() if name != "awl"},
    )
    optimiser = make_optimiser(OptimiserSettings(schedule.Schedule(STEPS_PER_EPOCH)))

    @functools.cache
    def step_of(**options):
        step_settings = steps.StepSettings(max_epoch=10, steps_per_epoch=STEPS_PER_EPOCH, **options)
        step = functools.partial(
            steps.train_step, model=model, optimiser=optimiser, settings=step_settings
        )
        return jax.jit(lambda current: step(current, batch, jax.random.key(1)))

    first = jax.jit(lambda variables: state.init_state(variables, optimiser))(variables)
    return batch, model, first, step_of


def assert_equal(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found, want)


def assert_close(found, want):
    """But for float32's rounding: two programs with the same formulas."""
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, want)


def adam_of(opt_state):
    """Adam's own state, wherever it lies."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
    (found,) = (node for node in nodes if isinstance(node, optax.ScaleByAdamState))
    return found


def test_frozen_modules_stay_bit_for_bit_whatever_their_moments(small):
    _, _, first, step_of = small
    free, frozen = step_of(), step_of(freeze_base=True)
    before = first
    for _ in range(2):  # the optimiser steps after two: then all modules have moments
        before, _ = free(before)
    after, ran_on = before, before
    for _ in range(2):
        after, _ = frozen(after)
        ran_on, _ = free(ran_on)

    first, before, after, ran_on = jax.device_get((first, before, after, ran_on))
    assert all(np.any(moment) for moment in jax.tree.leaves(adam_of(before.opt_state).mu))
    for name in ("base_model", "segmenter"):
        assert_equal(after.params[name], before.params[name])
        for moment in ("mu", "nu"):  # PyTorch's Adam passes over them altogether
            kept, now = (getattr(adam_of(s.opt_state), moment)[name] for s in (before, after))
            assert_equal(now, kept)
        assert np.abs(
            ran_on.params[name]["linear"]["kernel"] - before.params[name]["linear"]["kernel"]
        ).max()
    # All else is trained as ever: two micro-batches see the same parameters, frozen or not.
    for name in ("psnet_model", "regressor_delta1", "awl"):
        assert_close(after.params[name], ran_on.params[name])
        assert any(
            np.any(a != b)
            for a, b in zip(
                jax.tree.leaves(after.params[name]),
                jax.tree.leaves(before.params[name]),
                strict=True,
            )
        )
    # The frozen segmenter's statistics move; those of the base trunk never do.
    assert_close(after.batch_stats, ran_on.batch_stats)
    moved = after.batch_stats["segmenter"]["norm"]["mean"]
    assert np.abs(moved - before.batch_stats["segmenter"]["norm"]["mean"]).min() > 0
    assert_equal(after.batch_stats["base_model"], first.batch_stats["base_model"])
    assert int(after.step) == 4


@pytest.mark.parametrize(
    ("until", "epoch", "predicted"),
    [
        (1.0, 10, False),
        (1.0, 11, False),  # a training may go on behind its schedule
        (1.0, 1000, False),
        (0.5, 5, False),
        (0.5, 6, True),
        (0.5, 11, True),
    ],
)
def test_the_static_encoder_takes_labels_until_its_share_of_the_schedule(
    small, until, epoch, predicted
):
    _, _, first, step_of = small
    step = step_of() if until == 1 else step_of(static_labels_until=until)
    number = np.int32(epoch * STEPS_PER_EPOCH)
    _, losses = step(first.replace(step=number))
    # The stand-in's delta is 100 off where predictions are used; completeness is 0 to 30.
    assert (losses.loss_aqa > 50**2) == predicted
    # The last micro-batch of the epoch before.
    _, losses = step(first.replace(step=number - 1))
    assert (losses.loss_aqa > 50**2) == (predicted and epoch - 1 > until * 10)


def test_losses_are_of_the_batch_s_own_pairs(small):
    batch, model, first, step_of = small
    _, found = step_of()(first)
    query, exemplar = (
        (batch[who]["frames"] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        for who in ("query", "exemplar")
    )
    run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    out, _ = run(first.variables, np.float32(query), np.float32(exemplar))
    delta, probability = np.asarray(out.delta[:, 0]), np.asarray(out.transition_probability)
    difference = batch["query"]["completeness"] - batch["exemplar"]["completeness"]
    aqa = np.mean((delta[:3] - difference) ** 2) + np.mean((delta[3:] + difference) ** 2)
    np.testing.assert_allclose(found.loss_aqa, aqa, rtol=1e-5)
    chosen = 1 - probability
    labels = np.concatenate([batch[who]["transitions"] for who in ("query", "exemplar")])
    for video, frames in enumerate(labels):
        for channel, frame in enumerate(frames):
            chosen[video, frame, channel] = probability[video, frame, channel]
    np.testing.assert_allclose(found.loss_tas, -np.log(chosen).mean(), rtol=1e-5)
    mask = np.concatenate([batch[who]["mask"] for who in ("query", "exemplar")]) > 127.5
    right = 1 / (1 + np.exp(-np.asarray(out.mask_logits[0][:, 0])))
    right = np.where(mask, right, 1 - right)
    focal = np.mean((1 - right) ** 2 * -np.log(right))
    np.testing.assert_allclose(found.loss_mask, 5 * focal, rtol=1e-5)
    want = 5 * (0.5 * aqa + np.log(2)) + 0.5 * (found.loss_tas + found.loss_mask) + 2 * np.log(2)
    np.testing.assert_allclose(found.loss, want, rtol=1e-5)

    # FineParser's: the score's difference, and no learned weights to look for.
    names = ("transitions", "completeness", "difficulty")
    videos = {name: np.concatenate([batch[who][name] for who in batch]) for name in names}
    fineparser = model.clone(target="score", loss_weighting="sum")
    pair_losses = jax.jit(functools.partial(steps.pair_losses, fineparser, {}))
    found = pair_losses(out, videos, np.float32(mask))
    score = videos["completeness"] * videos["difficulty"]
    difference = score[:3] - score[3:]
    aqa = np.mean((delta[:3] - difference) ** 2) + np.mean((delta[3:] + difference) ** 2)
    np.testing.assert_allclose(found.loss_aqa, aqa, rtol=1e-5)
    np.testing.assert_allclose(found.loss, aqa + found.loss_tas + found.loss_mask, rtol=1e-5)


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
    config.train.accumulate = 2  # as at full size
    return config


def synthetic_batch(config, seed=0):
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
            "difficulty": random.uniform(1.5, 4, b).astype(np.float32),
            "row": np.arange(b, dtype=np.int32),
        }

    return {"query": video(), "exemplar": video()}


def synthetic_state(config, model, optimiser):
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


def run_steps(layout, count, config=None):
    config = config or tiny_config()
    settings = read(config)
    step, optimiser = things.make_training_step(settings, STEPS_PER_EPOCH, layout)
    current = layout.place(synthetic_state(config, things.make_model(settings), optimiser))
    results = []
    for number in range(count):
        batch = layout.place_batch(synthetic_batch(config, number))
        current, losses = step(current, batch, jax.random.key(1))
        results.append(jax.device_get(losses))
    return step, current, results


def check_devices():
    """Run under 8 devices: a step of two micro-batches on one of them and on all of them."""
    one, eight = make_layout(jax.devices()[:1]), make_layout()
    assert eight.mesh.size == 8
    _, state1, losses1 = run_steps(one, 2)
    _, state8, losses8 = run_steps(eight, 2)
    # Sums over the batch are taken in another order: float32 keeps 1e-5 of a loss.
    for a, b in zip(jax.tree.leaves(losses1), jax.tree.leaves(losses8), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(state1.batch_stats), jax.tree.leaves(state8.batch_stats), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # Adam's first moments are a tenth of the summed gradients. In float32 a relative change of 1e-7
    # in the input moves gradients by some percent (SPEC.md, section 7). So the limits are those
    # that hold there for their norms, and a gradient that is zero but for rounding is measured by
    # its module's.
    moments1, moments8 = (adam_of(s.opt_state).mu for s in (state1, state8))
    errors = []
    for module, tree in moments1.items():
        size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))
        assert size > 0, module
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(moments8[module]), strict=True):
            scale = max(np.linalg.norm(a), 1e-4 * size)
            errors.append(float(np.linalg.norm(np.subtract(a, b)) / scale))
    assert max(errors) < 0.05
    assert np.quantile(errors, 0.95) < 0.01
    # What that leaves of the parameters: Adam's first step is the learning rate times the sign of
    # the gradient, so one that is zero but for rounding may turn around, and few are.
    far = total = 0
    for a, b in zip(jax.tree.leaves(state1.params), jax.tree.leaves(state8.params), strict=True):
        far, total = far + np.sum(np.abs(np.subtract(a, b)) > 1e-5), total + a.size
    assert far < 0.05 * total, f"{far} of {total} parameters differ"


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__], check=True, env=environment)


@pytest.mark.slow
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    layout = make_layout()
    config = tiny_config()
    step, unbroken, losses = run_steps(layout, 3, config)
    assert int(unbroken.step) == 3
    assert all(np.isfinite(jax.tree.leaves(part)).all() for part in losses)

    settings = read(config)
    _, optimiser = things.make_training_step(settings, STEPS_PER_EPOCH, layout)
    current = layout.place(synthetic_state(config, things.make_model(settings), optimiser))
    for number in range(3):
        batch = layout.place_batch(synthetic_batch(config, number))
        current, _ = step(current, batch, jax.random.key(1))
        if number == 0:  # stop between two micro-batches, and start again from the files
            abstract = layout.shapes(current)
            items = {"step": current.step, "opt_state": current.opt_state}
            with CheckpointStore(tmp_path) as store:
                store.save(1, {VARIABLES: current.variables, OPTIMISER: items})
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
