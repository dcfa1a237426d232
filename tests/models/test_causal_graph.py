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
    restrict,
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
    alone = edges_of(COMPLETE.without(time="within").without(time="across"), 3)
    assert alone == {(node, node) for node in itertools.product(NODE_KINDS, [0], range(3))}
    assert hash(COMPLETE.without(target="query fused")) == hash(
        COMPLETE.without(target="query fused")
    )


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no edges from query masked to any kind"):
        COMPLETE.without(source="query masked")
    once = COMPLETE.without(target="exemplar original")
    with pytest.raises(ValueError, match="to exemplar original, of any time, to cut"):
        once.without(target="exemplar original")
    kinds = NODE_KINDS[2:]
    for edges, read, wrong in (
        ([("query original", "query fused", "within")], kinds, "edges names 'query original'"),
        ([("query fused", "query fused", "across")], kinds, "edges names 'across'"),
        ([], NODE_KINDS[:2], "read names 'exemplar original', 'query original'"),
    ):
        with pytest.raises(ValueError, match=f"MessageGraph: {wrong}, expected some of"):
            MessageGraph(kinds, tuple(EdgeSet(*edge) for edge in edges), read)


def test_rules_keep_the_edges_that_they_allow():
    assert restrict(COMPLETE, " ") is COMPLETE
    assert restrict(COMPLETE, "any to any any") == COMPLETE
    kept = edges_of(
        restrict(COMPLETE, "own fused to original within, fused to original earlier"), 3
    )
    whole = edges_of(COMPLETE, 3)
    want = {
        (source, target)
        for source, target in whole
        if "fused" in source[0]
        and "original" in target[0]
        and (
            source[2] < target[2]
            or (source[2] == target[2] and source[0].split()[0] == target[0].split()[0])
        )
    }
    alone = {(node, node) for node in itertools.product(NODE_KINDS[2:], [0], range(3))}
    assert kept == want | alone
    other = restrict(COMPLETE, "other any to any any")
    assert all(edge.source[:5] != edge.target[:5] for edge in other.edges)
    # Messages of two steps are read: exemplar fused, query fused, query original.
    restrict(COMPLETE, "exemplar fused to query fused any, query fused to query original any")


@pytest.mark.parametrize(
    ("rules", "wrong"),
    [
        ("fused original within", "cannot be read"),
        ("fused to original", "cannot be read"),
        ("fused to original sometimes", "cannot be read"),
        ("masked to original within", "names masked"),
        ("fused to own original within", "names own"),
        ("to original any any", "names no node"),
        ("own query to exemplar any", "allows no edge"),
        ("original to fused any", "nothing reads, exemplar fused, query fused"),
        ("any to query fused any", "nothing reads, query fused"),
    ],
)
def test_rules_that_cannot_be(rules, wrong):
    with pytest.raises(ValueError, match=wrong):
        restrict(COMPLETE, rules)


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
