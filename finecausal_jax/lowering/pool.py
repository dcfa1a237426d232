"""Max pools, whose gradients are dense.

A pool is a maximum over shifted slices, axis by axis, a few images at a time on a CPU: the gradient
of `reduce_window` is a select-and-scatter, slow on a CPU and refused by XLA on a GPU in
deterministic mode. Of each maximum its place is kept for the backward pass, in a byte.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from finecausal_jax.lowering.chunks import map_on_cpu
from finecausal_jax.lowering.rectified import Activation, Rectified, value_of
from finecausal_jax.lowering.windows import Padding, window_slices


def max_pool(
    x: Activation,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    *,
    ceil: bool = False,
    plain: bool = False,
) -> jax.Array:
    """Max pooling over the spatial dimensions of a channels-last array.

    Args:
      x: [n, *space, c]. The maximum of ReLUs is the ReLU of the maximum, which has fewer values to
        rectify, and to keep for the backward pass; so that is taken of a `Rectified`.
      window: size per spatial dimension.
      stride: step per spatial dimension.
      padding: zeros (before, after) per spatial dimension. Parity: the reference pads its pools
        with zeros, not with minus infinity; before or after a ReLU only empty windows could tell.
      ceil: also keep a last, partial window (PyTorch's `ceil_mode`).
      plain: leave it to XLA's own pool and its gradient, on every platform.

    Returns:
      [n, *space_out, c].
    """
    if plain:
        return _windowed(value_of(x), window, stride, padding, ceil)
    rectified = isinstance(x, Rectified)
    x = x.normalised.value if rectified else x
    axes = tuple(
        _pool_axis(x.shape[place], place, size, step, pad, ceil)
        for place, (size, step, pad) in enumerate(zip(window, stride, padding, strict=True), 1)
        if size > 1 or step > 1
    )
    return _max_pool(x, axes, rectified)


def _windowed(
    x: jax.Array, window: Sequence[int], stride: Sequence[int], padding: Padding, ceil: bool
) -> jax.Array:
    """The maximum over each window as a whole."""
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    ends = [
        (0, -(length - size) % step if ceil else 0)
        for length, size, step in zip(x.shape[1:-1], window, stride, strict=True)
    ]
    lowest = np.asarray(-np.inf, x.dtype)
    return lax.reduce_window(
        x, lowest, lax.max, (1, *window, 1), (1, *stride, 1), [(0, 0), *ends, (0, 0)]
    )


class _PoolAxis(NamedTuple):
    """How a pool goes along one axis."""

    place: int  # of the axis
    size: int  # of the window
    step: int
    front: int  # zeros in front
    back: int  # zeros behind
    end: int  # then minus infinities behind, or where negative what no window reaches


def _pool_axis(
    length: int, place: int, size: int, step: int, pad: tuple[int, int], ceil: bool
) -> _PoolAxis:
    rest = (length + sum(pad) - size) % step
    end = step - rest if ceil and rest else -rest
    return _PoolAxis(place, size, step, *pad, end)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, axes: tuple[_PoolAxis, ...], rectified: bool) -> jax.Array:
    """Maximum over windows, axis by axis; the gradient goes to a window's first maximum."""
    return map_on_cpu(lambda x: _pooled(x, axes, rectified)[0], x)


def _max_pool_forward(
    x: jax.Array, axes: tuple[_PoolAxis, ...], rectified: bool
) -> tuple[jax.Array, tuple[jax.Array | None, tuple[jax.Array, ...]]]:
    # Of each maximum the place in its window is kept, a byte, and neither input nor output; but for
    # a ReLU, whose result is kept by what comes next anyway.
    y, places = map_on_cpu(lambda x: _pooled(x, axes, rectified), x)
    return y, (y if rectified else None, places)


def _max_pool_backward(
    axes: tuple[_PoolAxis, ...],
    rectified: bool,
    saved: tuple[jax.Array | None, tuple[jax.Array, ...]],
    gradient: jax.Array,
) -> tuple[jax.Array]:
    def unpooled(gradient: jax.Array, *places: jax.Array) -> jax.Array:
        for axis, place in reversed(list(zip(axes, places, strict=True))):
            gradient = _unpooled(gradient, place, axis)
        return gradient

    result, places = saved
    if result is not None:
        gradient = jnp.where(result > 0, gradient, 0)
    return (map_on_cpu(unpooled, gradient, *places),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _pooled(
    x: jax.Array, axes: tuple[_PoolAxis, ...], rectified: bool
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The maxima or their ReLU, and by axis the place of each in its window, uint8."""
    places = []
    for axis in axes:
        config = [(0, 0, 0)] * x.ndim
        config[axis.place] = (axis.front, axis.back, 0)
        x = lax.pad(x, jnp.zeros((), x.dtype), config)
        config[axis.place] = (0, axis.end, 0)
        x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), config)
        # The barrier keeps XLA from fusing the axes of a pool, which would compute each maximum
        # once a neighbour and multiplies the time it takes to compile.
        x = lax.optimization_barrier(x)
        parts = window_slices(x, axis.place, axis.size, axis.step)
        x = functools.reduce(jnp.maximum, parts)
        place = jnp.full(x.shape, axis.size - 1, jnp.uint8)
        for offset, part in reversed(list(enumerate(parts[:-1]))):
            place = jnp.where(part == x, np.uint8(offset), place)
        places.append(place)
    return jax.nn.relu(x) if rectified else x, tuple(places)


def _unpooled(gradient: jax.Array, place: jax.Array, axis: _PoolAxis) -> jax.Array:
    """The gradient by the input of one axis."""
    size, at = axis.size, axis.place
    length = (place.shape[at] - 1) * axis.step + size
    # Laid out again, `step` apart, an input is reached from `size` windows at fixed distances.
    config = [(0, 0, 0)] * gradient.ndim
    config[at] = (size - 1, size - 1, axis.step - 1)
    place = lax.pad(place, np.uint8(size), config)
    zero = jnp.zeros((), gradient.dtype)
    gradient = lax.pad(gradient, zero, config)
    place, gradient = lax.optimization_barrier((place, gradient))
    parts = []
    for offset in range(size):
        reach = size - 1 - offset, size - 1 - offset + length
        hit = lax.slice_in_dim(place, *reach, axis=at) == offset
        parts.append(jnp.where(hit, lax.slice_in_dim(gradient, *reach, axis=at), 0))
    config[at] = (-axis.front, -axis.back - axis.end, 0)
    return lax.pad(functools.reduce(jnp.add, parts), zero, config)
