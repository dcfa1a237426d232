"""ReLUs that are left to what comes next, where they cost less time or memory.

A convolution of a ReLU keeps what BatchNorm was given, which is kept anyway, in place of the ReLU;
a pool takes the ReLU of its maxima, which are fewer. So `relu` of what BatchNorm made computes
nothing, and the functions of this package that may follow it take a `Rectified` as they take an
array.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from finecausal_jax.lowering.chunks import map_on_cpu


class Normalised(NamedTuple):
    """What BatchNorm made, and how to make it again.

    Attributes:
      value: [n, *space, c], `source * factor + shift`.
      source: [n, *space, c], what BatchNorm was given, or, where its factor is folded into a
        convolution, what that one gave.
      factor: [n, *1, c], float32, by image; ones where it is folded.
      shift: [n, *1, c], float32, by image.
    """

    value: jax.Array
    source: jax.Array
    factor: jax.Array
    shift: jax.Array


class Rectified(NamedTuple):
    """ReLU of what BatchNorm made, which nothing has computed yet.

    A convolution of it keeps the source for its backward pass, and computes the ReLU again: half of
    the memory in training, where BatchNorm keeps the source anyway, for a multiplication and an
    addition a value.
    """

    normalised: Normalised

    @property
    def value(self) -> jax.Array:
        """The ReLU itself, [n, *space, c]."""
        return jax.nn.relu(self.normalised.value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.normalised.value.shape


# [n, *space, c]
Activation = jax.Array | Rectified


def value_of(x: jax.Array | Normalised | Rectified) -> jax.Array:
    """The array [n, *space, c] that is meant."""
    return x.value if isinstance(x, Normalised | Rectified) else x


def relu(x: jax.Array | Normalised) -> Activation:
    """The ReLU of an array, at once; of what BatchNorm made, left to what comes next."""
    return Rectified(x) if isinstance(x, Normalised) else jax.nn.relu(x)


def add(x: jax.Array | Normalised, y: jax.Array | Normalised) -> jax.Array:
    """The sum of two arrays of one shape."""
    return value_of(x) + value_of(y)


def concatenate(parts: list[Activation]) -> jax.Array:
    """Joins arrays [n, *space, c] along their channels.

    Of ReLUs that nothing has computed yet, the gradient reads the result, so that the parts need
    not be kept beside it.
    """
    if all(isinstance(part, Rectified) for part in parts):
        return _rectified_whole([part.normalised.value for part in parts])
    return jnp.concatenate([value_of(part) for part in parts], axis=-1)


@jax.custom_vjp
def _rectified_whole(parts: list[jax.Array]) -> jax.Array:
    """The ReLU of arrays [n, *space, c] joined along their channels."""
    # In a loop on a CPU, or XLA would make the ReLU again from the parts, and keep those too.
    return map_on_cpu(lambda *parts: jax.nn.relu(jnp.concatenate(parts, axis=-1)), *parts)


def _rectified_whole_forward(
    parts: list[jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, list[int]]]:
    result = _rectified_whole(parts)
    return result, (result, [part.shape[-1] for part in parts])


def _rectified_whole_backward(
    saved: tuple[jax.Array, list[int]], gradient: jax.Array
) -> tuple[list[jax.Array]]:
    result, widths = saved
    gradient = jnp.where(result > 0, gradient, 0)
    return (jnp.split(gradient, list(itertools.accumulate(widths[:-1])), axis=-1),)


_rectified_whole.defvjp(_rectified_whole_forward, _rectified_whole_backward)
