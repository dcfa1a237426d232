"""Convolutions and pools, and the one place that decides how each platform computes them.

GPUs and TPUs get one direct convolution. XLA's CPU backend is uneven, so there

- a float32 convolution of stride 1 and 3 or 4 taps per image axis goes by Winograd's algorithm, a
  few images at a time (`winograd`), and so do both of its gradients;
- a stem's pixels are first gathered by space-to-depth, since 3 input channels starve the kernels,
  and its temporal taps become channels too, a few clips at a time;
- any other 3-D convolution is a sum over its temporal taps of 2-D convolutions, and so are its
  gradients, but the kernel's in upsampling, which is a product with gathered patches: windows as
  large as the image are up to a hundred times slower where few channels become many;
- padding is left to the convolution: one that pads nothing runs on a slower path.

The choice is made while lowering (`jax.lax.platform_dependent`), so one jitted function serves
every platform and can be compiled for hardware that is not there.

Max pooling is a maximum over shifted slices on every platform, a few images at a time on a CPU: its
gradient is dense, whereas that of `reduce_window` is a select-and-scatter, slow on a CPU and
refused by XLA on a GPU in deterministic mode. Of each maximum its place is kept for the backward
pass, in a byte.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from finecausal_jax.lowering import winograd
from finecausal_jax.lowering.chunks import CHUNK_BYTES, largest_chunk, map_chunks, scan_chunks

Padding = Sequence[tuple[int, int]]


class Rectified(NamedTuple):
    """ReLU of what BatchNorm made, which nothing has computed yet.

    A convolution of it keeps the source for its backward pass, and computes the ReLU again: half of
    the memory in training, where BatchNorm keeps the source anyway, for a multiplication and an
    addition a value.

    Attributes:
      normalised: [n, *space, c], `source * factor + shift`, before ReLU.
      source: [n, *space, c], what BatchNorm was given, or, where its factor is folded into a
        convolution, what that one gave; None where the ReLU is to be kept instead.
      factor: [n, *1, c], float32, by image; ones where it is folded.
      shift: [n, *1, c], float32, by image.
    """

    normalised: jax.Array
    source: jax.Array | None = None
    factor: jax.Array | None = None
    shift: jax.Array | None = None

    @property
    def value(self) -> jax.Array:
        """The ReLU itself, [n, *space, c]."""
        return jax.nn.relu(self.normalised)


@jax.custom_vjp
def join_rectified(parts: list[jax.Array]) -> jax.Array:
    """The ReLU of arrays [n, *space, c] joined along their channels.

    The gradient reads the result, so that the parts need not be kept beside it.
    """
    # In a loop on a CPU, or XLA would make the ReLU again from the parts, and keep those too.
    return _per_platform(lambda *parts: jax.nn.relu(jnp.concatenate(parts, axis=-1)), *parts)


def _join_rectified_forward(
    parts: list[jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, list[int]]]:
    result = join_rectified(parts)
    return result, (result, [part.shape[-1] for part in parts])


def _join_rectified_backward(
    saved: tuple[jax.Array, list[int]], gradient: jax.Array
) -> tuple[list[jax.Array]]:
    result, widths = saved
    gradient = jnp.where(result > 0, gradient, 0)
    return (jnp.split(gradient, list(itertools.accumulate(widths[:-1])), axis=-1),)


join_rectified.defvjp(_join_rectified_forward, _join_rectified_backward)


def convolve(
    x: jax.Array | Rectified, kernel: jax.Array, stride: Sequence[int], padding: Padding
) -> jax.Array:
    """Cross-correlates channels-last signals of 1, 2 or 3 spatial dimensions with a kernel.

    Args:
      x: [n, *space, i], floating point.
      kernel: [*window, i, o], same dtype.
      stride: one step per spatial dimension.
      padding: zeros (before, after) per spatial dimension.

    Returns:
      [n, *space_out, o] in the dtype of `x`.
    """
    dims = kernel.ndim - 2
    stride, padding = tuple(stride), tuple(tuple(pair) for pair in padding)
    if isinstance(x, Rectified):
        if x.source is None or x.factor is None or x.shift is None:
            return convolve(x.value, kernel, stride, padding)
        sources = x.source, x.factor, x.shift
        return _convolve_rectified(x.normalised, sources, kernel, stride, padding)
    if _is_pointwise(kernel, padding):
        # A pointwise convolution is a matrix product, which every backend does best.
        picked = x[(slice(None), *(slice(None, None, step) for step in stride))]
        rows = picked.reshape(-1, picked.shape[-1])
        return _product(rows, kernel.reshape(kernel.shape[dims:])).reshape(*picked.shape[:-1], -1)
    return _convolve(x, kernel, stride, padding)


def _is_pointwise(kernel: jax.Array, padding: Padding) -> bool:
    return all(size == 1 for size in kernel.shape[:-2]) and not any(a or b for a, b in padding)


Sources = tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _convolve_rectified(
    normalised: jax.Array,
    sources: Sources,
    kernel: jax.Array,
    stride: tuple[int, ...],
    padding: Padding,
) -> jax.Array:
    """Convolves the ReLU of its first argument, which can be made again of `sources`.

    All that is learnt by the sources reaches them through `normalised`.
    """
    return convolve(jax.nn.relu(normalised), kernel, stride, padding)


def _convolve_rectified_forward(
    normalised: jax.Array,
    sources: Sources,
    kernel: jax.Array,
    stride: tuple[int, ...],
    padding: Padding,
) -> tuple[jax.Array, tuple[Sources, jax.Array]]:
    out = _convolve_rectified(normalised, sources, kernel, stride, padding)
    return out, (sources, kernel)


def _convolve_rectified_backward(
    stride: tuple[int, ...],
    padding: Padding,
    saved: tuple[Sources, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, None, jax.Array]:
    sources, kernel = saved
    # Without the barrier XLA would find that this was computed before, and keep it after all.
    sources = lax.optimization_barrier(sources)

    def rectified(*sources: jax.Array) -> jax.Array:
        return jax.nn.relu(_normalised(*sources)).astype(kernel.dtype)

    def at_once(gradient: jax.Array, *sources: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = rectified(*sources)
        _, of_both = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, padding), x, kernel)
        return of_both(gradient)

    def on_cpu(gradient: jax.Array, *sources: jax.Array) -> tuple[jax.Array, jax.Array]:
        if winograd.suits(sources[0], kernel, stride):
            return winograd.gradients(rectified, sources, kernel, padding, gradient)
        if not _is_pointwise(kernel, padding):
            return at_once(gradient, *sources)

        def add(total: jax.Array, *rows: jax.Array) -> tuple[jax.Array, jax.Array]:
            *sources, gradient = rows
            of_x, of_kernel = at_once(gradient, *sources)
            return total + of_kernel, of_x

        start = jnp.zeros_like(kernel)
        total, of_x = scan_chunks(add, start, _chunk(sources[0]), *sources, gradient)
        return of_x, total

    of_x, of_kernel = lax.platform_dependent(gradient, *sources, cpu=on_cpu, default=at_once)
    return jnp.where(_normalised(*sources) > 0, of_x, 0), None, of_kernel


_convolve_rectified.defvjp(_convolve_rectified_forward, _convolve_rectified_backward)


def _normalised(source: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    return source.astype(jnp.float32) * factor + shift


@jax.custom_vjp
def _product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    return rows @ kernel


def _product_forward(
    rows: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return rows @ kernel, (rows, kernel)


def _product_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows, kernel = saved
    # Without the barrier XLA computes what comes before twice, once of it turned round, slowly.
    gradient = lax.optimization_barrier(gradient)
    return gradient @ kernel.T, rows.T @ gradient


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(
    x: jax.Array, kernel: jax.Array, stride: tuple[int, ...], padding: Padding
) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _on_cpu(x, kernel, stride, padding),
        default=lambda x, kernel: _direct(x, kernel, stride, padding),
    )


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, stride: tuple[int, ...], padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(
    stride: tuple[int, ...],
    padding: Padding,
    saved: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def direct(form: Any, x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        _, of_both = jax.vjp(lambda x, kernel: form(x, kernel, stride, padding), x, kernel)
        return of_both(gradient)

    def on_cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        if _is_stem_of_clips(kernel, stride):

            def add(total: jax.Array, x: jax.Array, gradient: jax.Array) -> Any:
                of_x, of_kernel = direct(_at_once, x, kernel, gradient)
                return total + of_kernel, of_x

            total, of_x = scan_chunks(add, jnp.zeros_like(kernel), _chunk(x), x, gradient)
            return of_x, total
        if winograd.suits(x, kernel, stride) or not _widens(kernel, stride, 16):
            return direct(_at_once, x, kernel, gradient)
        # The map is linear in either argument: nothing reads the outputs, so XLA leaves them out.
        _, of_x = jax.vjp(lambda x: _at_once(x, kernel, stride, padding), x)
        _, of_kernel = jax.vjp(lambda k: _product_of_patches(x, k, stride, padding), kernel)
        return *of_x(gradient), *of_kernel(gradient)

    return lax.platform_dependent(
        *saved, gradient, cpu=on_cpu, default=functools.partial(direct, _direct)
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)


def upsample(x: jax.Array, kernel: jax.Array, stride: Sequence[int]) -> jax.Array:
    """Transposed convolution whose kernel is twice its stride, as a dense 2-tap convolution.

    Equal to PyTorch's `ConvTranspose3d(kernel=2 * stride, stride=stride, padding=stride / 2)`:
    every block of `stride` outputs depends on two neighbouring inputs per axis, so the blocks are
    the channels of a convolution of size 2, which depth-to-space lays out. No zeros are multiplied,
    unlike with `lhs_dilation`, whose gradients are slow on every backend.

    Args:
      x: [n, t, h, w, i].
      kernel: [2 st, 2 sh, 2 sw, i, o], indexed by the offset of the output (not flipped).
      stride: (st, sh, sw), each even.

    Returns:
      [n, t st, h sh, w sw, o].
    """
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


def max_pool(
    x: jax.Array,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    *,
    ceil: bool = False,
    rectified: bool = False,
) -> jax.Array:
    """Max pooling over the spatial dimensions of a channels-last array.

    Args:
      x: [n, *space, c].
      window: size per spatial dimension.
      stride: step per spatial dimension.
      padding: zeros (before, after) per spatial dimension. Parity: the reference pads its pools
        with zeros, not with minus infinity; before or after a ReLU only empty windows could tell.
      ceil: also keep a last, partial window (PyTorch's `ceil_mode`).
      rectified: take the ReLU of the maxima, which is the maximum of the ReLUs.

    Returns:
      [n, *space_out, c].
    """
    axes = tuple(
        _pool_axis(x.shape[place], place, size, step, pad, ceil)
        for place, (size, step, pad) in enumerate(zip(window, stride, padding, strict=True), 1)
        if size > 1 or step > 1
    )
    return _max_pool(x, axes, rectified)


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
    return _per_platform(lambda x: _pooled(x, axes, rectified)[0], x)


def _max_pool_forward(
    x: jax.Array, axes: tuple[_PoolAxis, ...], rectified: bool
) -> tuple[jax.Array, tuple[jax.Array | None, tuple[jax.Array, ...]]]:
    # Of each maximum the place in its window is kept, a byte, and neither input nor output; but for
    # a ReLU, whose result is kept by what comes next anyway.
    y, places = _per_platform(lambda x: _pooled(x, axes, rectified), x)
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
    return (_per_platform(unpooled, gradient, *places),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _per_platform(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Calls a function of [n, ...]; on a CPU with a few of n at a time.

    As many as, of the first array, fit a cache.

    In a loop all its results are there at once, too: elsewhere XLA would put off the places of a
    pool's maxima to the backward pass, and keep the padded inputs until then.
    """
    return lax.platform_dependent(
        *arrays,
        cpu=lambda *arrays: _in_chunks(function, *arrays),
        default=function,
    )


def _in_chunks(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    return map_chunks(function, _chunk(arrays[0]), *arrays)


def _chunk(x: jax.Array) -> int:
    return largest_chunk(x.shape[0], CHUNK_BYTES * x.shape[0] // max(1, x.nbytes))


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
        parts = _window_slices(x, axis.place, axis.size, axis.step)
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


def _window_slices(x: jax.Array, axis: int, size: int, step: int) -> list[jax.Array]:
    """For each place in the window, its value in every window."""
    count = (x.shape[axis] - size) // step + 1
    last = (count - 1) * step + 1
    return [lax.slice_in_dim(x, k, k + last, step, axis) for k in range(size)]


def _direct(x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding) -> jax.Array:
    space = "DHW"[3 - (kernel.ndim - 2) :]
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=numbers)


def _on_cpu(x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding) -> jax.Array:
    if _is_stem_of_clips(kernel, stride):
        return _in_chunks(lambda x: _at_once(x, kernel, stride, padding), x)
    return _at_once(x, kernel, stride, padding)


def _at_once(x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding) -> jax.Array:
    """The same without a loop over stems' clips."""
    x, kernel, stride, padding = _prepared(x, kernel, stride, padding)
    if winograd.suits(x, kernel, stride):
        return winograd.convolve(x, kernel, padding)
    if kernel.ndim < 5:
        return _direct(x, kernel, stride, padding)
    if _widens(kernel, stride, 1):
        return _product_of_patches(x, kernel, stride, padding)
    return _sum_of_planar(x, kernel, stride, padding)


def _sum_of_planar(
    x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding
) -> jax.Array:
    """A 3-D convolution as a sum over its temporal taps of 2-D convolutions."""
    # Without the barrier XLA would fuse the layers before into each tap and compute them thrice.
    x = lax.optimization_barrier(x)
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    parts = []
    for tap, frames in enumerate(_window_slices(x, 1, kernel.shape[0], stride[0])):
        n, t = frames.shape[:2]
        planes = frames.reshape(n * t, *frames.shape[2:])
        parts.append(_direct(planes, kernel[tap], stride[1:], padding[1:]))
    total = functools.reduce(jnp.add, parts)
    return total.reshape(n, t, *total.shape[1:])


def _widens(kernel: jax.Array, stride: Sequence[int], times: int) -> bool:
    """Whether a 3-D window holds at most `times` as many numbers as come out of it."""
    *window, i, o = kernel.shape
    return len(window) == 3 and set(stride) == {1} and math.prod(window) * i <= times * o


def _product_of_patches(
    x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding
) -> jax.Array:
    """A convolution as a matrix product with what each window sees."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    parts = [x]
    for axis, (size, step) in enumerate(zip(kernel.shape, stride, strict=False), start=1):
        parts = [part for whole in parts for part in _window_slices(whole, axis, size, step)]
    return jnp.concatenate(parts, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _prepared(
    x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding
) -> tuple[jax.Array, jax.Array, Sequence[int], Padding]:
    """The convolution itself, or a stem's as a planar one of stride 1."""
    if not _is_stem(kernel, stride):
        return x, kernel, stride, padding
    x, kernel, padding = _planar(*_space_to_depth(x, kernel, padding))
    return x, kernel, (1,) * len(stride), padding


def _is_stem(kernel: jax.Array, stride: Sequence[int]) -> bool:
    """Whether this is a first layer: few channels and stride 2, where space-to-depth pays."""
    return kernel.shape[-2] <= 4 and all(step == 2 for step in stride)


def _is_stem_of_clips(kernel: jax.Array, stride: Sequence[int]) -> bool:
    """Whether what `_prepared` lays out is too much to have for all clips at once.

    Four temporal taps as channels make four times as many pixels of it.
    """
    return _is_stem(kernel, stride) and kernel.ndim == 5


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
    x = jnp.concatenate(_window_slices(x, 1, kernel.shape[0], 1), -1)
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
