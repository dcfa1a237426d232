"""Initial values without running the network, and the optimiser on a tree of two numbers."""

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import optax
import pytest

from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.training import schedule, state


def gradient(base_model, decoder1):
    return {
        "base_model": {"w": np.array(base_model, np.float32)},
        "decoder1": {"w": np.array(decoder1, np.float32)},
    }


# Two steps of two micro-batches.
GRADIENTS = [
    gradient([3.0, -1.0], [0.5]),
    gradient([1.0, 2.0], [-2.0]),
    gradient([-1.0, 4.0], [1.0]),
    gradient([2.0, 0.0], [1.5]),
]
CONSTANT = schedule.Schedule(1, base_lr=1e-2, lr_factor=1.0, warmup_epochs=0)


def updates_of(optimiser, gradients):
    """The updates of each gradient in turn, and the optimiser's last state."""
    params = jax.tree.map(np.zeros_like, gradients[0])
    current, found, update = optimiser.init(params), [], jax.jit(optimiser.update)
    for gradient in gradients:
        updates, current = update(gradient, current, params)
        found.append(updates)
    return found, current


def adam_of(opt_state):
    """Adam's own state, wherever it lies."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
    (found,) = (node for node in nodes if isinstance(node, optax.ScaleByAdamState))
    return found


def assert_same(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


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
    found = state.init_variables(Pair(), 5, jax.random.key(3), wanted)
    video = np.zeros((1, 2, 5, 5, 3), np.float32)
    want = Pair().init(jax.random.key(3), video, video)
    assert sorted(flax.traverse_util.flatten_dict(found, sep="/")) == sorted(wanted)
    assert np.array_equal(found["params"]["second"]["kernel"], want["params"]["second"]["kernel"])
    assert np.array_equal(found["params"]["first"]["bias"], np.zeros(4))
    assert np.array_equal(found["batch_stats"]["norm"]["var"], np.ones(3))
    other = state.init_variables(Pair(), 5, jax.random.key(4), wanted)
    assert not np.array_equal(
        found["params"]["second"]["kernel"], other["params"]["second"]["kernel"]
    )
    whole = state.init_variables(Pair(), 5, jax.random.key(3))
    assert jax.tree.structure(whole) == jax.tree.structure(want)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, whole, want)))


def test_a_step_takes_the_sum_of_its_micro_batches():
    settings = state.Optimiser(CONSTANT, accumulate=2)
    found, after = updates_of(state.make_optimiser(settings), GRADIENTS)
    sums = [jax.tree.map(np.add, *GRADIENTS[:2]), jax.tree.map(np.add, *GRADIENTS[2:])]
    settings = state.Optimiser(CONSTANT, accumulate=1)
    want, want_after = updates_of(state.make_optimiser(settings), sums)
    for updates in found[::2]:
        assert_same(updates, jax.tree.map(np.zeros_like, updates))
    assert_same(found[1::2], want)
    # Adam's step is the same for any multiple of the gradients; its moments are not.
    assert_same(adam_of(after), adam_of(want_after))
    mean = jax.tree.map(lambda a, b: 0.1 * (0.9 * a + b), *sums)
    assert_same(adam_of(after).mu, mean)


def test_the_first_step_of_adam_by_hand():
    (updates,), _ = updates_of(state.make_optimiser(state.Optimiser(CONSTANT, 1)), GRADIENTS[:1])
    # The rate times the gradient's sign: the moments' bias is corrected, which float32 does to
    # some 6e-8 / 1e-3, since 1 - 0.999 cancels.
    np.testing.assert_allclose(updates["base_model"]["w"], [-1e-2, 1e-2], rtol=1e-4)
    np.testing.assert_allclose(updates["decoder1"]["w"], [-1e-2], rtol=1e-4)


@pytest.mark.parametrize(("base_model_lr", "ratio"), [(None, 0.1), (5e-3, 0.5), (2e-2, 2.0)])
def test_base_model_has_a_rate_of_its_own(base_model_lr, ratio):
    # A cosine of 8 micro-batches from 1e-2 to 1e-3; its second half is the second step's.
    setting = schedule.Schedule(
        8, 1e-2, lr_factor=0.1, warmup_epochs=0, max_epoch=1, base_model_lr=base_model_lr
    )
    ones = jax.tree.map(np.ones_like, GRADIENTS[0])
    optimiser = state.make_optimiser(state.Optimiser(setting, accumulate=4))
    found, _ = updates_of(optimiser, [ones] * 8)
    for step, share in ((3, 0.5), (7, 1.0)):  # micro-batch 8 begins the next period
        highest = 1e-2 * ratio
        base = 1e-3 + (highest - 1e-3) * share
        rest = 1e-3 + (1e-2 - 1e-3) * share
        np.testing.assert_allclose(found[step]["base_model"]["w"], [-base] * 2, rtol=1e-4)
        np.testing.assert_allclose(found[step]["decoder1"]["w"], [-rest], rtol=1e-4)


def test_the_summed_gradient_is_clipped_by_its_norm_over_all_modules():
    settings = state.Optimiser(CONSTANT, accumulate=2, clip_norm=1.5)
    _, after = updates_of(state.make_optimiser(settings), GRADIENTS[:2])
    norm = np.sqrt(4.0**2 + 1.0**2 + 1.5**2)  # of the sum
    want = jax.tree.map(lambda a, b: 0.1 * (a + b) * 1.5 / norm, *GRADIENTS[:2])
    assert_same(adam_of(after).mu, want)
    # A shorter one stays as it is.
    settings = state.Optimiser(CONSTANT, accumulate=2, clip_norm=5.0)
    _, after = updates_of(state.make_optimiser(settings), GRADIENTS[:2])
    assert_same(adam_of(after).mu, jax.tree.map(lambda a, b: 0.1 * (a + b), *GRADIENTS[:2]))


def test_a_negative_limit_of_the_norm_is_refused():
    with pytest.raises(ValueError, match="clip_norm is -1.0, expected a norm, or 0"):
        state.Optimiser(CONSTANT, clip_norm=-1.0)
