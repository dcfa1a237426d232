"""The causal intervention: graph attention between original and mask-weighted window features."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float

from finecausal_jax.models.causal_graph import NODE_KINDS, MessageGraph
from finecausal_jax.models.initial_values import Layer, glorot_uniform
from finecausal_jax.models.layers import Dense, LayerNorm, add_bias


class GATv2(Layer):
    """One GATv2 layer (Brody, Alon and Yahav, ICLR 2022) with concatenated heads.

    For an edge from j to i: logit = att . leaky_relu(W_l x_j + b_l + W_r x_i + b_r); weights are
    softmax over the edges into i; the output is their sum of W_l x_j + b_l, plus a bias.

    Attributes:
      features: output width a head.
      heads: attention heads.
      dropout: rate on the attention weights.
      dtype: compute dtype; the softmax is float32.
    """

    features: int
    heads: int = 4
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, graph: jraph.GraphsTuple, *, train: bool
    ) -> tuple[jraph.GraphsTuple, Float[Array, "head e"]]:
        """Applies the layer.

        Args:
          graph: nodes [n, d], and e edges by senders and receivers.
          train: whether dropout is on.

        Returns:
          The graph with nodes [n, heads * features], and the weights of its edges before dropout,
          [head, e] in the order of the graph. A node that no edge leads to gets the bias alone
          (a `MessageGraph` gives it an edge from itself).
        """
        n, width = graph.nodes.shape[0], self.heads * self.features

        def project(name: str) -> Float[Array, "n head d"]:
            layer = Dense(width, dtype=self.dtype, kernel_init=glorot_uniform, name=name)
            return layer(graph.nodes).reshape(n, self.heads, self.features)

        source, target = project("lin_l"), project("lin_r")
        shape = (self.heads, self.features)
        att = self.param("att", glorot_uniform, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (width,))

        sent = source[graph.senders]  # [e, head, d]
        hidden = jax.nn.leaky_relu(sent + target[graph.receivers], 0.2)
        logits = jnp.einsum("ehd,hd->eh", hidden, att, preferred_element_type=jnp.float32)
        weights = jraph.segment_softmax(logits, graph.receivers, num_segments=n)
        dropped = nn.Dropout(self.dropout, deterministic=not train)(weights)
        # In float32: a segment sum adds one edge at a time and would round as often.
        messages = sent.astype(jnp.float32) * dropped[..., None]
        mixed = jraph.segment_sum(messages, graph.receivers, num_segments=n).astype(self.dtype)
        return graph._replace(nodes=add_bias(mixed.reshape(n, width), bias)), weights.T


class CausalIntervention(Layer):
    """Two GATv2 layers over one graph, projected and added to the original nodes.

    Attributes:
      heads: attention heads of both layers.
      dropout: rate on attention weights and on the first layer's output.
      dtype: compute dtype.
    """

    heads: int = 4
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, graph: jraph.GraphsTuple, train: bool
    ) -> tuple[Float[Array, "n d"], Float[Array, "head e"], Float[Array, "head e"]]:
        """Returns corrected nodes [n, d] and both layers' weights of the edges, [head, e]."""
        nodes = graph.nodes
        d = nodes.shape[-1]
        # Hidden widths follow the input's: 1024 -> 4 x 512, then 2048 -> 4 x 256.
        first = GATv2(2 * d // self.heads, self.heads, self.dropout, self.dtype, name="gat1")
        second = GATv2(d // self.heads, self.heads, self.dropout, self.dtype, name="gat2")

        hidden, weights1 = first(graph._replace(nodes=nodes.astype(self.dtype)), train=train)
        dropped = nn.Dropout(self.dropout, deterministic=not train)(hidden.nodes)
        hidden, weights2 = second(hidden._replace(nodes=jax.nn.elu(dropped)), train=train)
        out = Dense(d, dtype=self.dtype, name="output_0")(hidden.nodes)
        out = nn.relu(LayerNorm(self.dtype, name="output_1")(out)).astype(jnp.float32)
        residual = self.param("residual_weight", nn.initializers.constant(0.1), (1,))
        return out + residual[:, None] * nodes, weights1, weights2


# One set of weights for any number of separate graphs of the same shape, [g, n, d]: a batch axis,
# unlike one big disconnected graph, stays sharded over devices.
_GRAPH_AXES = jraph.GraphsTuple(
    nodes=0, edges=None, senders=None, receivers=None, globals=None, n_node=None, n_edge=None
)
BatchedIntervention = nn.vmap(
    CausalIntervention,
    in_axes=(_GRAPH_AXES, None),
    variable_axes={"params": None},
    split_rngs={"params": False, "dropout": True},
)


def correct_windows(
    intervention: Callable[[jraph.GraphsTuple], tuple[Array, Array, Array]],
    graph: MessageGraph,
    original: Float[Array, "v n d"],
    fused: Float[Array, "v n d"],
    *,
    graphs: int,
) -> tuple[Float[Array, "v n d"], Float[Array, "g head e"], Float[Array, "g head e"]]:
    """Lays windows out as nodes, passes messages and reads the corrected windows.

    Args:
      intervention: a bound `BatchedIntervention`.
      graph: the nodes and edges of each graph.
      original: window features of b queries, then b exemplars.
      fused: the same, weighted by the mask features.
      graphs: how many graphs the pairs are dealt out to, in order; it divides b.

    Returns:
      Corrected windows of the queries, then of the exemplars, and the weights of both layers.
    """
    v, n, d = original.shape
    halves = [half for feature in (original, fused) for half in jnp.split(feature, 2)]
    by_kind = dict(zip(NODE_KINDS, halves, strict=True))
    kinds, nodes = len(graph.kinds), v // 2 // graphs * n
    # Node order inside a graph: kind, sample, window.
    x = jnp.stack([by_kind[kind] for kind in graph.kinds])  # [kind, b, n, d]
    x = x.reshape(kinds, graphs, nodes, d).swapaxes(0, 1).reshape(graphs, kinds * nodes, d)
    edges = graph.connect(windows=n, samples=nodes // n)
    out, weights1, weights2 = intervention(edges._replace(nodes=x))
    out = out.reshape(graphs, kinds, nodes, d)
    read = [out[:, graph.kinds.index(kind)].reshape(v // 2, n, d) for kind in graph.read]
    return jnp.concatenate(read), weights1, weights2
