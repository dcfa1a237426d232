"""Loops over a few rows at a time: the same as over all of them at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.lowering.chunks import largest_chunk, map_chunks, scan_chunks


@pytest.mark.parametrize(("n", "fitting", "chunk"), [(6, 4, 3), (6, 6, 6), (6, 0, 1), (7, 6, 1)])
def test_the_chunk_divides_and_fits(n, fitting, chunk):
    assert largest_chunk(n, fitting) == chunk


@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
def test_rows_come_back_in_order(chunk):
    x, y = jnp.arange(12.0).reshape(6, 2), jnp.arange(6.0)

    def of_rows(x, y):
        assert x.shape == (chunk, 2)
        return {"sum": x.sum(-1) + y, "x": x}

    out = map_chunks(of_rows, chunk, x, y)
    np.testing.assert_array_equal(out["sum"], x.sum(-1) + y)
    np.testing.assert_array_equal(out["x"], x)


@pytest.mark.parametrize("chunk", [1, 2, 6])
def test_the_carry_goes_from_chunk_to_chunk(chunk):
    x = jnp.arange(6.0)
    total, before = scan_chunks(lambda total, x: (total + x.sum(), x + total), 0.0, chunk, x)
    assert total == 15
    sums = [x[: k // chunk * chunk].sum() for k in range(6)]
    np.testing.assert_array_equal(before, x + jnp.stack(sums))
