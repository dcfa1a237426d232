"""Convolutions and pools against XLA's own, values and gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from finecausal_jax.lowering.convolution import convolve, max_pool, upsample

# float32 sums of up to 1000 products in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def direct(x, kernel, stride, padding):
    numbers = {5: ("NDHWC", "DHWIO", "NDHWC"), 4: ("NHWC", "HWIO", "NHWC")}[x.ndim]
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=numbers)


@pytest.mark.parametrize(
    ("space", "window", "stride", "channels", "features"),
    [
        # Images too small for Winograd's algorithm, whose rounding `test_winograd` is about.
        ((6, 6, 6), (7, 7, 7), (2, 2, 2), 3, 4),  # a stem: space-to-depth on a CPU
        ((5, 7, 6), (3, 3, 3), (1, 1, 1), 5, 4),
        ((4, 4, 4), (1, 1, 1), (1, 1, 1), 5, 4),
        ((3, 3, 3), (3, 3, 3), (1, 1, 1), 32, 32),  # wide: the kernel's gradient in 3-D
        ((5, 4), (3, 3), (2, 2), 32, 32),
        ((3, 4, 5), (2, 2, 2), (1, 1, 1), 2, 16),  # few to many: a product with patches
        ((3, 4, 5), (2, 2, 2), (1, 1, 1), 16, 8),  # the same for the kernel's gradient alone
        ((8, 8), (7, 7), (2, 2), 3, 512),
        ((9, 8), (7, 7), (2, 2), 3, 4),
        ((7, 6), (4, 5), (2, 2), 3, 4),
        ((8, 8), (1, 1), (2, 2), 6, 4),
    ],
)
def test_convolution_equals_the_direct_one(space, window, stride, channels, features):
    x, kernel = random(2, *space, channels), random(*window, channels, features, seed=1)
    padding = [((w - 1) // 2, w - 1 - (w - 1) // 2) for w in window]

    @functools.partial(jax.jit, static_argnums=0)
    def run(function, x, kernel):
        y, of_both = jax.vjp(lambda x, kernel: function(x, kernel, stride, padding), x, kernel)
        # Over the number of features, so that gradients keep the size that TOLERANCE is for.
        return y, *of_both(jnp.cos(y) / kernel.shape[-1] ** 0.5)

    for a, b in zip(run(convolve, x, kernel), run(direct, x, kernel), strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


def test_upsample_is_a_transposed_convolution():
    # Every input adds its kernel, scaled, at stride times its place minus a quarter of the kernel.
    stride = (2, 4, 4)
    x, kernel = random(1, 2, 3, 2, 2), random(4, 8, 8, 2, 3, seed=1)
    size = [n * s for n, s in zip(x.shape[1:4], stride, strict=True)]
    want = np.zeros((1, *size, 3))
    for place in itertools.product(*(range(n) for n in x.shape[1:4])):
        for offset in itertools.product(*(range(k) for k in kernel.shape[:3])):
            at = [p * s - s // 2 + o for p, s, o in zip(place, stride, offset, strict=True)]
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                want[(0, *at)] += x[(0, *place)] @ kernel[offset]
    found = jax.jit(functools.partial(upsample, stride=stride))(x, kernel)
    np.testing.assert_allclose(found, want, **TOLERANCE)


@pytest.mark.parametrize(("size", "step", "length"), [(3, 1, 6), (3, 2, 7), (2, 2, 7), (3, 2, 8)])
def test_max_pool_values_and_gradients(size, step, length):
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
            return max_pool(x, (size, size), (step, step), padding, ceil=True)

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


def test_gradient_of_a_tie_goes_to_the_first():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, (2,), (2,), ((0, 0),)))))
    ties = np.ones((1, 4, 1), np.float32)
    np.testing.assert_array_equal(np.ravel(gradient(ties)), [1, 0, 1, 0])
