"""BatchNorm's conventions, and what the attention modules must never do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models.causal_graph import GRAPHS, stage_edges
from finecausal_jax.models.graph_attention import CausalIntervention
from finecausal_jax.models.layers import BatchNorm
from finecausal_jax.models.stages import (
    pair_boundaries,
    pool_frames,
    pool_windows,
    predict_transitions,
)
from finecausal_jax.models.temporal_attention import TemporalCausalAttention


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compiled(module, *inputs, **mode):
    """The module on arrays as `inputs`, with variables from NumPy: its own would be compiled."""
    shapes = jax.eval_shape(functools.partial(module.init, **mode), jax.random.key(0), *inputs)
    numbers = np.random.default_rng(1)

    def fill(x):
        fan_in = max(1, int(np.prod(x.shape[:-1])))
        return (numbers.standard_normal(x.shape) * fan_in**-0.5).astype(x.dtype)

    variables = jax.tree.map(fill, shapes)
    apply = jax.jit(functools.partial(module.apply, **mode))
    return lambda *inputs: jax.device_get(apply(variables, *inputs))


def test_batch_norm_keeps_the_unbiased_variance_run_by_run():
    x = random(6, 5, 3) * 2 + 1
    norm = BatchNorm(3)

    @jax.jit
    def run(x):
        variables = norm.init(jax.random.key(0), x, train=False)
        return norm.apply(variables, x, train=True, runs=2, mutable=["batch_stats"])

    y, updates = jax.device_get(run(x))
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
    stages, allowed = random(2, 3, 8), stage_edges("causal", 3)
    run = compiled(TemporalCausalAttention(), stages, allowed=allowed, train=False)
    before, attention = run(stages)
    for changed in (1, 2):
        other = stages.copy()
        other[:, changed] += 3.0
        after, _ = run(other)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert np.abs(after[:, changed:] - before[:, changed:]).max() > 1e-3
    np.testing.assert_array_equal(np.triu(attention[0, 0, 0], 1), 0)
    np.testing.assert_allclose(np.sum(attention, -1), 1, atol=1e-6)


def test_permuting_the_nodes_of_the_graph_permutes_its_output():
    nodes = random(6, 16)
    order = np.array([3, 1, 5, 0, 2, 4])
    graph = GRAPHS["original"].connect(windows=3)  # 6 nodes, each with edges from all others
    run = compiled(CausalIntervention(heads=2), graph._replace(nodes=nodes), train=False)

    def run_on(nodes):
        out, weights, _ = run(graph._replace(nodes=nodes))
        matrix = np.zeros((2, 6, 6))  # [head, target, source]
        matrix[:, graph.receivers, graph.senders] = weights
        return out, matrix

    out, first = run_on(nodes)
    moved, moved_first = run_on(nodes[order])
    np.testing.assert_allclose(moved, out[order], atol=1e-5)
    np.testing.assert_allclose(moved_first, first[:, order][:, :, order], atol=1e-6)
    np.testing.assert_allclose(np.sum(first, -1), 1, atol=1e-6)


def test_stage_pooling_matches_the_reference(reference_cases):
    case = np.load(reference_cases / "stage_pooling.npz")
    for name, pool, atol in (("clip", pool_windows, 1e-6), ("frame", pool_frames, 1e-5)):
        boundaries = case[f"{name}_boundaries"]
        # A case of one video, cut at each of the boundaries.
        videos = np.repeat(case[f"{name}_feature"], len(boundaries), axis=0)
        got = jax.device_get(jax.jit(pool)(videos, boundaries))
        got = np.concatenate(got, axis=1) if name == "frame" else got
        assert got.shape == case[f"{name}_stages"].shape
        np.testing.assert_allclose(got, case[f"{name}_stages"], atol=atol)


def test_transitions_out_of_order_stay_finite():
    got = jax.jit(pool_frames)(random(1, 96, 2), jnp.array([[95, 1]]))
    assert all(np.isfinite(piece).all() for piece in got)


def test_predicted_transitions_come_from_their_half():
    probability = np.zeros((1, 8, 2), np.float32)
    probability[0, [6, 2], 0] = 0.9, 0.5
    probability[0, [1, 5], 1] = 0.9, 0.3
    np.testing.assert_array_equal(jax.jit(predict_transitions)(probability), [[2, 5]])


@pytest.mark.parametrize(("query", "exemplar", "want"), [((5, 78), (4, 79), (0, 7))])
def test_a_pair_is_cut_at_its_mean_transitions(query, exemplar, want):
    got = jax.jit(pair_boundaries)(np.array([query, exemplar]))
    np.testing.assert_array_equal(got, [want, want])
