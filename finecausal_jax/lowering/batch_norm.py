"""Normalisation by batch statistics, with a backward pass that reads its arrays seldom.

What autodiff makes of the plain formula keeps the centred and the normalised input beside the
input itself, and sums a chain of elementwise work anew for each of four sums. Here only the input
is kept, and two sums are taken.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Statistic = Float[Array, "*g 1 c"]


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


def _rows(values: Array, like: Array) -> Array:
    """[c] with as many axes as `like`."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
