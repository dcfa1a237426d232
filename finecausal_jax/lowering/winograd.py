"""Winograd's minimal filtering: convolutions of stride 1 as products of transformed tiles.

A tile of 4 x 4 x 4 outputs of a 3 x 3 x 3 convolution takes 1728 multiplications a channel pair as
written, and 216 between the transformed tile of the input and the transformed kernel (Lavin and
Gray, CVPR 2016). The transforms are sums of shifted copies, cheap as long as they stay in a cache,
so images are taken a few at a time; over a whole batch at once they cost more than they save.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from finecausal_jax.lowering.chunks import chunk_of, map_chunks, scan_chunks
from finecausal_jax.lowering.windows import Padding

# Outputs of a tile along an axis, and along a short one. One tap needs no transform.
TILE = 4
SHORT_TILE = 2
# Where the polynomials behind the transforms are evaluated, besides infinity, by how many points
# it takes: with these the rounding error is a few times that of the plain sum.
POINTS = {
    0: (),
    2: (0.0, 1.0),
    3: (0.0, 1.0, -1.0),
    4: (0.0, 1.0, -1.0, 0.5),
    5: (0.0, 1.0, -1.0, 0.5, -2.0),
    6: (0.0, 1.0, -1.0, 0.5, -0.5, 2.0),
}
MOST_TAPS = 4
# Smallest image side, in pixels, for which it pays on a CPU: a smaller one is mostly rims of tiles.
SMALLEST = 4
# Fewest input channels: with fewer, transforming costs as much as it saves.
FEWEST = 16


class Transforms(NamedTuple):
    """The three matrices of y = output @ ((kernel @ g) * (input @ d)), along one axis.

    Attributes:
      output: [m, a], m outputs from a = m + r - 1 products.
      kernel: [a, r], r taps.
      input: [a, a].
    """

    output: np.ndarray
    kernel: np.ndarray
    input: np.ndarray


class _Axis(NamedTuple):
    """How one spatial axis is cut into tiles."""

    size: int  # of the output
    front: int  # zeros in front of the input
    tile: int  # outputs of a tile
    tiles: int
    transforms: Transforms

    @property
    def products(self) -> int:
        return self.transforms.input.shape[0]


def suits(x: jax.Array, kernel: jax.Array, stride: Sequence[int]) -> bool:
    """Whether a convolution can be computed so, and gains by it on a CPU.

    Args:
      x: [n, *space, i].
      kernel: [*window, i, o].
      stride: per spatial dimension.
    """
    *window, i, _ = kernel.shape
    return (
        x.dtype == jnp.float32  # the transforms would cost bfloat16 half of its eight bits
        and len(window) in (2, 3)
        and set(stride) == {1}
        and window[-1] == window[-2]
        and window[-1] > 2
        and window[-1] <= MOST_TAPS
        # Four taps along three axes would round too much.
        and window[0] < MOST_TAPS + (len(window) == 2)
        and min(x.shape[-3:-1]) >= SMALLEST
        and i >= FEWEST
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Cross-correlates with stride 1.

    Args:
      x: [n, *space, i] with any number of spatial dimensions.
      kernel: [*window, i, o], at most `MOST_TAPS` taps an axis.
      padding: zeros (before, after) per spatial dimension.

    Returns:
      [n, *space_out, o].
    """
    axes = _axes(x.shape, kernel.shape, padding)
    products = _transformed_kernel(kernel, axes, 1)

    def of_chunk(x: jax.Array) -> jax.Array:
        tiles = _transformed_input(x, axes)
        return _outputs(lax.dot_general(tiles, products, (((2,), (1,)), ((0,), (0,)))), axes)

    return map_chunks(of_chunk, _chunk(x.shape, kernel.shape, axes), x)


def _forward(
    x: jax.Array, kernel: jax.Array, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, padding), (x, kernel)


