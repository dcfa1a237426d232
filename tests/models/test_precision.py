"""bfloat16 and rematerialisation: what they may change, and what not."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from finecausal_jax.lowering.convolution import Rectified
from finecausal_jax.models import i3d, static_encoder
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.i3d import I3D, ConvUnit, Mixed
from finecausal_jax.models.layers import run_block
from finecausal_jax.models.static_encoder import BasicBlock, ResNet34
from finecausal_jax.training import steps
from finecausal_jax.verification.forward import attention_matrix

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


def first_step(model):
    """Losses, outputs and all variables of a training step, without its gradients.

    The variables are made as the step gets to them: `init` would be traced as long again.
    """
    frames = video(1)
    videos = {
        "completeness": jnp.array([12.0, 9.0]),
        "transitions": jnp.array([[5, 11], [4, 12]], jnp.int32),
    }
    mask = jnp.asarray(np.random.default_rng(2).uniform(size=(2, *VIDEO[1:4])), jnp.float32)

    out, variables = model.apply(
        {},
        frames,
        video(3),
        train=True,
        transitions=videos["transitions"],
        rngs={"params": jax.random.key(0), "dropout": jax.random.key(1)},
        mutable=["params", "batch_stats"],
    )
    parts = steps.pair_losses(variables["params"], out, videos, mask, model.window_stride)
    return parts, out, variables


class OneUnit(nn.Module):
    """The channels of an Inception block, by one of its six units."""

    channels: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train):
        b0, _, b1, _, b2, b3 = self.channels
        return ConvUnit(b0 + b1 + b2 + b3, dtype=self.dtype, name="unit")(x, train=train).value


@pytest.fixture(
    scope="module",
    params=["smaller blocks", pytest.param("whole", marks=pytest.mark.slow)],
)
def traced_step(request):
    """A training step in bfloat16 with rematerialisation: jaxpr, shapes of the result, blocks.

    Traced once and never compiled, which takes minutes.
    """
    model = FineCausal(**SMALL, dtype=jnp.bfloat16, remat="blocks")
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "whole":
            patch.setattr(i3d, "Mixed", OneUnit)
            patch.setattr(static_encoder, "BLOCKS", (1, 1, 1, 1))
        traced = jax.make_jaxpr(functools.partial(first_step, model), return_shape=True)()
        # Two trunks of 3 units and 9 Inception blocks each, and the blocks of ResNet-34.
        return *traced, 2 * 12 + sum(static_encoder.BLOCKS)


def test_all_that_is_kept_stays_float32_in_bfloat16(traced_step):
    _, (losses, outputs, variables), _ = traced_step
    assert set(variables) == {"params", "batch_stats"}
    kept = {"variables": variables, "losses": losses, "outputs": outputs}
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
        expected = jnp.int32 if path[-1] == jax.tree_util.GetAttrKey("transitions") else jnp.float32
        assert leaf.dtype == expected, jax.tree_util.keystr(path)


def test_convolutions_are_bfloat16(traced_step):
    traced, _, _ = traced_step
    assert set(_dtypes_of_convolutions(traced)) == {"bfloat16"}


def test_convolutions_of_an_inception_block_are_bfloat16():
    block, x = Mixed((2, 2, 3, 1, 2, 2), jnp.bfloat16), video(1, (1, 2, 4, 4, 3))
    init = functools.partial(block.init, train=True)
    variables = jax.eval_shape(init, jax.random.key(0), x)
    apply = functools.partial(block.apply, train=True, mutable=["batch_stats"])
    traced, (out, stats) = jax.make_jaxpr(apply, return_shape=True)(variables, x)
    dtypes = _dtypes_of_convolutions(traced)
    assert len(dtypes) >= 6 and set(dtypes) == {"bfloat16"}
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, stats))} == {jnp.dtype("float32")}


def test_remat_reaches_every_block(traced_step):
    traced, _, blocks = traced_step
    count = sum(equation.primitive.name == "remat2" for equation in _equations(traced.jaxpr))
    assert count >= blocks


def _dtypes_of_convolutions(traced):
    found = (e for e in _equations(traced.jaxpr) if e.primitive.name.startswith("conv_gen"))
    return [str(equation.invars[0].aval.dtype) for equation in found]


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
    matrix = attention_matrix(rounded, "spatial_attention_layer1")  # [head, target, source]
    np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-5)


class TwoBlocks(nn.Module):
    """The kinds of block that the network recomputes, for tests that have to compile quickly."""

    inception: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, x, *, train):
        first = ConvUnit(4, (3, 3, 3), name="unit")
        if self.inception:
            first = Mixed((2, 2, 3, 1, 2, 2), name="mixed")
        x = run_block(first, x, remat=self.remat, train=train)
        x = x.value if isinstance(x, Rectified) else x
        images = x.reshape(-1, *x.shape[2:])
        block = BasicBlock(4, 2 if self.inception else 1, name="basic")
        return run_block(block, images, remat=self.remat, train=train, runs=2)


MODE[TwoBlocks] = {"train": True}


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (TwoBlocks(), (2, 2, 6, 6, 3)),
        pytest.param(TwoBlocks(inception=True), (2, 2, 6, 6, 3), marks=pytest.mark.slow),
        pytest.param(I3D(1 / 16), (2, 8, 16, 16, 3), marks=pytest.mark.slow),
        pytest.param(ResNet34(1 / 8), (4, 32, 32, 3), marks=pytest.mark.slow),
    ],
    ids=["blocks", "Inception block", "trunk", "static encoder"],
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

        traced = jax.jit(jax.value_and_grad(loss_of, has_aux=True)).trace(variables["params"])
        again = any(e.primitive.name == "remat2" for e in _equations(traced.jaxpr.jaxpr))
        return again, jax.device_get(traced.lower().compile()(variables["params"]))

    is_again, ((loss, stats), gradients) = run(module)
    assert not is_again
    is_again, ((loss2, stats2), gradients2) = run(again)
    assert is_again
    # The same operations in the same order, but fused otherwise: rounding of float32.
    np.testing.assert_allclose(loss2, loss, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves((stats, gradients)), jax.tree.leaves((stats2, gradients2)), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize(("key", "value"), [("remat", "all"), ("dtype", jnp.float16)])
def test_unknown_choices_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key}=.*is none of"):
        shapes_of(FineCausal(**SMALL, **{key: value}), video(), video())
