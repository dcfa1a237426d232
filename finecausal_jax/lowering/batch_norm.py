"""Normalisation by batch statistics, with a backward pass that reads its arrays seldom.

What autodiff makes of the plain formula keeps the centred and the normalised input beside the
input itself, and sums a chain of elementwise work anew for each of four sums. Here only the input
is kept, and two sums are taken. With running statistics nothing but a shift is left to do: the
factor is folded into the convolution before.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from finecausal_jax.lowering.rectified import Normalised

Statistic = Float[Array, "*g 1 c"]


def batch_norm(
    x: Float[Array, "n *space c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
    *,
    groups: int = 1,
    dtype: Any = jnp.float32,
    plain: bool = False,
) -> tuple[Normalised | Array, Float[Array, "g c"], Float[Array, "g c"]]:
    """Normalises each of some equal groups of images by its own statistics.

    Args:
      x: [n, *space, c], floating point; computed with as float32.
      scale: [c].
      bias: [c].
      epsilon: added to the variance.
      groups: how many there are; the first n / groups images are the first one.
      dtype: of the result.
      plain: compute it as written, and let autodiff find the gradients; the result is an array.

    Returns:
      The normalised images times `scale` plus `bias`, and mean and (biased) variance of each group.
      The gradients of the statistics are not passed on: nothing here is trained by them.
    """
    lead = () if groups == 1 else (groups,)
    rows = x.astype(jnp.float32).reshape(*lead, -1, x.shape[-1])
    form = _as_written if plain else normalize_by_batch
    y, *statistics = form(rows, scale, bias, epsilon)
    y = y.reshape(x.shape).astype(dtype)
    mean, var = (values.reshape(groups, x.shape[-1]) for values in statistics)
    if plain:
        return y, mean, var

    def by_image(values: Array) -> Array:
        values = jnp.repeat(values, x.shape[0] // groups, axis=0)
        return jnp.expand_dims(values, range(1, x.ndim - 1))

    factor = _rows(scale, x) * lax.rsqrt(by_image(var) + epsilon)
    shift = _rows(bias, x) - by_image(mean) * factor
    return Normalised(y, x, factor, shift), mean, var


def shifted(x: Float[Array, "n *space c"], shift: Float[Array, " c"]) -> Normalised:
    """What is left of a BatchNorm whose factor is folded into the convolution that gave `x`."""
    by_image = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    # In the dtype of the sum, or what is computed again could be rounded otherwise.
    rounded = _rows(shift.astype(x.dtype), x)
    again = jnp.broadcast_to(rounded.astype(jnp.float32), by_image)
    return Normalised(x + rounded, x, jnp.ones(by_image, jnp.float32), again)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_by_batch(
    x: Float[Array, "*g m c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
) -> tuple[Float[Array, "*g m c"], Statistic, Statistic]:
    """Normalises the rows of each group by their own mean and variance, channel by channel.

    Args:
      x: float32, [m, c] or [groups, m, c]. Give a single group without its axis: XLA's CPU backend
        sums products of arrays with an axis of one many times more slowly.
      scale: [c].
      bias: [c].
      epsilon: added to the variance.

    Returns:
      The normalised rows times `scale` plus `bias`, the mean, and the (biased) variance. The
      gradients of the statistics are not passed on: nothing here is trained by them.
    """
    mean = jnp.mean(x, axis=-2, keepdims=True)
    # Each barrier ends a pass over `x`; without it the passes are fused into slower ones.
    mean = lax.optimization_barrier(mean)
    var = jnp.mean(jnp.square(x - mean), axis=-2, keepdims=True)
    factor = _rows(scale, x) * lax.rsqrt(var + epsilon)
    return x * factor + (_rows(bias, x) - mean * factor), mean, var


def _forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple:
    y, mean, var = normalize_by_batch(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, mean, var)


def _backward(epsilon: float, saved: tuple, gradients: tuple) -> tuple:
    x, scale, mean, var = saved
    # What comes before is computed once, not once for each of the three times it is read; and `x`
    # is centred again, where XLA would keep the forward pass's centred copy beside it.
    x, gradient = lax.optimization_barrier((x, gradients[0]))
    inverse = lax.rsqrt(var + epsilon)
    total = jnp.sum(gradient, axis=-2, keepdims=True)
    along = jnp.sum(gradient * (x - mean), axis=-2, keepdims=True)
    total, along = lax.optimization_barrier((total, along))
    rows = x.shape[-2]
    of_x = (_rows(scale, x) * inverse) * (
        gradient - total / rows - (x - mean) * (jnp.square(inverse) * along / rows)
    )
    channels = x.shape[-1]
    of_scale = jnp.sum((along * inverse).reshape(-1, channels), axis=0)
    return of_x, of_scale, jnp.sum(total.reshape(-1, channels), axis=0)


normalize_by_batch.defvjp(_forward, _backward)


def _as_written(
    x: Float[Array, "*g m c"], scale: Float[Array, " c"], bias: Float[Array, " c"], epsilon: float
) -> tuple[Float[Array, "*g m c"], Statistic, Statistic]:
    mean = jnp.mean(x, axis=-2, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axis=-2, keepdims=True)
    y = (x - mean) * lax.rsqrt(var + epsilon) * _rows(scale, x) + _rows(bias, x)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def _rows(values: Array, like: Array) -> Array:
    """[c] with as many axes as `like`."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
