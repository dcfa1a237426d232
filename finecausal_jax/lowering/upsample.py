"""Transposed convolutions whose kernel is twice their stride."""

from collections.abc import Sequence

import jax
from jax import lax

from finecausal_jax.lowering.convolution import convolve


def upsample(
    x: jax.Array, kernel: jax.Array, stride: Sequence[int], *, plain: bool = False
) -> jax.Array:
    """Transposed convolution whose kernel is twice its stride, as a dense 2-tap convolution.

    Equal to PyTorch's `ConvTranspose3d(kernel=2 * stride, stride=stride, padding=stride / 2)`:
    every block of `stride` outputs depends on two neighbouring inputs per axis, so the blocks are
    the channels of a convolution of size 2, which depth-to-space lays out. No zeros are multiplied,
    unlike with `lhs_dilation`, whose gradients are slow on every backend.

    Args:
      x: [n, t, h, w, i].
      kernel: [2 st, 2 sh, 2 sw, i, o], indexed by the offset of the output (not flipped).
      stride: (st, sh, sw), each even.
      plain: compute it as written, with zeros between the inputs.

    Returns:
      [n, t st, h sh, w sw, o].
    """
    if plain:
        return _with_zeros_between(x, kernel, stride)
    taps = tuple(stride)
    n, *space, _ = x.shape
    i, o = kernel.shape[3:]
    st, sh, sw = taps
    # Output block m is x[m - 1] . kernel[stride:] + x[m] . kernel[:stride] along each axis.
    split = kernel.reshape(2, st, 2, sh, 2, sw, i, o)[::-1, :, ::-1, :, ::-1]
    blocks_kernel = split.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(2, 2, 2, i, st * sh * sw * o)
    blocks = convolve(x, blocks_kernel, (1, 1, 1), ((1, 1),) * 3)  # [n, t+1, h+1, w+1, st sh sw o]
    t, h, w = (size + 1 for size in space)
    full = blocks.reshape(n, t, h, w, st, sh, sw, o).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    full = full.reshape(n, t * st, h * sh, w * sw, o)
    crop = tuple(slice(s // 2, s // 2 + size * s) for s, size in zip(taps, space, strict=True))
    return full[(slice(None), *crop)]


def _with_zeros_between(x: jax.Array, kernel: jax.Array, stride: Sequence[int]) -> jax.Array:
    """The transposed convolution as frameworks lower it."""
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1, ::-1],
        (1, 1, 1),
        [(2 * step - 1 - step // 2,) * 2 for step in stride],
        lhs_dilation=tuple(stride),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
