"""Winograd's minimal filtering: convolutions of stride 1 as products of transformed tiles.

An output tile of 4 x 4 pixels of a 3 x 3 convolution takes 144 multiplications a channel pair as
written, and 36 between the transformed tile of the input and the transformed kernel (Lavin and
Gray, CVPR 2016). The transforms are sums of shifted copies, cheap as long as they stay in a cache,
so images are taken a few at a time; over a whole batch at once they cost more than they save.

Temporal taps are not transformed: they are channels of one product.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = Sequence[tuple[int, int]]

TILE = 4  # outputs of a tile per axis
# Where the polynomials behind the transforms are evaluated, besides infinity, by taps: with these
# the rounding error is about four times that of the plain sum.
POINTS = {3: (0.0, 1.0, -1.0, 0.5, -2.0), 4: (0.0, 1.0, -1.0, 0.5, -0.5, 2.0)}
# Smallest image side, in pixels, for which it pays on a CPU: a smaller one is mostly rims of tiles.
SMALLEST = 7
# Fewest input channels: with fewer, transforming costs as much as it saves.
FEWEST = 16
# What the transformed input of the images that are taken together may hold: half of a usual cache.
CHUNK_BYTES = 4 * 2**20


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


class _Tiling(NamedTuple):
    """Shapes of one call: sizes of the output, tiles per axis and images taken together."""

    frames: int
    height: int
    width: int
    rows: int  # tiles along the height
    columns: int  # tiles along the width
    chunk: int  # videos taken together


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
        and window[-1] == window[-2] in POINTS
        and min(x.shape[-3:-1]) >= SMALLEST
        and i >= FEWEST
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Cross-correlates with stride 1.

    Args:
      x: [n, h, w, i] or [n, t, h, w, i].
      kernel: [r, r, i, o] or [rt, r, r, i, o], with r in POINTS.
      padding: zeros (before, after) per spatial dimension.

    Returns:
      [n, *space_out, o].
    """
    if kernel.ndim == 4:
        y = convolve(x[:, None], kernel[None], ((0, 0), *padding))
        return y[:, 0]
    tiling = _tiling(x.shape, kernel.shape, padding)
    transforms = _transforms(kernel.shape[1])
    products = _transformed_kernel(kernel, transforms)

    def of_chunk(x: jax.Array) -> jax.Array:
        tiles = _transformed_input(x, kernel.shape[0], padding, tiling, transforms)
        return _outputs(_batched_product(tiles, products), tiling, transforms)

    y = lax.map(of_chunk, _in_chunks(x, tiling.chunk))
    return y.reshape(x.shape[0], *y.shape[2:])


def _forward(
    x: jax.Array, kernel: jax.Array, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, padding), (x, kernel)


