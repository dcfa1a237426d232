"""The losses by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from finecausal_jax.training import losses


def test_difference_loss_counts_both_directions():
    forward, backward = jax.jit(losses.delta_loss)(
        np.float32([[1], [2], [-1], [0]]), np.float32([10, 12]), np.float32([9, 12])
    )
    assert float(forward) == 2.0  # errors 0 and 2
    assert float(backward) == 0.0


def test_transition_loss_is_the_mean_over_frames_and_channels():
    loss, frames = jax.jit(losses.transition_loss), np.array([[1, 2]])
    want = -(math.log(0.25) + 3 * math.log(0.75)) / 4
    got = loss(np.full((1, 4, 2), 0.25, np.float32), frames)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    certain = loss(np.zeros((1, 4, 2), np.float32), frames)
    np.testing.assert_allclose(certain, 25.0)  # one of four frames at the bound of 100


def test_transition_loss_gradient_is_finite_where_the_sigmoid_is_saturated():
    def loss(logits):
        return losses.transition_loss(jax.nn.sigmoid(logits), jnp.array([[1, 2]]))

    # Channel 0: certain, right at frames 0 and 1, wrong at 2 and 3. Channel 1: uncertain.
    logits = np.float32([[-200, 200, 200, 9], [0.5, -2, 1, 3]]).T[None]
    target = np.array([[0, 1, 0, 0], [0, 0, 1, 0]]).T[None]
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    probability = 1 / (1 + np.exp(-np.float64(logits)))
    want = (probability - target) / 8  # by hand, of the mean over 4 frames and 2 channels
    want[0, 2, 0] = 0  # as PyTorch has it: a saturated sigmoid lets no gradient through
    # One wrong frame at the bound of 100; the other is 9 but for rounding 1 - p by 6e-8 of 1e-4.
    uncertain = -np.log(np.where(target, probability, 1 - probability)[..., 1]).sum()
    np.testing.assert_allclose(value, (100 + 9 + uncertain) / 8, atol=1e-3)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, want, rtol=1e-5, atol=1e-8)


def test_mask_loss_wants_foreground_where_the_mask_is():
    logits = np.log(np.float32([3, 1 / 3, 3, 1 / 3, 3, 1 / 3])).reshape(1, 1, 6, 1, 1)
    mask = np.float32([1, 0, 0, 0, 0, 0]).reshape(1, 6, 1, 1)  # four right, two wrong
    right, wrong = 0.25**2 * -math.log(0.75), 0.75**2 * -math.log(0.25)
    got = jax.jit(lambda *inputs: losses.mask_loss([inputs[0]], inputs[1], 1))(logits, mask)
    np.testing.assert_allclose(got, (4 * right + 2 * wrong) / 6, rtol=1e-6)


def test_videos_without_a_mask_are_left_out_of_the_mask_loss():
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.normal(size=(3, 1, 6, 2, 2)), jnp.float32)
    mask = jnp.array(rng.integers(0, 2, (3, 6, 2, 2)), jnp.float32)
    loss = jax.jit(lambda logits, mask, known: losses.mask_loss([logits], mask, 1, 0.8, known))
    want = losses.mask_loss([logits[:2]], mask[:2], 1, 0.8)
    some, every, none = (jnp.array(known) for known in ([1, 1, 0], [1, 1, 1], [0, 0, 0]))
    np.testing.assert_allclose(loss(logits, mask, some > 0), want, rtol=1e-6)
    gradient = jax.grad(loss)(logits, mask, some > 0)
    assert np.any(gradient[:2]) and not np.any(gradient[2])
    whole = losses.mask_loss([logits], mask, 1, 0.8)
    np.testing.assert_allclose(loss(logits, mask, every > 0), whole, rtol=1e-6)
    assert loss(logits, mask, none > 0) == 0
    assert not np.any(jax.grad(loss)(logits, mask, none > 0))


def test_the_diver_can_weigh_more_in_the_mask_loss():
    logits = jnp.log(jnp.array([3, 1 / 3, 3, 1 / 3], jnp.float32)).reshape(1, 1, 4, 1, 1)
    mask = jnp.array([1, 1, 0, 0], jnp.float32).reshape(
        1, 4, 1, 1
    )  # one right and one wrong of each
    right, wrong = 0.25**2 * -math.log(0.75), 0.75**2 * -math.log(0.25)
    for foreground in (0.5, 0.8):
        got = losses.mask_loss([logits], mask, 1, foreground)
        np.testing.assert_allclose(got, (right + wrong) / 2, rtol=1e-6)  # the weights' mean is 1
    gradient = jax.grad(lambda x: losses.mask_loss([x], mask, 1, 0.8))(logits).ravel()
    plain = jax.grad(lambda x: losses.mask_loss([x], mask, 1))(logits).ravel()
    np.testing.assert_allclose(gradient, plain * np.float32([1.6, 1.6, 0.4, 0.4]), rtol=1e-6)


def test_mask_loss_sums_the_maps_and_rounds_the_mask():
    logits = np.zeros((1, 2, 2, 1, 1), np.float32)
    mask = np.float32([0.4, 0.6, 0.9, 0.1]).reshape(1, 4, 1, 1)

    @jax.jit
    def both(logits, mask):
        return losses.mask_loss([logits] * 5, mask, 2), losses.window_masks(mask, 2, 2, 2)

    loss, cut = both(logits, mask)
    each = 0.25 * math.log(2)  # (1 - 1/2)^2 times the cross-entropy
    np.testing.assert_allclose(loss, 5 * each, rtol=1e-6)
    np.testing.assert_array_equal(np.ravel(cut), [0, 1, 1, 0])


def test_total_loss_weighs_by_learned_values():
    got = jax.jit(losses.total_loss)(
        np.float32([1, 2, 0.5]), np.float32(4), np.float32(3), np.float32(1)
    )
    want = 5 * (2 + math.log(2)) + (0.125 * 3 + math.log(5)) + (2 + math.log(1.25))
    np.testing.assert_allclose(got.loss, want, rtol=1e-6)


def test_total_loss_weighs_by_given_values_too():
    parts = jnp.float32(4), jnp.float32(3), jnp.float32(1)
    got = losses.total_loss(jnp.ones(3), *parts, (1.0, 2.0, 100.0))
    np.testing.assert_allclose(got.loss, 2 + 3 + 50 + 103 * math.log(2), rtol=1e-6)


def test_plain_sum_adds_the_parts_up():
    found = losses.plain_sum(*(jnp.float32(part) for part in (3.0, 4.0, 5.0)))
    assert [float(x) for x in vars(found).values()] == [12.0, 3.0, 4.0, 5.0]
