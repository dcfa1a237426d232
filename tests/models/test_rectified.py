"""Convolutions of a ReLU that is computed again, beside those of one that is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models.convolution import Rectified, convolve
from finecausal_jax.models.layers import BatchNorm

IMAGES = (4, 9, 8, 24)
CLIPS = (4, 2, 7, 6, 24)


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
    # One image at a time, and all at once.
    monkeypatch.setattr("finecausal_jax.models.convolution.CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr("finecausal_jax.models.winograd.CHUNK_BYTES", chunk_bytes)
    random = np.random.default_rng(len(shape))
    x = random.normal(1.0, 2.0, shape).astype(np.float32)
    kernel = random.normal(0.0, 0.1, (*window, shape[-1], 20)).astype(np.float32)
    padding = [(size // 2, size // 2) for size in window]
    norm = BatchNorm(shape[-1])
    params = {
        "scale": random.uniform(0.5, 1.5, shape[-1]).astype(np.float32),
        "bias": random.normal(0.0, 0.5, shape[-1]).astype(np.float32),
    }
    statistics = {"mean": jnp.zeros(shape[-1]), "var": jnp.ones(shape[-1])}

    def out(params, x, kernel, again):
        rectified, _ = norm.apply(
            {"params": params, "batch_stats": statistics},
            x,
            runs=runs,
            method="rectified",
            mutable=["batch_stats"],
        )
        return convolve(rectified if again else rectified.value, kernel, stride, padding)

    def loss(*arguments):
        y = out(*arguments)
        return jnp.sum(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) * y), y

    both = {
        again: jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnums=3)(
            params, x, kernel, again
        )
        for again in (False, True)
    }
    want, found = (jax.tree.leaves(both[again]) for again in (False, True))
    for a, b in zip(want, found, strict=True):
        # Sums of some hundred terms in another order.
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6 * np.abs(a).max() * a.size**0.5)


def test_the_relu_is_not_kept():
    """What the backward pass gets beside the kernel is what BatchNorm was given."""
    x = jnp.ones((2, 8, 8, 24))
    rows = jnp.ones((2, 1, 1, 24))
    kernel = jnp.ones((3, 3, 24, 20))

    def out(normalised, kernel):
        rectified = Rectified(normalised, x, rows, rows)
        return convolve(rectified, kernel, (1, 1), [(1, 1)] * 2)

    _, back = jax.vjp(out, 2 * x, kernel)
    kept = [leaf for leaf in jax.tree.leaves(back) if leaf.shape == x.shape]
    assert len(kept) == 1
    assert np.array_equal(kept[0], x)


def test_without_a_source_the_relu_is_kept():
    normalised = jnp.linspace(-1.0, 1.0, 2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
    kernel = jnp.ones((3, 3, 3, 2))
    found = convolve(Rectified(normalised), kernel, (1, 1), [(1, 1)] * 2)
    want = convolve(jnp.maximum(normalised, 0), kernel, (1, 1), [(1, 1)] * 2)
    assert np.array_equal(found, want)
