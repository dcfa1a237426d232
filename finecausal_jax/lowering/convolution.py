"""Convolutions, of arrays and of ReLUs that nothing has computed yet.

GPUs and TPUs get one direct convolution, a CPU what suits it (`forms`). The choice is made while
lowering (`jax.lax.platform_dependent`), so one jitted function serves every platform and can be
compiled for hardware that is not there.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from finecausal_jax.lowering import forms, winograd
from finecausal_jax.lowering.chunks import rows_that_fit, scan_chunks
from finecausal_jax.lowering.rectified import Activation, Rectified, value_of
from finecausal_jax.lowering.windows import Padding


def convolve(
    x: Activation,
    kernel: jax.Array,
    stride: Sequence[int],
    padding: Padding,
    *,
    plain: bool = False,
) -> jax.Array:
    """Cross-correlates channels-last signals of 1, 2 or 3 spatial dimensions with a kernel.

    Args:
      x: [n, *space, i], floating point.
      kernel: [*window, i, o]; an array `x` is converted to its dtype.
      stride: one step per spatial dimension.
      padding: zeros (before, after) per spatial dimension.
      plain: compute it as written on every platform, and let autodiff find the gradients.

    Returns:
      [n, *space_out, o] in the dtype of the kernel.
    """
    stride, padding = tuple(stride), tuple(tuple(pair) for pair in padding)
    if plain:
        return forms.direct(value_of(x).astype(kernel.dtype), kernel, stride, padding)
    if isinstance(x, Rectified):
        before, *sources = x.normalised
        return _convolve_rectified(before, tuple(sources), kernel, stride, padding)
    return _convolve_array(x.astype(kernel.dtype), kernel, stride, padding)


def _convolve_array(
    x: jax.Array, kernel: jax.Array, stride: tuple[int, ...], padding: Padding
) -> jax.Array:
    if _is_pointwise(kernel, padding):
        # A pointwise convolution is a matrix product, which every backend does best.
        picked = x[(slice(None), *(slice(None, None, step) for step in stride))]
        rows = picked.reshape(-1, picked.shape[-1])
        return _product(rows, kernel.reshape(kernel.shape[-2:])).reshape(*picked.shape[:-1], -1)
    return _convolve(x, kernel, stride, padding)


def _is_pointwise(kernel: jax.Array, padding: Padding) -> bool:
    return all(size == 1 for size in kernel.shape[:-2]) and not any(a or b for a, b in padding)


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
        cpu=lambda x, kernel: forms.on_cpu(x, kernel, stride, padding),
        default=lambda x, kernel: forms.direct(x, kernel, stride, padding),
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
    how = {"stride": stride, "padding": padding}
    return lax.platform_dependent(
        *saved,
        gradient,
        cpu=functools.partial(forms.gradients_on_cpu, **how),
        default=functools.partial(forms.direct_gradients, **how),
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)


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
    return _convolve_array(jax.nn.relu(normalised), kernel, stride, padding)


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
        def form(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return _convolve_array(x, kernel, stride, padding)

        _, of_both = jax.vjp(form, rectified(*sources), kernel)
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
        total, of_x = scan_chunks(add, start, rows_that_fit(sources[0]), *sources, gradient)
        return of_x, total

    of_x, of_kernel = lax.platform_dependent(gradient, *sources, cpu=on_cpu, default=at_once)
    return jnp.where(_normalised(*sources) > 0, of_x, 0), None, of_kernel


_convolve_rectified.defvjp(_convolve_rectified_forward, _convolve_rectified_backward)


def _normalised(source: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    return source.astype(jnp.float32) * factor + shift
