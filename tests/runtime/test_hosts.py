"""A run of one process: it leads, waits for nobody, and gathers what it has."""

import jax.numpy as jnp
import numpy as np

from finecausal_jax.runtime import hosts


def test_one_process_leads():
    assert (hosts.count(), hosts.index(), hosts.leads()) == (1, 0, True)
    hosts.wait("here")  # returns at once


def test_what_is_gathered_has_a_row_a_process():
    found = hosts.gather({"scores": jnp.arange(3.0), "dives": np.array([4])})
    np.testing.assert_array_equal(found["scores"], [[0, 1, 2]])
    np.testing.assert_array_equal(found["dives"], [[4]])
