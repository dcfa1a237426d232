"""ReLUs that are left to what comes next, beside those that are computed and kept."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.lowering import chunks
from finecausal_jax.lowering.batch_norm import batch_norm
from finecausal_jax.lowering.convolution import convolve
from finecausal_jax.lowering.rectified import (
    Normalised,
    Rectified,
    add,
    concatenate,
    relu,
    value_of,
)
from finecausal_jax.models.layers import BatchNorm, Conv, conv_norm

IMAGES = (4, 9, 8, 24)
CLIPS = (4, 2, 7, 6, 24)


@functools.cache
def kept(shape, window, stride, groups):
    """A loss of a convolution behind BatchNorm, its arguments, and the kept ReLU's results."""
    random = np.random.default_rng(len(shape))
    x = random.normal(1.0, 2.0, shape).astype(np.float32)
    kernel = random.normal(0.0, 0.1, (*window, shape[-1], 20)).astype(np.float32)
    padding = [(size // 2, size // 2) for size in window]
    scale = random.uniform(0.5, 1.5, shape[-1]).astype(np.float32)
    bias = random.normal(0.0, 0.5, shape[-1]).astype(np.float32)

    def loss(scale, bias, x, kernel, lazy):
        normalised, *_ = batch_norm(x, scale, bias, 1e-5, groups=groups)
        rectified = relu(normalised)
        y = convolve(rectified if lazy else rectified.value, kernel, stride, padding)
        return jnp.sum(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) * y), y

    arguments = (scale, bias, x, kernel)
    return loss, arguments, gradients_and_values(loss, arguments, lazy=False)


def gradients_and_values(loss, arguments, lazy):
    grad = jax.grad(functools.partial(loss, lazy=lazy), argnums=(0, 1, 2, 3), has_aux=True)
    return jax.tree.leaves(jax.device_get(jax.jit(grad)(*arguments)))


@pytest.mark.parametrize(
    ("shape", "window", "stride", "groups"),
    [
        (IMAGES, (3, 3), (1, 1), 2),  # Winograd's algorithm
        (CLIPS, (3, 3, 3), (1, 1, 1), 1),
        (CLIPS, (1, 1, 1), (1, 1, 1), 1),  # a product, a few clips at a time
        (IMAGES, (1, 1), (2, 2), 2),
        (IMAGES, (3, 3), (2, 2), 2),  # neither
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 2**30])
def test_values_and_gradients_are_those_of_the_kept_relu(
    shape, window, stride, groups, chunk_bytes, monkeypatch
):
    loss, arguments, want = kept(shape, window, stride, groups)
    # One image at a time, and all at once.
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    found = gradients_and_values(loss, arguments, lazy=True)
    for a, b in zip(want, found, strict=True):
        # Sums of some hundred terms in another order.
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6 * np.abs(a).max() * a.size**0.5)


class Folded(nn.Module):
    """Two convolutions around BatchNorm by running statistics; its ReLU left to the next, or not.

    Or all as written.
    """

    form: str
    dtype: Any

    @nn.compact
    def __call__(self, x):
        how = {"dtype": self.dtype, "plain": self.form == "plain"}
        first = Conv(24, (3, 3), padding=((1, 1),) * 2, **how)
        unit = relu(conv_norm(first, BatchNorm(24, **how), x, train=False))
        assert isinstance(unit, Rectified) == (self.form != "plain")
        second = Conv(20, (3, 3), padding=((1, 1),) * 2, **how)
        return second(value_of(unit) if self.form == "kept" else unit)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_folded_batch_norm(dtype):
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(0.0, 1.0, IMAGES), dtype)
    shapes = jax.eval_shape(Folded("plain", dtype).init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: random.uniform(-0.2, 0.3, s.shape).astype(s.dtype), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])

    def loss(params, x, form):
        y = Folded(form, dtype).apply(variables | {"params": params}, x).astype(jnp.float32)
        return jnp.vdot(jnp.sin(jnp.arange(y.size, dtype=y.dtype)), y.ravel()), y

    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    lazy, kept, plain = (
        jax.tree.leaves(grad(variables["params"], x, form)) for form in ("lazy", "kept", "plain")
    )
    for a, b in zip(lazy, kept, strict=True):
        assert np.any(np.asarray(b, np.float32))
        np.testing.assert_array_equal(a, b)
    # Sums in another order, 1e-6 of the largest value. In bfloat16 values round elsewhere, 3e-3,
    # and by that a ReLU may open or close, which shows in the gradients.
    compared, rounding = (slice(None), 1e-5) if dtype == jnp.float32 else (slice(-1, None), 1e-2)
    for a, b in zip(lazy[compared], plain[compared], strict=True):
        a, b = (np.asarray(values, np.float32) for values in (a, b))
        assert np.abs(a - b).max() < rounding * np.abs(b).max()


