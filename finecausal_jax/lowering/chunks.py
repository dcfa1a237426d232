"""Loops over a few images at a time, so that what is made of them stays in a CPU's cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Half of a usual cache.
CHUNK_BYTES = 4 * 2**20


def map_on_cpu(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Calls a function of arrays [n, ...]; on a CPU with a few of n at a time.

    As many as, of the first array, fit a cache.

    In a loop all its results are there at once, too: elsewhere XLA would put off the places of a
    pool's maxima to the backward pass, and keep the padded inputs until then.

    Args:
      function: of arrays [m, ...], for any m; returns a tree of arrays [m, ...].
      *arrays: [n, ...].

    Returns:
      The tree, of arrays [n, ...].
    """
    return lax.platform_dependent(
        *arrays,
        cpu=lambda *arrays: map_chunks(function, rows_that_fit(arrays[0]), *arrays),
        default=function,
    )


def rows_that_fit(x: jax.Array) -> int:
    """How many rows of an array are taken together, so that they fit a cache."""
    n = x.shape[0]
    return chunk_of(n, max(1, x.nbytes // n))


def chunk_of(n: int, bytes_of_one: int, least: int = 0) -> int:
    """How many of `n` are taken together: a divisor, as many as fit a cache or `least` bytes."""
    return largest_chunk(n, max(CHUNK_BYTES, least) // bytes_of_one)


def largest_chunk(n: int, fitting: int) -> int:
    """The largest divisor of `n` that is at most `fitting`; at least 1."""
    return max(part for part in range(1, n + 1) if n % part == 0 and part <= max(1, fitting))


def map_chunks(function: Callable[..., Any], chunk: int, *arrays: jax.Array) -> Any:
    """Calls a function with `chunk` rows of each array at a time.

    Args:
      function: of arrays [chunk, ...]; returns a tree of arrays [chunk, ...].
      chunk: a divisor of n.
      *arrays: [n, ...].

    Returns:
      The tree, of arrays [n, ...].
    """

    def without_carry(carry: tuple, *rows: jax.Array) -> tuple[tuple, Any]:
        return carry, function(*rows)

    return scan_chunks(without_carry, (), chunk, *arrays)[1]


def scan_chunks(
    function: Callable[..., tuple[Any, Any]], carry: Any, chunk: int, *arrays: jax.Array
) -> tuple[Any, Any]:
    """`map_chunks` of a function that is also given a carry, and returns the next.

    Args:
      function: of the carry and arrays [chunk, ...]; returns the next carry, shaped like the last,
        and a tree of arrays [chunk, ...].
      carry: the first one.
      chunk: a divisor of n.
      *arrays: [n, ...].

    Returns:
      The last carry, and the tree of arrays [n, ...].
    """
    n = arrays[0].shape[0]
    if chunk == n:
        return function(carry, *arrays)

    def rows_of(i: Any) -> list[jax.Array]:
        return [lax.dynamic_slice_in_dim(array, i * chunk, chunk) for array in arrays]

    def step(i: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, whole = state
        carry, rows = function(carry, *rows_of(i))

        def put(whole: jax.Array, rows: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice_in_dim(whole, rows, i * chunk, 0)

        return carry, jax.tree.map(put, whole, rows)

    _, shapes = jax.eval_shape(lambda carry: function(carry, *rows_of(0)), carry)
    # All of it is written over. From a value of an input instead of zeros, since XLA would keep one
    # array of zeros for all loops, and copy it for each; of the last, which is the gradient in a
    # backward pass, or it would be the forward pass's array that is kept.
    any_value = arrays[-1].reshape(-1)[0]

    def unwritten(rows: Any) -> jax.Array:
        return jnp.broadcast_to(any_value.astype(rows.dtype), (n, *rows.shape[1:]))

    return lax.fori_loop(0, n // chunk, step, (carry, jax.tree.map(unwritten, shapes)))
