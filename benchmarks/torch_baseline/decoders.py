"""Cross-attention from one video's tokens of a stage to the other video's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEATURES = 64
_HIDDEN = 256
_HEADS = 8
_LAYERS = 3


class PairDecoder(nn.Module):
    """Three pre-norm cross-attention layers; the memory stays as it is and no norm follows.

    Args:
        tokens: float32 [v, k, 64], the decoder's queries.
        memory: float32 [v, k, 64], the other videos' tokens of the same stage.

    Returns:
        float32 [v, k, 64].
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleList(_DecoderLayer() for _ in range(_LAYERS))

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        for layer in self.model:
            tokens = layer(tokens, memory)
        return tokens


class _DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_q = nn.LayerNorm(_FEATURES)
        self.norm_v = nn.LayerNorm(_FEATURES)
        self.attn = _CrossAttention()
        self.norm2 = nn.LayerNorm(_FEATURES)
        self.mlp = _FeedForward()

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm_q(tokens), self.norm_v(memory))
        return tokens + self.mlp(self.norm2(tokens))


class _CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_map = nn.Linear(_FEATURES, _FEATURES, bias=False)
        self.k_map = nn.Linear(_FEATURES, _FEATURES, bias=False)
        self.v_map = nn.Linear(_FEATURES, _FEATURES, bias=False)
        self.proj = nn.Linear(_FEATURES, _FEATURES)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        query = _split_heads(self.q_map(tokens))  # [v, 8, k, 8]
        key = _split_heads(self.k_map(memory))
        value = _split_heads(self.v_map(memory))
        scale = (_FEATURES // _HEADS) ** -0.5
        attention = torch.softmax(query @ key.transpose(-2, -1) * scale, dim=-1)  # [v, 8, k, k]
        return self.proj((attention @ value).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(_FEATURES, _HIDDEN)
        self.fc2 = nn.Linear(_HIDDEN, _FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _split_heads(x: Tensor) -> Tensor:
    """[v, k, 64] to [v, 8, k, 8]."""
    return x.reshape(*x.shape[:2], _HEADS, -1).transpose(1, 2)