def _backward(
    padding: Padding, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    window = kernel.shape[:-2]
    # The gradient of the input is the convolution with the kernel turned round.
    turned = jnp.flip(kernel, range(len(window))).swapaxes(-1, -2)
    rest = tuple(
        (size - 1 - front, size - 1 - back)
        for size, (front, back) in zip(window, padding, strict=True)
    )
    return convolve(gradient, turned, rest), kernel_gradient(x, gradient, window, padding)


convolve.defvjp(_forward, _backward)


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: Sequence[int], padding: Padding
) -> jax.Array:
    """The gradient of `convolve` by its kernel: the same algorithm, transposed.

    Args:
      x: [n, *space, i].
      gradient: by the outputs, [n, *space_out, o].
      window: of the kernel.
      padding: as given to `convolve`.

    Returns:
      [*window, i, o].
    """
    if len(window) == 2:
        parts = x[:, None], gradient[:, None]
        return kernel_gradient(*parts, (1, *window), ((0, 0), *padding))[0]
    i, o = x.shape[-1], gradient.shape[-1]
    tiling = _tiling(x.shape, (*window, i, o), padding)
    transforms = _transforms(window[1])
    a = transforms.input.shape[0]

    def add(total: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, gradient = chunk
        tiles = _transformed_input(x, window[0], padding, tiling, transforms)
        of_products = _outputs_transposed(gradient, tiling, transforms)
        return total + lax.dot_general(tiles, of_products, (((1,), (1,)), ((0,), (0,)))), None

    start = jnp.zeros((a * a, window[0] * i, o), x.dtype)
    chunks = _in_chunks(x, tiling.chunk), _in_chunks(gradient, tiling.chunk)
    total, _ = lax.scan(add, start, chunks)
    kernel = jnp.asarray(transforms.kernel, x.dtype)
    total = total.reshape(a, a, window[0], i, o)
    return jnp.einsum("pa,qb,pqtio->tabio", kernel, kernel, total)


def _tiling(x: Sequence[int], kernel: Sequence[int], padding: Padding) -> _Tiling:
    frames, height, width = (
        size + front + back - taps + 1
        for size, taps, (front, back) in zip(x[1:-1], kernel[:3], padding, strict=True)
    )
    rows, columns = -(-height // TILE), -(-width // TILE)
    a = TILE + kernel[1] - 1
    # Of float32, since nothing else is computed so.
    of_one = 4 * a * a * frames * rows * columns * kernel[0] * max(kernel[3], 1)
    fitting = max(1, CHUNK_BYTES // of_one)
    chunk = max(part for part in range(1, x[0] + 1) if x[0] % part == 0 and part <= fitting)
    return _Tiling(frames, height, width, rows, columns, chunk)


def _in_chunks(x: jax.Array, chunk: int) -> jax.Array:
    return x.reshape(x.shape[0] // chunk, chunk, *x.shape[1:])


def _transformed_kernel(kernel: jax.Array, transforms: Transforms) -> jax.Array:
    """[rt, r, r, i, o] to [a a, rt i, o]."""
    matrix = jnp.asarray(transforms.kernel, kernel.dtype)
    a, (taps, _, _, i, o) = matrix.shape[0], kernel.shape
    products = jnp.einsum("pa,qb,tabio->pqtio", matrix, matrix, kernel)
    return products.reshape(a * a, taps * i, o)


def _transformed_input(
    x: jax.Array, taps: int, padding: Padding, tiling: _Tiling, transforms: Transforms
) -> jax.Array:
    """[n, t, h, w, i] to [a a, n frames rows columns, taps i]."""
    n, t, *space, i = x.shape
    a = transforms.input.shape[0]
    widths = [(0, 0)]
    for size, (front, _), tiles in zip(
        space, padding[1:], (tiling.rows, tiling.columns), strict=True
    ):
        widths.append((front, (tiles - 1) * TILE + a - size - front))
    x = lax.pad(
        x.reshape(n * t, *space, i),
        jnp.zeros((), x.dtype),
        [(front, back, 0) for front, back in (*widths, (0, 0))],
    )
    tiles = _combined(transforms.input, _every_tile(x, 2, a, tiling.columns))
    tiles = _combined(transforms.input, _every_tile(tiles, 2, a, tiling.rows))
    tiles = tiles.reshape(a * a, n, t, tiling.rows * tiling.columns, i)
    if taps > 1:
        tiles = jnp.pad(tiles, ((0, 0), (0, 0), padding[0], (0, 0), (0, 0)))
        shifted = [tiles[:, :, tap : tap + tiling.frames] for tap in range(taps)]
        tiles = jnp.concatenate(shifted, -1)
    return tiles.reshape(a * a, -1, taps * i)


def _every_tile(x: jax.Array, axis: int, size: int, tiles: int) -> list[jax.Array]:
    """For each place in a tile along an axis, its value in every tile."""
    reach = (tiles - 1) * TILE + 1
    return [lax.slice_in_dim(x, place, place + reach, TILE, axis) for place in range(size)]


def _batched_product(tiles: jax.Array, products: jax.Array) -> jax.Array:
    return lax.dot_general(tiles, products, (((2,), (1,)), ((0,), (0,))))


def _outputs(products: jax.Array, tiling: _Tiling, transforms: Transforms) -> jax.Array:
    """[a a, n frames rows columns, o] to [n, frames, height, width, o]."""
    a, o = transforms.input.shape[0], products.shape[-1]
    split = products.reshape(a, a, -1, tiling.rows, tiling.columns, o)
    # The first axis of a transformed tile runs along the height.
    y = _combined(transforms.output, list(split), axis=3)  # [a, n, rows, m, columns, o]
    y = _combined(transforms.output, list(y), axis=4)  # [n, rows, m, columns, m, o]
    y = y.reshape(-1, tiling.frames, tiling.rows * TILE, tiling.columns * TILE, o)
    return y[:, :, : tiling.height, : tiling.width]


def _outputs_transposed(gradient: jax.Array, tiling: _Tiling, transforms: Transforms) -> jax.Array:
    """[n, frames, height, width, o] to [a a, n frames rows columns, o]."""
    a, o = transforms.input.shape[0], gradient.shape[-1]
    whole = (tiling.rows * TILE, tiling.columns * TILE)
    gradient = gradient.reshape(-1, tiling.height, tiling.width, o)
    missing = (whole[0] - tiling.height, whole[1] - tiling.width)
    gradient = jnp.pad(gradient, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    matrix = transforms.output.T
    tiles = _combined(matrix, _every_tile(gradient, 2, TILE, tiling.columns))
    tiles = _combined(matrix, _every_tile(tiles, 2, TILE, tiling.rows))
    return tiles.reshape(a * a, -1, o)


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
def _transforms(taps: int) -> Transforms:
    """Cook's and Toom's construction: polynomials are multiplied by their values at points."""
    points = POINTS[taps]
    a = TILE + taps - 1
    output, kernel, inputs = np.zeros((TILE, a)), np.zeros((a, taps)), np.zeros((a, a))
    for row, point in enumerate(points):
        others = [other for other in points if other != point]
        output[:, row] = point ** np.arange(TILE)
        kernel[row] = point ** np.arange(taps) / math.prod(point - other for other in others)
        inputs[row, : a - 1] = np.poly(others)[::-1]
    output[-1, -1] = kernel[-1, -1] = 1  # the value at infinity is the leading coefficient
    inputs[-1] = np.poly(points)[::-1]
    return Transforms(output, kernel, inputs)
