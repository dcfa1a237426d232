"""Convolutions of a ReLU that is computed again, beside those of one that is kept."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.lowering.convolution import Rectified, convolve, join_rectified, max_pool
from finecausal_jax.models.layers import BatchNorm, Conv, conv_norm_relu

IMAGES = (4, 9, 8, 24)
CLIPS = (4, 2, 7, 6, 24)


@functools.cache
def kept(shape, window, stride, runs):
    """A loss of a convolution behind BatchNorm, its arguments, and the kept ReLU's results."""
    random = np.random.default_rng(len(shape))
    x = random.normal(1.0, 2.0, shape).astype(np.float32)
    kernel = random.normal(0.0, 0.1, (*window, shape[-1], 20)).astype(np.float32)
    padding = [(size // 2, size // 2) for size in window]
    norm = BatchNorm(shape[-1])
    params = {
        "scale": random.uniform(0.5, 1.5, shape[-1]).astype(np.float32),
        "bias": random.normal(0.0, 0.5, shape[-1]).astype(np.float32),
    }

    def loss(params, x, kernel, again):
        statistics = {"mean": jnp.zeros(shape[-1]), "var": jnp.ones(shape[-1])}
        rectified, _ = norm.apply(
            {"params": params, "batch_stats": statistics},
            x,
            runs=runs,
            method="rectified",
            mutable=["batch_stats"],
        )
        y = convolve(rectified if again else rectified.value, kernel, stride, padding)
        return jnp.sum(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) * y), y

    arguments = (params, x, kernel)
    return loss, arguments, gradients_and_values(loss, arguments, again=False)


def gradients_and_values(loss, arguments, again):
    grad = jax.grad(functools.partial(loss, again=again), argnums=(0, 1, 2), has_aux=True)
    return jax.tree.leaves(jax.device_get(jax.jit(grad)(*arguments)))


@pytest.mark.parametrize(
    ("shape", "window", "stride", "runs"),
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
    shape, window, stride, runs, chunk_bytes, monkeypatch
):
    loss, arguments, want = kept(shape, window, stride, runs)
    # One image at a time, and all at once.
    monkeypatch.setattr("finecausal_jax.lowering.convolution.CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr("finecausal_jax.lowering.winograd.CHUNK_BYTES", chunk_bytes)
    found = gradients_and_values(loss, arguments, again=True)
    for a, b in zip(want, found, strict=True):
        # Sums of some hundred terms in another order.
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6 * np.abs(a).max() * a.size**0.5)


class Folded(nn.Module):
    """Two convolutions around BatchNorm by running statistics; its ReLU made again, or kept."""

    again: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        shared = {"window": (3, 3), "padding": ((1, 1),) * 2, "dtype": self.dtype}
        first, norm = Conv(24, **shared), BatchNorm(24, dtype=self.dtype)
        unit = conv_norm_relu(first, norm, x, train=False)
        return Conv(20, **shared)(unit if self.again else Rectified(unit.normalised))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_folded_batch_norm(dtype):
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(0.0, 1.0, IMAGES), dtype)
    shapes = jax.eval_shape(Folded(True, dtype).init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: random.uniform(-0.2, 0.3, s.shape).astype(s.dtype), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])

    def loss(params, x, again):
        y = Folded(again, dtype).apply(variables | {"params": params}, x).astype(jnp.float32)
        return jnp.vdot(jnp.sin(jnp.arange(y.size, dtype=y.dtype)), y.ravel()), y

    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    found, want = (jax.tree.leaves(grad(variables["params"], x, again)) for again in (True, False))
    for a, b in zip(found, want, strict=True):
        assert np.any(np.asarray(b, np.float32))
        np.testing.assert_array_equal(a, b)


def test_the_relu_is_not_kept():
    """What the backward pass gets beside the kernel is what BatchNorm was given."""
    x = jnp.ones((2, 8, 8, 24))
    rows = jnp.ones((2, 1, 1, 24))
    kernel = jnp.ones((3, 3, 24, 20))

    def out(normalised, kernel):
        rectified = Rectified(normalised, x, rows, rows)
        return convolve(rectified, kernel, (1, 1), [(1, 1)] * 2)

    back = jax.jit(lambda *arguments: jax.vjp(out, *arguments)[1])(2 * x, kernel)
    residuals = [leaf for leaf in jax.tree.leaves(back) if leaf.shape == x.shape]
    assert len(residuals) == 1
    assert np.array_equal(residuals[0], x)


def test_without_a_source_the_relu_is_kept():
    normalised = jnp.linspace(-1.0, 1.0, 2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
    kernel = jnp.ones((3, 3, 3, 2))
    found = convolve(Rectified(normalised), kernel, (1, 1), [(1, 1)] * 2)
    want = convolve(jnp.maximum(normalised, 0), kernel, (1, 1), [(1, 1)] * 2)
    assert np.array_equal(found, want)


def test_joined_parts():
    """The ReLU of all parts, with its gradient, of which the result alone is kept."""
    x, y = jnp.array([[-2.0, 0.0]]), jnp.array([[1.0, -1.0, 3.0]])
    out, back = jax.vjp(join_rectified, [x, y])
    assert np.array_equal(out, [[0, 0, 1, 0, 3]])
    of_x, of_y = back(jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))[0]
    assert np.array_equal(of_x, [[0, 0]])
    assert np.array_equal(of_y, [[3, 0, 5]])
    (residual,) = (leaf for leaf in jax.tree.leaves(back) if getattr(leaf, "ndim", 0))
    assert np.array_equal(residual, out)


@pytest.mark.parametrize("chunk_bytes", [1, 2**30])
def test_joined_parts_a_few_images_at_a_time(chunk_bytes, monkeypatch):
    monkeypatch.setattr("finecausal_jax.lowering.convolution.CHUNK_BYTES", chunk_bytes)
    random = np.random.default_rng(0)
    parts = [random.normal(0, 1, (6, 3, 4, width)).astype("float32") for width in (5, 1, 3)]
    gradient = random.normal(0, 1, (6, 3, 4, 9)).astype("float32")

    def plain(parts):
        return jax.nn.relu(jnp.concatenate(parts, axis=-1))

    found, want = (value_and_gradient(form, parts, gradient) for form in (join_rectified, plain))
    for a, b in zip(found, want, strict=True):
        assert np.array_equal(a, b)


def test_a_rectified_pool():
    """Values and gradients of a pool and then a ReLU."""
    x = np.random.default_rng(0).normal(-0.5, 1.0, (3, 6, 7, 2)).astype("float32")
    pool = functools.partial(
        max_pool, window=(3, 3), stride=(2, 2), padding=[(0, 1)] * 2, ceil=True
    )
    shape = jax.eval_shape(pool, x).shape
    gradient = np.arange(1, 1 + np.prod(shape), dtype="float32").reshape(shape)
    found = value_and_gradient(functools.partial(pool, rectified=True), x, gradient)
    want = value_and_gradient(lambda x: jax.nn.relu(pool(x)), x, gradient)
    assert np.any(want[0] == 0)
    for a, b in zip(found, want, strict=True):
        assert np.array_equal(a, b)


def value_and_gradient(form, x, gradient):
    """What a form makes of `x`, and of the gradient of that."""

    @jax.jit
    def run(x, gradient):
        y, back = jax.vjp(form, x)
        return y, *jax.tree.leaves(back(gradient))

    return jax.device_get(run(x, gradient))
