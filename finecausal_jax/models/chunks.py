"""Loops over a few images at a time, so that what is made of them stays in a CPU's cache."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# Half of a usual cache.
CHUNK_BYTES = 4 * 2**20


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

    def add(nothing: tuple, *rows: jax.Array) -> tuple[tuple, Any]:
        return nothing, function(*rows)

    return scan_chunks(add, (), chunk, *arrays)[1]


def scan_chunks(
    function: Callable[..., tuple[Any, Any]], carry: Any, chunk: int, *arrays: jax.Array
) -> tuple[Any, Any]:
    """The same with a function of the last call's carry and the rows, which returns both.

    Returns:
      The last carry, and the tree of arrays [n, ...].
    """
    if chunk == 1:  # without an axis of one in the loop's arrays: XLA would copy all of them
        split = arrays
    else:
        split = tuple(array.reshape(-1, chunk, *array.shape[1:]) for array in arrays)

    def step(carry: Any, rows: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        if chunk > 1:
            return function(carry, *rows)
        carry, out = function(carry, *(row[None] for row in rows))
        return carry, jax.tree.map(lambda array: array[0], out)

    carry, out = lax.scan(step, carry, split)
    if chunk > 1:
        out = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), out)
    return carry, out
