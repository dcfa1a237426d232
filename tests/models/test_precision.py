"""bfloat16 and rematerialisation: what they may change, and what not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.i3d import I3D, Mixed
from finecausal_jax.models.layers import run_block
from finecausal_jax.models.static_encoder import BasicBlock, ResNet34
from finecausal_jax.training import steps

SMALL = {
    "frames": 16,
    "windows": 2,
    "window_frames": 8,
    "window_stride": 8,
    "width": 1 / 16,
    "frame_width": 1 / 8,
    "embedding": 8,
    "stage_frames": (4, 4, 4),
    "stage_margin": 1,
    "base_batch_norm": "batch",
}
VIDEO = (1, 16, 16, 16, 3)


MODE = {I3D: {"train": True}, ResNet34: {"train": True, "runs": 2}}


def shapes_of(model, *inputs):
    init = functools.partial(model.init, **MODE.get(type(model), {}))
    return jax.eval_shape(init, jax.random.key(0), *inputs)


def filled(shapes, seed=0):
    """Variables from NumPy: kernels that keep an activation's size, scales and variances near 1."""
    random = np.random.default_rng(seed)

    def fill(path, x):
        name = path[-1].key
        if name in ("scale", "var", "awl"):
            values = random.uniform(0.8, 1.2, x.shape)
        else:
            fan_in = max(1, int(np.prod(x.shape[:-1])))
            values = random.standard_normal(x.shape) * fan_in**-0.5
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def video(seed=0, shape=VIDEO):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def one_step(model, variables):
    """Losses, outputs and new statistics of a training step, without its gradients."""
    frames = video(1)
    videos = {
        "completeness": jnp.array([12.0, 9.0]),
        "transitions": jnp.array([[5, 11], [4, 12]], jnp.int32),
    }
    mask = jnp.asarray(np.random.default_rng(2).uniform(size=(2, *VIDEO[1:4])), jnp.float32)

    out, updates = model.apply(
        variables,
        frames,
        video(3),
        train=True,
        transitions=videos["transitions"],
        rngs={"dropout": jax.random.key(1)},
        mutable=["batch_stats"],
    )
    parts = steps.pair_losses(variables["params"], out, videos, mask, model.window_stride)
    return parts, out, updates["batch_stats"]


@pytest.fixture(scope="module")
def traced_step():
    """A training step in bfloat16 with rematerialisation: variables, jaxpr, shapes of the result.

    Traced once and never compiled, which takes minutes.
    """
    model = FineCausal(**SMALL, dtype=jnp.bfloat16, remat="blocks")
    variables = shapes_of(model, video(), video())
    step = functools.partial(one_step, model)
    return variables, *jax.make_jaxpr(step, return_shape=True)(variables)


def test_all_that_is_kept_stays_float32_in_bfloat16(traced_step):
    variables, _, (losses, outputs, stats) = traced_step
    kept = {"variables": variables, "losses": losses, "outputs": outputs, "stats": stats}
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
        expected = jnp.int32 if path[-1] == jax.tree_util.GetAttrKey("transitions") else jnp.float32
        assert leaf.dtype == expected, jax.tree_util.keystr(path)


def test_convolutions_are_bfloat16(traced_step):
    _, traced, _ = traced_step
    convolutions = [e for e in _equations(traced.jaxpr) if e.primitive.name.startswith("conv_gen")]
    assert {str(e.invars[0].aval.dtype) for e in convolutions} == {"bfloat16"}


def test_remat_reaches_every_block(traced_step):
    _, traced, _ = traced_step
    count = sum(equation.primitive.name == "remat2" for equation in _equations(traced.jaxpr))
    # Two trunks of 3 units and 9 Inception blocks each, and 16 blocks of ResNet-34.
    assert count >= 2 * 12 + 16


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)


@pytest.mark.slow
def test_bfloat16_stays_close():
    outputs = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        model = FineCausal(**SMALL, dtype=dtype)
        variables = filled(shapes_of(model, video(), video()))
        outputs[dtype] = jax.jit(model.apply)(variables, video(1), video(2))
    exact, rounded = outputs.values()
    # bfloat16 rounds by up to 1/256. Errors of 57 rounded layers in a row, as independent as those
    # of random weights are, add up to about sqrt(57) / 256 = 3 % of an activation; thrice that for
    # the largest of many, and for what normalisation makes of it.
    for name in ("video_feature", "mask_feature", "causal_feature", "static_feature"):
        want, found = np.asarray(getattr(exact, name)), np.asarray(getattr(rounded, name))
        error = np.abs(found - want).max() / np.abs(want).max()
        assert 0 < error < 0.1, name
    np.testing.assert_allclose(rounded.delta, exact.delta, atol=0.1 * np.abs(exact.delta).max())
    # A softmax computed in bfloat16 would miss 1 by some 1e-3.
    np.testing.assert_allclose(rounded.temporal_attention.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(rounded.spatial_attention_layer1.sum(-1), 1, atol=1e-5)


class TwoBlocks(nn.Module):
    """The kinds of block that the network recomputes, for tests that have to compile quickly."""

    remat: str = "none"

    @nn.compact
    def __call__(self, x, *, train):
        x = run_block(Mixed((2, 2, 3, 1, 2, 2), name="mixed"), x, remat=self.remat, train=train)
        images = x.reshape(-1, *x.shape[2:])
        block = BasicBlock(4, 2, name="basic")
        return run_block(block, images, remat=self.remat, train=train, runs=2)


MODE[TwoBlocks] = {"train": True}


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (TwoBlocks(), (2, 2, 6, 6, 3)),
        pytest.param(I3D(1 / 16), (2, 8, 16, 16, 3), marks=pytest.mark.slow),
        pytest.param(ResNet34(1 / 8), (4, 32, 32, 3), marks=pytest.mark.slow),
    ],
    ids=["blocks", "trunk", "static encoder"],
)
def test_remat_changes_neither_names_nor_gradients(module, shape):
    clips, mode = video(1, shape), MODE[type(module)]
    again = module.copy(remat="blocks")
    shapes = shapes_of(module, clips)
    assert shapes == shapes_of(again, clips)
    variables = filled(shapes)

    def run(module):
        def loss_of(params):
            out, updates = module.apply(
                {"params": params, "batch_stats": variables["batch_stats"]},
                clips,
                **mode,
                mutable=["batch_stats"],
            )
            return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out)), updates

        return jax.value_and_grad(loss_of, has_aux=True)

    assert "remat" in str(jax.make_jaxpr(run(again))(variables["params"]))
    (loss, stats), gradients = jax.jit(run(module))(variables["params"])
    (loss2, stats2), gradients2 = jax.jit(run(again))(variables["params"])
    # The same operations in the same order, but fused otherwise: rounding of float32.
    np.testing.assert_allclose(loss2, loss, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves((stats, gradients)), jax.tree.leaves((stats2, gradients2)), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * float(jnp.abs(a).max()))


@pytest.mark.parametrize(("key", "value"), [("remat", "all"), ("dtype", jnp.float16)])
def test_unknown_choices_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key}=.*is none of"):
        shapes_of(FineCausal(**SMALL, **{key: value}), video(), video())
