"""Winograd's algorithm against the plain convolution: values, gradients and where it is used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.lowering import chunks, winograd
from finecausal_jax.lowering.convolution import convolve

# Of the largest value. The transforms round about four times as much as a plain float32 sum, whose
# error at these sizes is 5e-7.
ROUNDING = 1e-5


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def direct(x, kernel, padding):
    return convolve(x, kernel, (1,) * (x.ndim - 2), padding, plain=True)


def results(form, x, kernel, gradient=None):
    """Values and gradients of a form; `gradient` is by the values, or those again."""

    @jax.jit
    def run(x, kernel, gradient):
        y, of_both = jax.vjp(form, x, kernel)
        return y, *of_both(y if gradient is None else gradient)

    return jax.device_get(run(x, kernel, gradient))


def assert_same(ours, plain):
    """That the results of two forms agree."""
    for a, b in zip(ours, plain, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error < ROUNDING, f"differs by {error:.1e} of the largest value"


@pytest.mark.parametrize(
    ("space", "window", "padding", "channels", "features"),
    [
        ((3, 8, 8), (3, 3, 3), ((1, 1), (1, 1), (1, 1)), 16, 8),
        ((2, 7, 9), (3, 3, 3), ((1, 1), (1, 1), (1, 1)), 16, 3),  # tiles that are cut off
        ((1, 7, 9), (3, 3, 3), ((1, 1), (1, 1), (1, 1)), 16, 3),  # an image of one frame
        ((3, 4, 4), (3, 3, 3), ((1, 1), (1, 1), (1, 1)), 32, 32),  # the smallest image, wide
        ((4, 8, 10), (1, 4, 4), ((0, 0), (1, 2), (1, 2)), 5, 6),  # a stem in planar form
        ((4, 9, 8), (2, 4, 4), ((0, 0), (2, 1), (0, 3)), 4, 4),
        ((1, 8, 8), (1, 3, 3), ((0, 0), (0, 0), (0, 0)), 4, 4),  # nothing padded
        ((7, 7), (3, 3), ((1, 1), (1, 1)), 16, 4),
        ((6, 11), (3, 3), ((2, 0), (0, 2)), 3, 5),
        ((8, 8), (4, 4), ((1, 2), (1, 2)), 12, 4),
    ],
)
def test_values_and_gradients_equal_the_direct_ones(space, window, padding, channels, features):
    x, kernel = random(3, *space, channels), random(*window, channels, features, seed=1)
    forms = (functools.partial(form, padding=padding) for form in (winograd.convolve, direct))
    out = jax.eval_shape(functools.partial(direct, padding=padding), x, kernel)
    gradient = random(*out.shape, seed=2)
    assert_same(*(results(form, x, kernel, gradient) for form in forms))


@pytest.mark.parametrize("space", [(6, 16, 16), (5, 18, 12)])
def test_a_stem_equals_the_direct_one(space):
    """By space-to-depth, its temporal taps as channels of planar tiles."""
    x, kernel, padding = random(2, *space, 3), random(7, 7, 7, 3, 4, seed=1), ((2, 3),) * 3

    def stem(x, kernel, plain):
        return convolve(x, kernel, (2, 2, 2), padding, plain=plain)

    forms = (functools.partial(stem, plain=plain) for plain in (False, True))
    assert_same(*(results(form, x, kernel) for form in forms))


@pytest.fixture(scope="module")
def six_videos():
    """Videos, a kernel, and the plain convolution's results."""
    x, kernel = random(6, 2, 8, 8, 16), random(3, 3, 3, 16, 4, seed=1)
    plain = functools.partial(direct, padding=((1, 1),) * 3)
    return x, kernel, results(plain, x, kernel)


@pytest.mark.parametrize("videos_at_once", [1, 2, 3, 6])
def test_nothing_depends_on_how_many_are_taken_together(monkeypatch, videos_at_once, six_videos):
    x, kernel, plain = six_videos
    of_one = 4 * 144 * 4 * 16  # bytes of a video's tiles: 4 x 6 x 6 products of 1 x 2 x 2 tiles
    monkeypatch.setattr(chunks, "CHUNK_BYTES", videos_at_once * of_one)
    padding = ((1, 1),) * 3
    axes = winograd._axes(x.shape, kernel.shape, padding)
    assert winograd._chunk(x.shape, kernel.shape, axes) == videos_at_once
    assert_same(results(functools.partial(winograd.convolve, padding=padding), x, kernel), plain)


@pytest.mark.parametrize(("tile", "taps"), [(1, 1), (4, 2), (2, 3), (4, 3), (2, 4), (4, 4)])
def test_transforms_are_exact(tile, taps):
    """In float64, for every pair of a unit input and a unit tap: an identity of numbers."""
    transforms = winograd._transforms(tile, taps)
    for place in range(tile + taps - 1):
        for tap in range(taps):
            product = transforms.kernel[:, tap] * transforms.input[:, place]
            want = np.array([float(out + tap == place) for out in range(tile)])
            np.testing.assert_allclose(transforms.output @ product, want, atol=1e-12)


def arrays(space, window, channels, dtype=jnp.float32):
    return (
        jnp.zeros((2, *space, channels), dtype),
        jnp.zeros((*window, channels, 8), dtype),
    )


def test_where_it_is_used():
    assert winograd.suits(*arrays((4, 7, 7), (3, 3, 3), 16), (1, 1, 1))
    assert winograd.suits(*arrays((8, 56, 56), (1, 4, 4), 96), (1, 1, 1))
    assert winograd.suits(*arrays((28, 28), (3, 3), 64), (1, 1))


@pytest.mark.parametrize(
    ("space", "window", "channels", "dtype", "stride"),
    [
        pytest.param((4, 7, 7), (3, 3, 3), 16, jnp.bfloat16, (1, 1, 1), id="bfloat16"),
        pytest.param((4, 8, 8), (3, 3, 3), 16, jnp.float32, (1, 2, 2), id="stride"),
        pytest.param((4, 3, 8), (3, 3, 3), 16, jnp.float32, (1, 1, 1), id="small"),
        pytest.param((4, 7, 7), (3, 3, 3), 12, jnp.float32, (1, 1, 1), id="few channels"),
        pytest.param((4, 7, 7), (3, 2, 2), 16, jnp.float32, (1, 1, 1), id="two taps"),
        pytest.param((4, 7, 7), (4, 4, 4), 16, jnp.float32, (1, 1, 1), id="rounds too much"),
        pytest.param((4, 7, 7), (3, 3, 4), 16, jnp.float32, (1, 1, 1), id="oblong"),
        pytest.param((16,), (3,), 16, jnp.float32, (1,), id="one dimension"),
    ],
)
def test_where_it_is_not_used(space, window, channels, dtype, stride):
    assert not winograd.suits(*arrays(space, window, channels, dtype), stride)


def test_a_convolution_on_a_cpu_goes_this_way():
    """The stem in space-to-depth form and a 3x3x3, seen by what is left of them: no convolution."""
    clip, kernel = random(1, 4, 16, 16, 3), random(7, 7, 7, 3, 2, seed=1)
    stem = jax.jit(lambda x, k: convolve(x, k, (2, 2, 2), ((2, 3),) * 3)).lower(clip, kernel)
    x, kernel = random(1, 2, 8, 8, 16), random(3, 3, 3, 16, 2, seed=1)
    layer = jax.jit(lambda x, k: convolve(x, k, (1, 1, 1), ((1, 1),) * 3)).lower(x, kernel)
    for lowered in (stem, layer):
        text = lowered.as_text()
        assert "convolution" not in text and "dot_general" in text
