"""BatchNorm's conventions, and what the attention modules must never do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models.graph_attention import CausalIntervention, complete_graph
from finecausal_jax.models.layers import BatchNorm
from finecausal_jax.models.stages import (
    pair_boundaries,
    pool_frames,
    pool_windows,
    predict_transitions,
)
from finecausal_jax.models.temporal_attention import TemporalCausalAttention


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_batch_norm_keeps_the_unbiased_variance_run_by_run():
    x = random(6, 5, 3) * 2 + 1
    norm = BatchNorm(3)
    variables = norm.init(jax.random.key(0), x, train=False)
    y, updates = norm.apply(variables, x, train=True, runs=2, mutable=["batch_stats"])
    mean, var = np.zeros(3), np.ones(3)
    for half, out in ((x[:3], y[:3]), (x[3:], y[3:])):
        flat = np.asarray(half, np.float64).reshape(-1, 3)
        want = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
        np.testing.assert_allclose(out.reshape(-1, 3), want, atol=1e-5)
        mean = 0.9 * mean + 0.1 * flat.mean(0)
        var = 0.9 * var + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], var, rtol=1e-5)


def test_a_later_stage_never_changes_an_earlier_one():
    stages = random(2, 3, 8)
    model = TemporalCausalAttention()
    variables = model.init(jax.random.key(0), stages, train=False)
    before, attention = model.apply(variables, stages, train=False)
    for changed in (1, 2):
        after, _ = model.apply(variables, stages.at[:, changed].add(3.0), train=False)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert np.abs(after[:, changed:] - before[:, changed:]).max() > 1e-3
    np.testing.assert_array_equal(np.triu(attention[0, 0, 0], 1), 0)
    np.testing.assert_allclose(np.sum(attention, -1), 1, atol=1e-6)


def test_permuting_the_nodes_of_the_graph_permutes_its_output():
    nodes = random(6, 16)
    order = np.array([3, 1, 5, 0, 2, 4])
    graph = complete_graph(6)
    model = CausalIntervention(heads=2)
    variables = model.init(jax.random.key(0), graph._replace(nodes=nodes), False)
    out, first, _ = model.apply(variables, graph._replace(nodes=nodes), False)
    moved, moved_first, _ = model.apply(variables, graph._replace(nodes=nodes[order]), False)
    np.testing.assert_allclose(moved, out[order], atol=1e-5)
    np.testing.assert_allclose(moved_first, first[:, order][:, :, order], atol=1e-6)
    np.testing.assert_allclose(np.sum(first, -1), 1, atol=1e-6)
    np.testing.assert_array_equal(np.diagonal(first, axis1=1, axis2=2), 0)


def test_stage_pooling_matches_the_reference(reference_cases):
    case = np.load(reference_cases / "stage_pooling.npz")
    for boundaries, want in zip(case["clip_boundaries"], case["clip_stages"], strict=True):
        got = pool_windows(jnp.asarray(case["clip_feature"]), jnp.asarray(boundaries)[None])
        np.testing.assert_allclose(got[0], want, atol=1e-6)
    for boundaries, want in zip(case["frame_boundaries"], case["frame_stages"], strict=True):
        got = pool_frames(jnp.asarray(case["frame_feature"]), jnp.asarray(boundaries)[None])
        np.testing.assert_allclose(jnp.concatenate(got, 1)[0], want, atol=1e-5)


def test_transitions_out_of_order_stay_finite():
    got = pool_frames(random(1, 96, 2), jnp.array([[95, 1]]))
    assert all(np.isfinite(piece).all() for piece in got)


def test_predicted_transitions_come_from_their_half():
    probability = jnp.zeros((1, 8, 2)).at[0, 6, 0].set(0.9).at[0, 2, 0].set(0.5)
    probability = probability.at[0, 1, 1].set(0.9).at[0, 5, 1].set(0.3)
    np.testing.assert_array_equal(predict_transitions(probability), [[2, 5]])


@pytest.mark.parametrize(("query", "exemplar", "want"), [((5, 78), (4, 79), (0, 7))])
def test_a_pair_is_cut_at_its_mean_transitions(query, exemplar, want):
    got = pair_boundaries(jnp.array([query, exemplar]))
    np.testing.assert_array_equal(got, [want, want])
