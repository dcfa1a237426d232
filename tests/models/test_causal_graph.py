"""Graphs as data: which edges a graph has, what cutting leaves, which stage attends to which."""

import itertools

import numpy as np
import pytest

from finecausal_jax.models.causal_graph import (
    GRAPHS,
    NODE_KINDS,
    STAGE_ORDERS,
    EdgeSet,
    MessageGraph,
    stage_edges,
)

COMPLETE = GRAPHS["complete"]


def edges_of(graph, windows, samples=1):
    """{(source, target)}, each node as (kind, sample, window)."""
    nodes = list(itertools.product(graph.kinds, range(samples), range(windows)))
    made = graph.connect(windows, samples)
    assert made.n_node == [len(nodes)] and made.n_edge == [len(made.senders)]
    pairs = [(nodes[s], nodes[r]) for s, r in zip(made.senders, made.receivers, strict=True)]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


@pytest.mark.parametrize(("name", "kinds"), [("complete", 4), ("original", 2), ("fused", 2)])
@pytest.mark.parametrize("samples", [1, 2])
def test_named_graphs_have_all_edges_but_loops(name, kinds, samples):
    graph = GRAPHS[name]
    nodes = list(itertools.product(graph.kinds, range(samples), range(3)))
    assert len(nodes) == kinds * samples * 3
    assert edges_of(graph, 3, samples) == set(itertools.permutations(nodes, 2))


def test_edges_come_by_target_then_source_and_are_made_once():
    made = COMPLETE.connect(2)
    order = list(zip(made.receivers.tolist(), made.senders.tolist(), strict=True))
    assert order == sorted(order) and len(order) == 8 * 7
    assert COMPLETE.connect(2) is made
    assert made.senders.dtype == made.receivers.dtype == np.int32


def test_cutting_leaves_all_other_edges():
    whole = edges_of(COMPLETE, 3)
    cut = edges_of(COMPLETE.without(source="exemplar fused", time="across"), 3)
    assert whole - cut == {
        (source, target)
        for source, target in whole
        if source[0] == "exemplar fused" and source[2] != target[2]
    }
    one = COMPLETE.without("query fused", "query original", "within")
    assert len(one.edges) == len(COMPLETE.edges) - 1
    assert edges_of(COMPLETE.without(time="within").without(time="across"), 3) == set()
    assert hash(COMPLETE.without(target="query fused")) == hash(
        COMPLETE.without(target="query fused")
    )


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no edges from query masked to any kind"):
        COMPLETE.without(source="query masked")
    once = COMPLETE.without(target="exemplar original")
    with pytest.raises(ValueError, match="to exemplar original, within or across time, to cut"):
        once.without(target="exemplar original")
    kinds = NODE_KINDS[2:]
    for edges, read, wrong in (
        ([("query original", "query fused", "within")], kinds, "edges names 'query original'"),
        ([("query fused", "query fused", "later")], kinds, "edges names 'later'"),
        ([], NODE_KINDS[:2], "read names 'exemplar original', 'query original'"),
    ):
        with pytest.raises(ValueError, match=f"MessageGraph: {wrong}, expected some of"):
            MessageGraph(kinds, tuple(EdgeSet(*edge) for edge in edges), read)


@pytest.mark.parametrize(
    ("order", "want"),
    [
        ("causal", [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        ("full", [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
        ("none", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("reversed", [[1, 1, 1], [0, 1, 1], [0, 0, 1]]),
    ],
)
def test_orders_of_stages(order, want):
    np.testing.assert_array_equal(stage_edges(order, 3), np.array(want, bool))


def test_every_order_lets_a_stage_see_itself():
    """A stage that sees nothing would have weights that are not numbers."""
    for order in STAGE_ORDERS:
        assert stage_edges(order, 4).diagonal().all()
