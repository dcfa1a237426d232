"""Which windows send messages to which, and which stages influence which: graphs as data.

A `MessageGraph` says between which kinds of node messages pass, within a window's time or across
times; a graph of some size is made from it by `connect`. A new graph is one more entry of `GRAPHS`,
a new order of stages one more entry of `STAGE_ORDERS`; no layer has to change for either.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jraph
import numpy as np
from jaxtyping import Bool

# A node is a window of one of the pair's videos, with one of its features: the original one, which
# the mask has no part in, or the fused one, which is weighted by the mask feature.
NODE_KINDS = ("query original", "exemplar original", "query fused", "exemplar fused")
# Between windows of one time, or from a window of an earlier or a later one.
TIMES = ("within", "earlier", "later")
LAYERS = 2  # of graph attention: how many edges a message can pass until it is read


class EdgeSet(NamedTuple):
    """All edges from nodes of one kind to nodes of one kind, whose time is one of `TIMES`."""

    source: str
    target: str
    time: str


@dataclasses.dataclass(frozen=True)
class MessageGraph:
    """A graph by kinds of node, of any number of windows.

    No node has an edge to itself, but for one that no other edge leads to: it keeps itself.

    Attributes:
      kinds: the kinds of node that the graph takes in, some of `NODE_KINDS`; nodes are listed by
        kind, then sample, then window.
      edges: the sets of edges it has. Where several samples share a graph, an edge set connects
        the nodes of all of them.
      read: the kinds whose outcome goes on as the query's and as the exemplar's features.

    Raises:
      ValueError: a kind or a time is unknown, or an edge or `read` names a kind that is left out.
    """

    kinds: tuple[str, ...]
    edges: tuple[EdgeSet, ...]
    read: tuple[str, str]

    def __post_init__(self) -> None:
        for field, found, known in (
            ("kinds", self.kinds, NODE_KINDS),
            ("read", self.read, self.kinds),
            ("edges", [kind for edge in self.edges for kind in edge[:2]], self.kinds),
            ("edges", [edge.time for edge in self.edges], TIMES),
        ):
            unknown = sorted(set(found) - set(known))
            if unknown:
                raise ValueError(
                    f"MessageGraph: {field} names {', '.join(map(repr, unknown))}, expected some "
                    f"of {tuple(known)}"
                )

    def without(
        self, source: str | None = None, target: str | None = None, time: str | None = None
    ) -> MessageGraph:
        """The same graph with some of its edges cut.

        Args:
          source: kind of the nodes whose messages are cut; None for all.
          target: kind of the nodes that no longer get them; None for all.
          time: one of `TIMES`, or "across" for earlier and later; None for all.

        Raises:
          ValueError: no edge is left to cut, so that the arguments are likely a mistake.
        """
        times = {None: TIMES, "across": TIMES[1:]}.get(time, (time,))
        kept = tuple(
            edge
            for edge in self.edges
            if source not in (None, edge.source)
            or target not in (None, edge.target)
            or edge.time not in times
        )
        if kept == self.edges:
            raise ValueError(
                f"MessageGraph: no edges from {source or 'any kind'} to {target or 'any kind'}, "
                f"{time or 'of any'} time, to cut; kinds are {self.kinds}, times {TIMES}"
            )
        return dataclasses.replace(self, edges=kept)

    def connect(self, windows: int, samples: int = 1) -> jraph.GraphsTuple:
        """The graph over some windows, without features; made once for each size.

        Args:
          windows: windows a video.
          samples: pairs that share the graph.

        Returns:
          A graph whose arrays are NumPy constants, its edges ordered by target, then source; put
          node features in with `_replace(nodes=...)`.
        """
        return _connect(self, windows, samples)


def complete_graph(kinds: tuple[str, ...], read: tuple[str, str]) -> MessageGraph:
    """All ordered pairs of distinct nodes of some kinds."""
    edges = (EdgeSet(*edge) for edge in itertools.product(kinds, kinds, TIMES))
    return MessageGraph(kinds, tuple(edges), read)


# By the name that `FineCausal.graph` takes. FineCausal's is "complete": the mask reaches the
# original features through the messages of the fused ones alone.
GRAPHS: dict[str, MessageGraph] = {
    "complete": complete_graph(NODE_KINDS, NODE_KINDS[:2]),
    "original": complete_graph(NODE_KINDS[:2], NODE_KINDS[:2]),
    "fused": complete_graph(NODE_KINDS[2:], NODE_KINDS[2:]),
}

# By the name that `FineCausal.stage_order` takes: whether a stage (first argument) attends to
# another (second). The paper's is "causal": stages attend to themselves and to earlier ones.
STAGE_ORDERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "causal": np.greater_equal,
    "full": lambda target, source: np.full(np.broadcast_shapes(target.shape, source.shape), True),
    "none": np.equal,
    "reversed": np.less_equal,
}


def stage_edges(order: str, stages: int) -> Bool[np.ndarray, "s s"]:
    """Which stage attends to which, [to, from], in one of `STAGE_ORDERS`; each one to itself."""
    stage = np.arange(stages)
    return STAGE_ORDERS[order](stage[:, None], stage[None])


def restrict(graph: MessageGraph, rules: str) -> MessageGraph:
    """A graph with the edges alone that some rules allow.

    Args:
      graph: the graph.
      rules: `SOURCE to TARGET TIME`, with commas between. Source and target are words that a kind
        of node has (`query` or `exemplar`, `original` or `fused`), some, or `any`; a source may
        also be `own` or `other`, of the target's video or of the other one. The time of the source
        is `within` the target's, `earlier`, `later` or `any`. Empty: all edges.

    Returns:
      The graph.

    Raises:
      ValueError: a rule cannot be read, it allows no edge of the graph, or it allows edges into
        nodes that nothing reads: they are not read themselves, nor does an edge lead from them to
        such that are.
    """
    if not rules.strip():
        return graph
    allowed: set[EdgeSet] = set()
    for rule in rules.split(","):
        found = [edge for edge in graph.edges if _allows(rule, edge)]
        if not found:
            raise ValueError(f"the rule {rule.strip()!r} allows no edge of the graph")
        allowed.update(found)
    kept = tuple(edge for edge in graph.edges if edge in allowed)
    read = set(graph.read)
    for _ in range(LAYERS - 1):
        read |= {edge.source for edge in kept if edge.target in read}
    unread = sorted({edge.target for edge in kept} - read)
    if unread:
        raise ValueError(
            f"the rules {rules!r} allow edges into nodes that nothing reads, {', '.join(unread)}: "
            f"read are {' and '.join(graph.read)}, and nodes with edges to those; leave them out"
        )
    return dataclasses.replace(graph, edges=kept)


def _allows(rule: str, edge: EdgeSet) -> bool:
    words = rule.split()
    if words.count("to") != 1 or len(words) < 4 or words[-1] not in (*TIMES, "any"):
        raise ValueError(
            f"the rule {rule.strip()!r} cannot be read: expected SOURCE to TARGET TIME, such as "
            f"'fused to original within', with a time of {', '.join(TIMES)} or any"
        )
    middle, time = words.index("to"), words[-1]
    video = {kind: kind.split()[0] for kind in NODE_KINDS}
    relation = "own" if video[edge.source] == video[edge.target] else "other"
    source = {*edge.source.split(), relation, "any"}
    target = {*edge.target.split(), "any"}
    known = {word for kind in NODE_KINDS for word in kind.split()} | {"any"}
    for side, besides in ((words[:middle], {"own", "other"}), (words[middle + 1 : -1], set())):
        unknown = sorted(set(side) - known - besides)
        if unknown or not side:
            raise ValueError(
                f"the rule {rule.strip()!r} names {', '.join(unknown) or 'no node'}, expected some "
                f"of {', '.join(sorted(known | besides))}"
            )
    fits = set(words[:middle]) <= source and set(words[middle + 1 : -1]) <= target
    return fits and time in (edge.time, "any")


@functools.lru_cache(maxsize=64)
def _connect(graph: MessageGraph, windows: int, samples: int) -> jraph.GraphsTuple:
    shape = (len(graph.kinds), samples, windows)
    kind, _, window = np.unravel_index(np.arange(np.prod(shape)), shape)
    # [target, source]
    times = {
        "within": window[None] == window[:, None],
        "earlier": window[None] < window[:, None],
        "later": window[None] > window[:, None],
    }
    linked = np.zeros((kind.size, kind.size), bool)
    for edge in graph.edges:
        target, source = graph.kinds.index(edge.target), graph.kinds.index(edge.source)
        between = (kind == target)[:, None] & (kind == source)[None]
        linked |= between & times[edge.time]
    np.fill_diagonal(linked, False)
    np.fill_diagonal(linked, ~linked.any(axis=1))
    receivers, senders = np.nonzero(linked)
    return jraph.GraphsTuple(
        nodes=None,
        edges=None,
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
        globals=None,
        n_node=np.array([kind.size], np.int32),
        n_edge=np.array([senders.size], np.int32),
    )
