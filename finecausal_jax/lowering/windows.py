"""What a window of a convolution or a pool reaches."""

from collections.abc import Sequence

import jax
from jax import lax

# Zeros (before, after) per spatial dimension.
Padding = Sequence[tuple[int, int]]


def window_slices(x: jax.Array, axis: int, size: int, step: int) -> list[jax.Array]:
    """For each place in a window that moves along one axis, its value in every window.

    Args:
      x: any array, padded.
      axis: along which the window moves.
      size: of the window.
      step: from one window to the next.

    Returns:
      `size` arrays like `x`, with as many entries along `axis` as there are whole windows.
    """
    count = (x.shape[axis] - size) // step + 1
    last = (count - 1) * step + 1
    return [lax.slice_in_dim(x, k, k + last, step, axis) for k in range(size)]
