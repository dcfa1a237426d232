"""Convolutions against their plain form, XLA's own: values and gradients."""

import functools
import itertools

import jax
import numpy as np
import pytest

from finecausal_jax.lowering.convolution import convolve
from finecausal_jax.lowering.upsample import upsample

# float32 sums of up to 1000 products in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def in_both_forms(function, x, kernel, *options):
    """Values and both gradients of a function, then of its plain form."""

    @functools.partial(jax.jit, static_argnames="plain")
    def run(x, kernel, plain):
        form = functools.partial(function, plain=plain)
        y, of_both = jax.vjp(lambda x, kernel: form(x, kernel, *options), x, kernel)
        # Over the number of features, so that gradients keep the size that TOLERANCE is for.
        return y, *of_both(jax.numpy.cos(y) / kernel.shape[-1] ** 0.5)

    return (jax.device_get(run(x, kernel, plain=plain)) for plain in (False, True))


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
        ((9,), (3,), (1,), 4, 5),
    ],
)
def test_convolution_equals_the_plain_one(space, window, stride, channels, features):
    x, kernel = random(2, *space, channels), random(*window, channels, features, seed=1)
    padding = [((w - 1) // 2, w - 1 - (w - 1) // 2) for w in window]
    for a, b in zip(*in_both_forms(convolve, x, kernel, stride, padding), strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


@pytest.fixture(scope="module")
def upsampled():
    """A signal, a kernel and a stride, and their results in both forms."""
    stride = (2, 4, 4)
    x, kernel = random(1, 2, 3, 2, 2), random(4, 8, 8, 2, 3, seed=1)
    return x, kernel, stride, *in_both_forms(upsample, x, kernel, stride)


def test_upsample_is_a_transposed_convolution(upsampled):
    # Every input adds its kernel, scaled, at stride times its place minus a quarter of the kernel.
    x, kernel, stride, (found, *_), _ = upsampled
    size = [n * s for n, s in zip(x.shape[1:4], stride, strict=True)]
    want = np.zeros((1, *size, 3))
    for place in itertools.product(*(range(n) for n in x.shape[1:4])):
        for offset in itertools.product(*(range(k) for k in kernel.shape[:3])):
            at = [p * s - s // 2 + o for p, s, o in zip(place, stride, offset, strict=True)]
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                want[(0, *at)] += x[(0, *place)] @ kernel[offset]
    np.testing.assert_allclose(found, want, **TOLERANCE)


def test_upsample_equals_the_plain_one(upsampled):
    *_, ours, plain = upsampled
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)