def test_the_relu_is_not_kept():
    """What the backward pass gets beside the kernel is what BatchNorm was given."""
    x = jnp.ones((2, 8, 8, 24))
    rows = jnp.ones((2, 1, 1, 24))
    kernel = jnp.ones((3, 3, 24, 20))

    def out(value, kernel):
        return convolve(relu(Normalised(value, x, rows, rows)), kernel, (1, 1), [(1, 1)] * 2)

    back = jax.jit(lambda *arguments: jax.vjp(out, *arguments)[1])(2 * x, kernel)
    residuals = [leaf for leaf in jax.tree.leaves(back) if leaf.shape == x.shape]
    assert len(residuals) == 1
    assert np.array_equal(residuals[0], x)


def test_a_relu_of_an_array_is_computed():
    np.testing.assert_array_equal(relu(jnp.array([-1.0, 2.0])), [0, 2])


def test_a_sum_takes_what_batch_norm_made():
    value, rows = jnp.array([[-1.0, 2.0]]), jnp.ones((1, 2))
    found = add(Normalised(value, value, rows, rows), jnp.array([[3.0, 4.0]]))
    np.testing.assert_array_equal(found, [[2, 6]])


def rectified(value):
    """A ReLU that is left to what comes next."""
    rows = jnp.ones((len(value), *(1,) * (value.ndim - 2), value.shape[-1]))
    return relu(Normalised(value, value, rows, 0 * rows))


def joined(parts):
    return concatenate([rectified(part) for part in parts])


def joined_as_written(parts):
    return concatenate([jax.nn.relu(part) for part in parts])


def test_joined_parts():
    """The ReLU of all parts, with its gradient, of which the result alone is kept."""
    x, y = jnp.array([[-2.0, 0.0]]), jnp.array([[1.0, -1.0, 3.0]])
    out, back = jax.vjp(joined, [x, y])
    assert np.array_equal(out, [[0, 0, 1, 0, 3]])
    of_x, of_y = back(jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))[0]
    assert np.array_equal(of_x, [[0, 0]])
    assert np.array_equal(of_y, [[3, 0, 5]])
    (residual,) = (leaf for leaf in jax.tree.leaves(back) if getattr(leaf, "ndim", 0))
    assert np.array_equal(residual, out)


@pytest.mark.parametrize("chunk_bytes", [1, 2**30])
def test_joined_parts_a_few_images_at_a_time(chunk_bytes, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    random = np.random.default_rng(0)
    parts = [random.normal(0, 1, (6, 3, 4, width)).astype("float32") for width in (5, 1, 3)]
    gradient = jnp.asarray(random.normal(0, 1, (6, 3, 4, 9)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(form, parts):
        y, back = jax.vjp(form, parts)
        return y, *back(gradient)[0]

    found, want = (value_and_gradient(form, parts) for form in (joined, joined_as_written))
    for a, b in zip(found, want, strict=True):
        assert np.array_equal(a, b)
