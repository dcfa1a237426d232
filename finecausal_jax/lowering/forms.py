"""The forms in which arrays are convolved: directly, and those that suit a CPU.

XLA's CPU backend is uneven, so there

- a float32 convolution of stride 1 and 3 or 4 taps per image axis goes by Winograd's algorithm, a
  few images at a time (`winograd`), and so do both of its gradients;
- a stem's pixels are first gathered into channels (`stem`), a few clips at a time;
- any other 3-D convolution is a sum over its temporal taps of 2-D convolutions, and so are its
  gradients, but the kernel's in upsampling, which is a product with gathered patches: windows as
  large as the image are up to a hundred times slower where few channels become many;
- padding is left to the convolution: one that pads nothing runs on a slower path.

Arguments are those of `convolution.convolve`, arrays all of them.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from finecausal_jax.lowering import winograd
from finecausal_jax.lowering.chunks import map_chunks, rows_that_fit, scan_chunks
from finecausal_jax.lowering.stem import is_stem_of_clips, prepare
from finecausal_jax.lowering.windows import Padding, window_slices


def direct(x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding) -> jax.Array:
    """XLA's own convolution."""
    space = "DHW"[3 - (kernel.ndim - 2) :]
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=numbers)


def direct_gradients(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    stride: Sequence[int],
    padding: Padding,
) -> tuple[jax.Array, jax.Array]:
    """The gradients by `x` and the kernel that autodiff makes of `direct`."""
    return _gradients(direct, x, kernel, gradient, stride, padding)


def on_cpu(x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding) -> jax.Array:
    """The form that suits a CPU."""
    if is_stem_of_clips(kernel, stride):
        return map_chunks(lambda x: _at_once(x, kernel, stride, padding), rows_that_fit(x), x)
    return _at_once(x, kernel, stride, padding)


def gradients_on_cpu(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    stride: Sequence[int],
    padding: Padding,
) -> tuple[jax.Array, jax.Array]:
    """The gradients by `x` and the kernel, in forms that suit a CPU."""
    if is_stem_of_clips(kernel, stride):

        def add(total: jax.Array, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
            of_x, of_kernel = _gradients(_at_once, x, kernel, gradient, stride, padding)
            return total + of_kernel, of_x

        total, of_x = scan_chunks(add, jnp.zeros_like(kernel), rows_that_fit(x), x, gradient)
        return of_x, total
    if winograd.suits(x, kernel, stride) or not _widens(kernel, stride, 16):
        return _gradients(_at_once, x, kernel, gradient, stride, padding)
    # The map is linear in either argument: nothing reads the outputs, so XLA leaves them out.
    _, of_x = jax.vjp(lambda x: _at_once(x, kernel, stride, padding), x)
    _, of_kernel = jax.vjp(lambda k: _product_of_patches(x, k, stride, padding), kernel)
    return *of_x(gradient), *of_kernel(gradient)


def _gradients(
    form: Callable[..., jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    stride: Sequence[int],
    padding: Padding,
) -> tuple[jax.Array, jax.Array]:
    _, of_both = jax.vjp(lambda x, kernel: form(x, kernel, stride, padding), x, kernel)
    return of_both(gradient)


def _at_once(x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Padding) -> jax.Array:
    """`on_cpu` without a loop over stems' clips."""
    x, kernel, stride, padding = prepare(x, kernel, stride, padding)
    if winograd.suits(x, kernel, stride):
        return winograd.convolve(x, kernel, padding)
    if kernel.ndim < 5:
        return direct(x, kernel, stride, padding)
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
    for tap, frames in enumerate(window_slices(x, 1, kernel.shape[0], stride[0])):
        n, t = frames.shape[:2]
        planes = frames.reshape(n * t, *frames.shape[2:])
        parts.append(direct(planes, kernel[tap], stride[1:], padding[1:]))
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
        parts = [part for whole in parts for part in window_slices(whole, axis, size, step)]
    return jnp.concatenate(parts, -1) @ kernel.reshape(-1, kernel.shape[-1])
