"""Causal intervention: two GATv2 layers over windows (Brody et al. 2021, arXiv:2105.14491)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HEADS = 4
_DROPOUT = 0.1


class CausalIntervention(nn.Module):
    """Exchanges information between original and fused windows of queries and exemplars.

    Args:
        nodes: float32 [g, n, 1024]: `g` separate graphs of `n` nodes, the original ones first.

    Returns:
        Outputs of the original nodes, float32 [g, n / 2, 1024], and both layers' attention,
        float32 [g, 4, n, n] as [graph, head, target, source], with zeros on the diagonal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gat1 = GraphAttention(1024, 512)
        self.gat2 = GraphAttention(_HEADS * 512, 256)
        self.output = nn.Sequential(nn.Linear(1024, 1024), nn.LayerNorm(1024), nn.ReLU())
        self.residual_weight = nn.Parameter(torch.full((1,), 0.1))
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        graphs, count = nodes.shape[:2]
        source, target = complete_edges(graphs, count, nodes.device)
        x = nodes.flatten(0, 1)  # [g * n, 1024]
        x, alpha1 = self.gat1(x, source, target)  # [g * n, 2048], [e, 4]
        x = F.elu(self.dropout(x))
        x, alpha2 = self.gat2(x, source, target)  # [g * n, 1024], [e, 4]
        x = self.output(x).reshape(nodes.shape) + self.residual_weight * nodes
        attention1 = _dense(alpha1, source, target, graphs, count)
        attention2 = _dense(alpha2, source, target, graphs, count)
        return x[:, : count // 2], attention1, attention2


class GraphAttention(nn.Module):
    """GATv2 with 4 concatenated heads on an edge list, by gathering and scattering.

    Args:
        x: float32 [n, d].
        source: int64 [e]; target: int64 [e]. Node numbers.

    Returns:
        float32 [n, 4 * channels], and attention weights, float32 [e, 4].
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.att = nn.Parameter(torch.empty(1, _HEADS, channels))
        self.bias = nn.Parameter(torch.zeros(_HEADS * channels))
        self.lin_l = nn.Linear(features, _HEADS * channels)
        self.lin_r = nn.Linear(features, _HEADS * channels)
        self.dropout = nn.Dropout(_DROPOUT)
        nn.init.xavier_uniform_(self.att)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        count = x.shape[0]
        left = self.lin_l(x).reshape(count, _HEADS, -1)  # [n, 4, c]
        right = self.lin_r(x).reshape(count, _HEADS, -1)
        # `index_select`, because the gradient of plain indexing is many times slower on a CPU.
        messages = left.index_select(0, source)  # [e, 4, c]
        hidden = F.leaky_relu(messages + right.index_select(0, target), 0.2)
        logits = (hidden * self.att).sum(-1)  # [e, 4]
        alpha = _softmax_by_target(logits, target, count)
        weighted = messages * self.dropout(alpha).unsqueeze(-1)
        # Summed in the weights' float32, also where autocast shortens the messages.
        total = torch.zeros_like(left, dtype=weighted.dtype)
        out = total.index_add(0, target, weighted)  # [n, 4, c]
        return out.flatten(1) + self.bias, alpha


@functools.lru_cache(maxsize=8)
def complete_edges(graphs: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different nodes within each graph.

    Args:
        graphs: number of graphs, whose nodes are numbered one graph after the other.
        count: nodes a graph.
        device: where to put the result.

    Returns:
        Source and target node of every edge, int64 [graphs * count * (count - 1)] each.
    """
    node = torch.arange(graphs * count, device=device)
    same_graph = (node[:, None] // count) == (node[None, :] // count)
    target, source = torch.nonzero(same_graph & (node[:, None] != node), as_tuple=True)
    return source, target


def _softmax_by_target(logits: Tensor, target: Tensor, count: int) -> Tensor:
    """Softmax over the incoming edges of each node; logits [e, heads]."""
    index = target[:, None].expand_as(logits)
    lowest = logits.new_full((count, logits.shape[1]), -torch.inf)
    largest = lowest.scatter_reduce(0, index, logits.detach(), "amax")
    weights = (logits - largest[target]).exp()
    total = torch.zeros_like(lowest).index_add(0, target, weights)
    return weights / total[target]


def _dense(alpha: Tensor, source: Tensor, target: Tensor, graphs: int, count: int) -> Tensor:
    """Edge weights [e, heads] as [graphs, heads, target, source]."""
    dense = alpha.new_zeros(graphs, count, count, alpha.shape[1])
    dense[target // count, target % count, source % count] = alpha.detach()
    return dense.permute(0, 3, 1, 2)
