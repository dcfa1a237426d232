"""The optimiser on a tree of two numbers."""

import jax
import numpy as np
import optax
import pytest

from finecausal_jax.training import schedule
from finecausal_jax.training.optimiser import OptimiserSettings, make_optimiser


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
    """What each gradient in turn makes of zeros, and the optimiser's last state."""
    params = jax.tree.map(np.zeros_like, gradients[0])
    current, found, apply = optimiser.init(params), [], jax.jit(optimiser.apply)
    for gradient in gradients:
        updates, current = apply(gradient, current, params)
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


def test_a_step_takes_the_sum_of_its_micro_batches():
    settings = OptimiserSettings(CONSTANT, accumulate=2)
    found, after = updates_of(make_optimiser(settings), GRADIENTS)
    sums = [jax.tree.map(np.add, *GRADIENTS[:2]), jax.tree.map(np.add, *GRADIENTS[2:])]
    settings = OptimiserSettings(CONSTANT, accumulate=1)
    want, want_after = updates_of(make_optimiser(settings), sums)
    for updates in found[::2]:
        assert_same(updates, jax.tree.map(np.zeros_like, updates))
    assert_same(found[1::2], want)
    # Adam's step is the same for any multiple of the gradients; its moments are not.
    assert_same(adam_of(after), adam_of(want_after))
    mean = jax.tree.map(lambda a, b: 0.1 * (0.9 * a + b), *sums)
    assert_same(adam_of(after).mu, mean)


def test_accumulated_steps_are_those_of_multi_steps():
    """From a state whose Adam took steps before, as a converted checkpoint's did."""
    setting = schedule.Schedule(8, 1e-2, lr_factor=0.1, warmup_epochs=0, max_epoch=1)
    rate = schedule.optax_schedules(setting, 2)["rest"]
    adam = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(rate))
    multi_steps = optax.MultiSteps(adam, 2, use_grad_mean=False)
    made = make_optimiser(OptimiserSettings(setting, accumulate=2))
    kinds = (optax.ScaleByAdamState, optax.ScaleByScheduleState)

    def after_two_steps(state):
        return jax.tree.map(
            lambda node: node._replace(count=np.int32(2)) if isinstance(node, kinds) else node,
            state,
            is_leaf=lambda node: isinstance(node, kinds),
        )

    params = wanted = {"decoder1": {"w": np.ones(1, np.float32)}}
    found, want = after_two_steps(made.init(params)), after_two_steps(multi_steps.init(params))
    apply, update = jax.jit(made.apply), jax.jit(multi_steps.update)
    for one in GRADIENTS:
        gradients = {"decoder1": one["decoder1"]}
        params, found = apply(gradients, found, params)
        updates, want = update(gradients, want, wanted)
        wanted = jax.tree.map(np.add, wanted, jax.device_get(updates))
        assert_same(params, wanted)
        assert_same(found.acc_grads, want.acc_grads)
        assert_same(adam_of(found), adam_of(want))
        assert (found.mini_step, found.gradient_step) == (want.mini_step, want.gradient_step)


def test_the_first_step_of_adam_by_hand():
    (updates,), _ = updates_of(make_optimiser(OptimiserSettings(CONSTANT, 1)), GRADIENTS[:1])
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
    optimiser = make_optimiser(OptimiserSettings(setting, accumulate=4))
    found, _ = updates_of(optimiser, [ones] * 8)
    for step, share in ((3, 0.5), (7, 1.0)):  # micro-batch 8 begins the next period
        highest = 1e-2 * ratio
        base = 1e-3 + (highest - 1e-3) * share
        rest = 1e-3 + (1e-2 - 1e-3) * share
        np.testing.assert_allclose(found[step]["base_model"]["w"], [-base] * 2, rtol=1e-4)
        np.testing.assert_allclose(found[step]["decoder1"]["w"], [-rest], rtol=1e-4)


def test_the_summed_gradient_is_clipped_by_its_norm_over_all_modules():
    settings = OptimiserSettings(CONSTANT, accumulate=2, clip_norm=1.5)
    _, after = updates_of(make_optimiser(settings), GRADIENTS[:2])
    norm = np.sqrt(4.0**2 + 1.0**2 + 1.5**2)  # of the sum
    want = jax.tree.map(lambda a, b: 0.1 * (a + b) * 1.5 / norm, *GRADIENTS[:2])
    assert_same(adam_of(after).mu, want)
    # A shorter one stays as it is.
    settings = OptimiserSettings(CONSTANT, accumulate=2, clip_norm=5.0)
    _, after = updates_of(make_optimiser(settings), GRADIENTS[:2])
    assert_same(adam_of(after).mu, jax.tree.map(lambda a, b: 0.1 * (a + b), *GRADIENTS[:2]))


def test_a_negative_limit_of_the_norm_is_refused():
    with pytest.raises(ValueError, match="clip_norm is -1.0, expected a norm, or 0"):
        OptimiserSettings(CONSTANT, clip_norm=-1.0)
