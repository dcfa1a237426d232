"""Causally masked encoder over the three stages of a dive."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEATURES = 64
_HIDDEN = 256
_LAYERS = 2
_ATTENTION_DROPOUT = 0.1
_DROPOUT = 0.01


class TemporalCausalAttention(nn.Module):
    """Lets a stage see itself and the stages before it.

    Args:
        stages: float32 [v, 3, 64].

    Returns:
        `temporal_feature`, float32 [v, 3, 64], and `temporal_attention`, float32 [v, 2, 1, 3, 3]
        as [video, layer, head, target, source].
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()

    def forward(self, stages: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(stages)


class _Encoder(nn.Module):
    """Post-norm layers, then one more norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(_EncoderLayer() for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(_FEATURES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attentions = []
        for layer in self.attn_layers:
            x, attention = layer(x)
            attentions.append(attention)
        return self.norm(x), torch.stack(attentions, dim=1)


class _EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part written as convolutions of kernel 1."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = _CausalAttention()
        self.conv1 = nn.Conv1d(_FEATURES, _HIDDEN, 1)
        self.conv2 = nn.Conv1d(_HIDDEN, _FEATURES, 1)
        self.norm1 = nn.LayerNorm(_FEATURES)
        self.norm2 = nn.LayerNorm(_FEATURES)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        update, attention = self.attention(x)
        x = self.norm1(x + self.dropout(update))
        y = self.dropout(F.gelu(self.conv1(x.transpose(1, 2))))  # [v, 256, 3]
        y = self.dropout(self.conv2(y).transpose(1, 2))  # [v, 3, 64]
        return self.norm2(x + y), attention


class _CausalAttention(nn.Module):
    """One head over all features: [v, 3, 64] to [v, 3, 64] and its weights [v, 1, 3, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.query_projection = nn.Linear(_FEATURES, _FEATURES)
        self.key_projection = nn.Linear(_FEATURES, _FEATURES)
        self.value_projection = nn.Linear(_FEATURES, _FEATURES)
        self.out_projection = nn.Linear(_FEATURES, _FEATURES)
        self.dropout = nn.Dropout(_ATTENTION_DROPOUT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query, key = self.query_projection(x), self.key_projection(x)
        logits = query @ key.transpose(1, 2)  # [v, 3, 3]
        later = torch.ones_like(logits[0], dtype=torch.bool).triu(1)
        logits = logits.masked_fill(later, -torch.inf)
        attention = torch.softmax(logits * _FEATURES**-0.5, dim=-1)
        out = self.out_projection(self.dropout(attention) @ self.value_projection(x))
        return out, attention.unsqueeze(1)
