"""The losses by hand."""

import math

import jax.numpy as jnp
import numpy as np

from finecausal_jax.training import losses


def test_difference_loss_counts_both_directions():
    forward, backward = losses.delta_loss(
        jnp.array([[1.0], [2.0], [-1.0], [0.0]]), jnp.array([10.0, 12.0]), jnp.array([9.0, 12.0])
    )
    assert float(forward) == 2.0  # errors 0 and 2
    assert float(backward) == 0.0


def test_transition_loss_is_the_mean_over_frames_and_channels():
    probability = jnp.full((1, 4, 2), 0.25)
    want = -(math.log(0.25) + 3 * math.log(0.75)) / 4
    got = losses.transition_loss(probability, jnp.array([[1, 2]]))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    certain = losses.transition_loss(jnp.zeros((1, 4, 2)), jnp.array([[1, 2]]))
    np.testing.assert_allclose(certain, 25.0)  # one of four frames at the bound of 100


def test_mask_loss_sums_the_maps_and_rounds_the_mask():
    logits = jnp.zeros((1, 2, 2, 1, 1))
    mask = jnp.array([0.4, 0.6, 0.9, 0.1]).reshape(1, 4, 1, 1)
    each = 0.25 * math.log(2)  # (1 - 1/2)^2 times the cross-entropy
    np.testing.assert_allclose(losses.mask_loss([logits] * 5, mask, 2), 5 * each, rtol=1e-6)
    cut = losses.window_masks(mask, 2, 2, 2)
    np.testing.assert_array_equal(cut.ravel(), [0, 1, 1, 0])


def test_total_loss_weighs_by_learned_values():
    got = losses.total_loss(
        jnp.array([1.0, 2.0, 0.5]), jnp.float32(4), jnp.float32(3), jnp.float32(1)
    )
    want = 5 * (2 + math.log(2)) + (0.125 * 3 + math.log(5)) + (2 + math.log(1.25))
    np.testing.assert_allclose(got.loss, want, rtol=1e-6)
