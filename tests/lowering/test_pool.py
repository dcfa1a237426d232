"""Max pools, ours and the plain form, against windows cut out one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.lowering import chunks
from finecausal_jax.lowering.pool import max_pool
from finecausal_jax.lowering.rectified import Normalised, relu

both_forms = pytest.mark.parametrize("plain", [False, True], ids=["ours", "plain"])


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@both_forms
@pytest.mark.parametrize(("size", "step", "length"), [(3, 1, 6), (3, 2, 7), (2, 2, 7), (3, 2, 8)])
def test_values_and_gradients(size, step, length, plain):
    x = random(2, length, length, 3)
    pad = max(size - step, 0)
    padding = ((pad // 2, pad - pad // 2),) * 2
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    count = -(-(padded.shape[1] - size) // step) + 1  # ceil mode
    want = np.stack(
        [
            np.stack(
                [
                    padded[:, i * step : i * step + size, j * step : j * step + size].max((1, 2))
                    for j in range(count)
                ],
                axis=1,
            )
            for i in range(count)
        ],
        axis=1,
    )

    @jax.jit
    def values_and_gradient_of_the_sum(x):
        def pool(x):
            return max_pool(x, (size, size), (step, step), padding, ceil=True, plain=plain)

        y, back = jax.vjp(pool, x)
        return y, back(jnp.ones_like(y))[0]

    values, gradient = values_and_gradient_of_the_sum(x)
    np.testing.assert_array_equal(values, want)
    # Without ties the gradient of a sum counts the windows in which an element is the largest.
    counts = np.zeros_like(padded)
    for i, j in itertools.product(range(count), range(count)):
        box = padded[:, i * step : i * step + size, j * step : j * step + size]
        counts[:, i * step : i * step + size, j * step : j * step + size] += box == box.max(
            (1, 2), keepdims=True
        )
    inner = tuple(slice(before, before + length) for before, _ in padding)
    np.testing.assert_array_equal(gradient, counts[(slice(None), *inner)])


@both_forms
def test_gradient_of_a_tie_goes_to_the_first(plain):
    @jax.jit
    @jax.grad
    def gradient(x):
        return jnp.sum(max_pool(x, (2,), (2,), ((0, 0),), plain=plain))

    ties = np.ones((1, 4, 1), np.float32)
    np.testing.assert_array_equal(np.ravel(gradient(ties)), [1, 0, 1, 0])


@both_forms
def test_a_last_window_that_is_not_whole(plain):
    x = -1 - jnp.arange(5, dtype=jnp.float32).reshape(1, 5, 1)
    pool = functools.partial(max_pool, x, (2,), (2,), ((0, 0),), plain=plain)
    np.testing.assert_array_equal(np.ravel(pool(ceil=True)), [-1, -3, -5])
    np.testing.assert_array_equal(np.ravel(pool(ceil=False)), [-1, -3])


@pytest.mark.parametrize("chunk_bytes", [1, 2**30])
def test_a_pool_of_a_relu_is_the_relu_of_the_pool(chunk_bytes, monkeypatch):
    """Values and gradients where the ReLU is left to the pool, one image at a time and at once."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    x = random(3, 6, 7, 2) - np.float32(0.5)
    rows = jnp.ones((3, 1, 1, 2))
    shape = (3, 3, 4, 2)
    gradient = jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradient(rectified, x):
        def pooled(x):
            return max_pool(rectified(x), (3, 3), (2, 2), [(0, 1)] * 2, ceil=True)

        y, back = jax.vjp(pooled, x)
        return y, back(gradient)[0]

    lazy = values_and_gradient(lambda x: relu(Normalised(x, x, rows, 0 * rows)), x)
    at_once = values_and_gradient(jax.nn.relu, x)
    assert at_once[0].shape == shape and np.any(at_once[0] == 0)
    for a, b in zip(lazy, at_once, strict=True):
        np.testing.assert_array_equal(a, b)