def _backward(
    padding: Padding, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return gradients(lambda x: x, (x,), kernel, padding, gradient)


def gradients(
    input_of: Callable[..., jax.Array],
    sources: tuple[jax.Array, ...],
    kernel: jax.Array,
    padding: Padding,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Both gradients, by the same algorithm, in one loop over the images.

    Apart, XLA would put off every kernel's gradient to the end of the backward pass, and keep what
    it takes in memory until then.

    Args:
      input_of: makes the input of the convolution, [m, *space, i], of m rows of each source; a few
        images at a time, so that it need not be kept since the forward pass.
      sources: [n, ...]; the first is shaped like the input.
      kernel, padding: as for `convolve`.
      gradient: by the outputs, [n, *space_out, o].

    Returns:
      The gradients by the input and by the kernel.
    """
    x = sources[0]
    *window, i, o = kernel.shape
    axes = _axes(x.shape, kernel.shape, padding)
    # The gradient of the input is the convolution with the kernel turned round.
    rest = tuple(
        (size - 1 - front, size - 1 - back)
        for size, (front, back) in zip(window, padding, strict=True)
    )
    turned = _axes(gradient.shape, kernel.shape, rest)
    products = _transformed_kernel(kernel, turned, -1)

    def add(total: jax.Array, *rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        *sources, gradient = rows
        tiles = _transformed_input(input_of(*sources), axes)
        of_products = _outputs_transposed(gradient, axes)
        total += lax.dot_general(tiles, of_products, (((1,), (1,)), ((0,), (0,))))
        tiles = _transformed_input(gradient, turned)
        of_x = lax.dot_general(tiles, products, (((2,), (2,)), ((0,), (0,))))
        return total, _outputs(of_x, turned)

    start = jnp.zeros((math.prod(axis.products for axis in axes), i, o), x.dtype)
    chunk = min(_chunk(x.shape, kernel.shape, axes), _chunk(gradient.shape, kernel.shape, turned))
    total, of_x = scan_chunks(add, start, chunk, *sources, gradient)
    total = total.reshape(*(axis.products for axis in axes), i, o)
    of_kernel = _along_axes(total, [axis.transforms.kernel.T for axis in axes])
    return of_x, of_kernel


convolve.defvjp(_forward, _backward)


def _axes(x: Sequence[int], kernel: Sequence[int], padding: Padding) -> tuple[_Axis, ...]:
    axes = []
    for size, taps, (front, back) in zip(x[1:-1], kernel[:-2], padding, strict=True):
        out = size + front + back - taps + 1
        tile = 1 if taps == 1 else TILE if out >= TILE else SHORT_TILE
        axes.append(_Axis(out, front, tile, -(-out // tile), _transforms(tile, taps)))
    return tuple(axes)


def _chunk(x: Sequence[int], kernel: Sequence[int], axes: Sequence[_Axis]) -> int:
    """How many videos or images are taken together, so that their transformed input fits."""
    products = math.prod(axis.products for axis in axes)
    bytes_of_one = 4 * products * math.prod(axis.tiles for axis in axes) * x[-1]
    # A large transformed kernel passes through the cache once a chunk.
    bytes_of_kernel = 4 * products * math.prod(kernel[-2:])
    return chunk_of(x[0], bytes_of_one, bytes_of_kernel)


def _along_axes(x: jax.Array, matrices: Sequence[np.ndarray]) -> jax.Array:
    """Multiplies by a matrix along each of the leading axes."""
    for matrix in reversed(matrices):
        # The last of these axes that is not done; its rows go to the front, where stacking is fast.
        parts = [
            lax.index_in_dim(x, k, len(matrices) - 1, keepdims=False)
            for k in range(matrix.shape[1])
        ]
        x = _combined(matrix, parts)
    return x


def _transformed_kernel(kernel: jax.Array, axes: Sequence[_Axis], step: int) -> jax.Array:
    """[*window, i, o] to [a..., i, o]; the taps in reverse order where `step` is -1.

    Reversed here, and swapped in the products: turning a large kernel itself takes longer.
    """
    matrices = [axis.transforms.kernel[:, ::step] for axis in axes]
    return _along_axes(kernel, matrices).reshape(-1, *kernel.shape[-2:])


def _transformed_input(x: jax.Array, axes: Sequence[_Axis]) -> jax.Array:
    """[n, *space, i] to [a..., n tiles..., i], both flattened."""
    widths = [(0, 0, 0)]
    for size, axis in zip(x.shape[1:-1], axes, strict=True):
        reach = (axis.tiles - 1) * axis.tile + axis.products
        widths.append((axis.front, reach - size - axis.front, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), [*widths, (0, 0, 0)])
    return _tiled(x, axes, [axis.transforms.input for axis in axes])


def _outputs_transposed(gradient: jax.Array, axes: Sequence[_Axis]) -> jax.Array:
    """[n, *space_out, o] to [a..., n tiles..., o], both flattened."""
    missing = [(0, axis.tiles * axis.tile - axis.size) for axis in axes]
    gradient = jnp.pad(gradient, [(0, 0), *missing, (0, 0)])
    return _tiled(gradient, axes, [axis.transforms.output.T for axis in axes])


def _tiled(x: jax.Array, axes: Sequence[_Axis], matrices: Sequence[np.ndarray]) -> jax.Array:
    """Multiplies each tile by a matrix along each axis; its rows become the leading axis."""
    channels = x.shape[-1]
    for done, place in enumerate(reversed(range(len(axes)))):
        axis, matrix = axes[place], matrices[place]
        reach = (axis.tiles - 1) * axis.tile + 1
        parts = [
            lax.slice_in_dim(x, k, k + reach, axis.tile, done + 1 + place)
            for k in range(matrix.shape[1])
        ]
        x = _combined(matrix, parts)
    return x.reshape(math.prod(matrix.shape[0] for matrix in matrices), -1, channels)


def _outputs(products: jax.Array, axes: Sequence[_Axis]) -> jax.Array:
    """[a..., n tiles..., o], both flattened, to [n, *space_out, o]."""
    o, left = products.shape[-1], len(axes)
    counts = [axis.tiles for axis in axes]
    y = products.reshape(*(axis.products for axis in axes), -1, *counts, o)
    for place, axis in enumerate(axes):
        left -= 1
        y = _combined(axis.transforms.output, list(y), left + 2 * place + 2)
    y = y.reshape(-1, *(axis.tiles * axis.tile for axis in axes), o)
    return y[(slice(None), *(slice(axis.size) for axis in axes))]


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array], axis: int = 0) -> jax.Array:
    """For each row of a matrix, the parts weighted by it; stacked along a new axis."""
    return jnp.stack([_weighted(row, parts) for row in matrix], axis)


def _weighted(weights: np.ndarray, parts: Sequence[jax.Array]) -> jax.Array:
    """A sum in which nothing is multiplied by zero or one."""
    terms = [
        part if weight == 1 else -part if weight == -1 else part * np.asarray(weight, part.dtype)
        for weight, part in zip(weights, parts, strict=True)
        if weight != 0
    ]
    return functools.reduce(jnp.add, terms)


@functools.cache
def _transforms(tile: int, taps: int) -> Transforms:
    """Cook's and Toom's construction: polynomials are multiplied by their values at points."""
    a = tile + taps - 1
    points = POINTS[a - 1]
    output, kernel, inputs = np.zeros((tile, a)), np.zeros((a, taps)), np.zeros((a, a))
    for row, point in enumerate(points):
        others = [other for other in points if other != point]
        output[:, row] = point ** np.arange(tile)
        kernel[row] = point ** np.arange(taps) / math.prod(point - other for other in others)
        inputs[row, : a - 1] = np.poly(others)[::-1]
    output[-1, -1] = kernel[-1, -1] = 1  # the value at infinity is the leading coefficient
    inputs[-1] = np.atleast_1d(np.poly(points))[::-1]
    return Transforms(output, kernel, inputs)
