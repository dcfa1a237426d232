"""First layers: their pixels gathered into channels, since three starve a CPU's kernels.

A convolution of stride 2 becomes one of stride 1 by space-to-depth, and its temporal taps become
channels too, so that Winograd's algorithm suits it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from finecausal_jax.lowering.windows import Padding, window_slices


def is_stem(kernel: jax.Array, stride: Sequence[int]) -> bool:
    """Whether this is a first layer: few channels and stride 2, where space-to-depth pays."""
    return kernel.shape[-2] <= 4 and all(step == 2 for step in stride)


def is_stem_of_clips(kernel: jax.Array, stride: Sequence[int]) -> bool:
    """Whether what `prepare` lays out is too much to have for all clips at once.

    Four temporal taps as channels make four times as many pixels of it.
    """
    return is_stem(kernel, stride) and kernel.ndim == 5


def prepare(
    x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding
) -> tuple[jax.Array, jax.Array, Sequence[int], Padding]:
    """The convolution itself, or a stem's as a planar one of stride 1."""
    if not is_stem(kernel, stride):
        return x, kernel, stride, padding
    x, kernel, padding = _planar(*_space_to_depth(x, kernel, padding))
    return x, kernel, (1,) * len(stride), padding


def _space_to_depth(
    x: jax.Array, kernel: jax.Array, padding: Padding
) -> tuple[jax.Array, jax.Array, Padding]:
    """Turns a stride-2 convolution of few channels into a stride-1 one of 2**dims times as many.

    Exact: the kernel is padded with zeros so that its window and its padding in front are even.

    Returns:
      The signal, the kernel, and the padding that is left to do.
    """
    dims = kernel.ndim - 2
    widths, ends, left = [], [], []
    for size, window, (front, back) in zip(
        x.shape[1:-1], kernel.shape[:dims], padding, strict=True
    ):
        out = (size + front + back - window) // 2 + 1
        before = front % 2
        after = (window + before) % 2
        widths.append((before, after))
        front, window = front + before, window + before + after
        needed = 2 * (out - 1) + window - front  # what the windows reach, from the first pixel on
        end = min(needed, size + size % 2)
        ends.append(end)
        left.append((front // 2, (needed - end) // 2))
    kernel = jnp.pad(kernel, [*widths, (0, 0), (0, 0)])
    grown = [(0, max(0, end - size)) for end, size in zip(ends, x.shape[1:-1], strict=True)]
    x = jnp.pad(x, [(0, 0), *grown, (0, 0)])
    x = x[(slice(None), *(slice(0, end) for end in ends))]
    return _pair_up(x, dims, lead=1), _pair_up(kernel, dims, lead=0), tuple(left)


def _planar(
    x: jax.Array, kernel: jax.Array, padding: Padding
) -> tuple[jax.Array, jax.Array, Padding]:
    """Makes the temporal taps of a 3-D convolution of stride 1 channels of a planar one."""
    if kernel.ndim < 5:
        return x, kernel, padding
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    x = jnp.concatenate(window_slices(x, 1, kernel.shape[0], 1), -1)
    taps, *window, i, o = kernel.shape
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(1, *window, taps * i, o)
    return x, kernel, ((0, 0), *padding[1:])


def _pair_up(array: jax.Array, dims: int, lead: int) -> jax.Array:
    """Moves each pair of neighbours of the `dims` axes after `lead` into the next axis."""
    space = array.shape[lead : lead + dims]
    split = array.reshape(
        *array.shape[:lead],
        *(part for size in space for part in (size // 2, 2)),
        *array.shape[lead + dims :],
    )
    halves = [lead + 2 * d for d in range(dims)]
    pairs = [lead + 2 * d + 1 for d in range(dims)]
    rest = list(range(lead + 2 * dims, split.ndim))
    moved = split.transpose(*range(lead), *halves, *pairs, *rest)
    tail = moved.shape[lead + dims :]
    channels = 2**dims * tail[dims]
    return moved.reshape(*array.shape[:lead], *(s // 2 for s in space), channels, *tail[dims + 1 :])
