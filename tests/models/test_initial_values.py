"""Initial values without running the network."""

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from finecausal_jax.models import initial_values
from finecausal_jax.models.finecausal import FineCausal


def test_fresh_values_are_those_of_init():
    class Pair(FineCausal):  # small enough to run `init`, which the whole network is not
        frames: int = 2

        def setup(self):
            """None of the network's parts."""

        @nn.compact
        def __call__(self, query, exemplar):
            x = nn.BatchNorm(use_running_average=True, name="norm")(query - exemplar)
            return nn.Dense(3, name="second")(nn.Dense(4, name="first")(x))

    wanted = ["params/second/kernel", "batch_stats/norm/var", "params/first/bias"]
    found = initial_values.init_variables(Pair(), 5, jax.random.key(3), wanted)
    video = np.zeros((1, 2, 5, 5, 3), np.float32)
    want = Pair().init(jax.random.key(3), video, video)
    assert sorted(flax.traverse_util.flatten_dict(found, sep="/")) == sorted(wanted)
    assert np.array_equal(found["params"]["second"]["kernel"], want["params"]["second"]["kernel"])
    assert np.array_equal(found["params"]["first"]["bias"], np.zeros(4))
    assert np.array_equal(found["batch_stats"]["norm"]["var"], np.ones(3))
    other = initial_values.init_variables(Pair(), 5, jax.random.key(4), wanted)
    assert not np.array_equal(
        found["params"]["second"]["kernel"], other["params"]["second"]["kernel"]
    )
    whole = initial_values.init_variables(Pair(), 5, jax.random.key(3))
    assert jax.tree.structure(whole) == jax.tree.structure(want)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, whole, want)))
