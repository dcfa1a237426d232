"""Small blocks that several parts share; their attribute names are a checkpoint's key names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DoubleConv(nn.Module):
    """Twice a 1-D convolution (kernel 3), BatchNorm, ReLU: [n, c, l] to [n, channels, l]."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(features, channels, 3, padding=1),
            nn.BatchNorm1d(channels),
            nn.ReLU(inplace=True),
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.BatchNorm1d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class First(nn.Module):
    """A double convolution under the key `conv.`: [n, c, l] to [n, channels, l]."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.conv = DoubleConv(features, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Down(nn.Module):
    """Max-pool by 2, then a double convolution: [n, c, l] to [n, channels, l // 2]."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.mpconv = nn.Sequential(nn.MaxPool1d(2), DoubleConv(features, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.mpconv(x)


class Mlp(nn.Module):
    """Three linear layers with ReLU between them and none after: [..., d] to [..., out]."""

    def __init__(self, features: int, hidden1: int, hidden2: int, out: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(features, hidden1)
        self.layer2 = nn.Linear(hidden1, hidden2)
        self.layer3 = nn.Linear(hidden2, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(F.relu(self.layer2(F.relu(self.layer1(x)))))


def on_each(module: Callable[[Tensor], Tensor], x: Tensor, runs: int) -> Tensor:
    """Applies a module to `runs` equal parts of the leading axis, one after the other.

    Parity: in training the reference runs some modules on the queries and then on the exemplars,
    so each part has BatchNorm statistics of its own and the running ones are updated once a part.

    Args:
        module: maps [m, ...] to [m, ...].
        x: [runs * m, ...].
        runs: how many parts.

    Returns:
        [runs * m, ...], in the order of `x`.
    """
    return torch.cat([module(part) for part in x.chunk(runs)])
