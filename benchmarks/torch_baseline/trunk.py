"""Inception-v1 inflated to three dimensions (I3D; Carreira & Zisserman 2017, arXiv:1705.07750)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_baseline.opaque_pool import max_pool3d

_Size = tuple[int, int, int]  # depth, height, width


class InceptionTrunk(nn.Module):
    """I3D without its classifier, called through `stages`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d_1a_7x7 = ConvUnit(3, 64, (7, 7, 7), (2, 2, 2))
        self.maxPool3d_2a_3x3 = PaddedMaxPool((1, 3, 3), (1, 2, 2))
        self.conv3d_2b_1x1 = ConvUnit(64, 64, (1, 1, 1))
        self.conv3d_2c_3x3 = ConvUnit(64, 192, (3, 3, 3))
        self.maxPool3d_3a_3x3 = PaddedMaxPool((1, 3, 3), (1, 2, 2))
        self.maxPool3d_4a_3x3 = PaddedMaxPool((3, 3, 3), (2, 2, 2))
        self.maxPool3d_5a_2x2 = PaddedMaxPool((2, 2, 2), (2, 2, 2))
        self.avg_pool = nn.AvgPool3d((2, 4, 4), stride=(1, 1, 1))
        # A mixed block's channels are [b0, b1a, b1b, b2a, b2b, b3] (GoogLeNet's table 1).
        self.mixed_3b = MixedBlock(192, (64, 96, 128, 16, 32, 32))
        self.mixed_3c = MixedBlock(256, (128, 128, 192, 32, 96, 64))
        self.mixed_4b = MixedBlock(480, (192, 96, 208, 16, 48, 64))
        self.mixed_4c = MixedBlock(512, (160, 112, 224, 24, 64, 64))
        self.mixed_4d = MixedBlock(512, (128, 128, 256, 24, 64, 64))
        self.mixed_4e = MixedBlock(512, (112, 144, 288, 32, 64, 64))
        self.mixed_4f = MixedBlock(528, (256, 160, 320, 32, 128, 128))
        self.mixed_5b = MixedBlock(832, (256, 160, 320, 32, 128, 128))
        self.mixed_5c = MixedBlock(832, (384, 192, 384, 48, 128, 128))

    def stages(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The activations a segmenter reads, and the pooled output.

        Args:
            clips: float32 [n, 3, 16, 112, 112].

        Returns:
            conv1a [n, 64, 8, 56, 56], conv2c [n, 192, 8, 28, 28], 3c [n, 480, 8, 14, 14],
            4f [n, 832, 4, 7, 7] and the pooled output [n, 1024].
        """
        conv1a = self.conv3d_1a_7x7(clips)
        x = self.conv3d_2b_1x1(self.maxPool3d_2a_3x3(conv1a))
        conv2c = self.conv3d_2c_3x3(x)
        x = self.maxPool3d_3a_3x3(conv2c)
        mixed_3c = self.mixed_3c(self.mixed_3b(x))
        x = self.maxPool3d_4a_3x3(mixed_3c)
        x = self.mixed_4e(self.mixed_4d(self.mixed_4c(self.mixed_4b(x))))
        mixed_4f = self.mixed_4f(x)
        x = self.maxPool3d_5a_2x2(mixed_4f)  # [n, 832, 2, 4, 4]
        x = self.mixed_5c(self.mixed_5b(x))  # [n, 1024, 2, 4, 4]
        return conv1a, conv2c, mixed_3c, mixed_4f, self.avg_pool(x).flatten(1)


class BaseModel(nn.Module):
    """The trunk behind the key prefix `backbone.`, as checkpoints hold the base model.

    Args:
        clips: float32 [n, 3, 16, 112, 112], normalised frames.

    Returns:
        float32 [n, 1024], the pooled last activation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = InceptionTrunk()

    def forward(self, clips: Tensor) -> Tensor:
        return self.backbone.stages(clips)[-1]


class MixedBlock(nn.Module):
    """Four parallel branches: [n, c, d, h, w] to [n, b0 + b1b + b2b + b3, d, h, w]."""

    def __init__(self, features: int, channels: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = channels
        self.branch_0 = ConvUnit(features, b0, (1, 1, 1))
        self.branch_1 = nn.Sequential(
            ConvUnit(features, b1a, (1, 1, 1)), ConvUnit(b1a, b1b, (3, 3, 3))
        )
        self.branch_2 = nn.Sequential(
            ConvUnit(features, b2a, (1, 1, 1)), ConvUnit(b2a, b2b, (3, 3, 3))
        )
        self.branch_3 = nn.Sequential(
            PaddedMaxPool((3, 3, 3), (1, 1, 1)), ConvUnit(features, b3, (1, 1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch_0, self.branch_1, self.branch_2, self.branch_3)
        return torch.cat([branch(x) for branch in branches], dim=1)


class ConvUnit(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; zeros pad each axis by `kernel - stride`."""

    def __init__(
        self, features: int, channels: int, kernel: _Size, stride: _Size = (1, 1, 1)
    ) -> None:
        super().__init__()
        padding = _padding(kernel, stride)
        # Parity: an even padding goes into the convolution, an uneven one into a copy of the input.
        even = len(set(padding)) == 1
        self.padding = None if even else padding
        self.conv3d = nn.Conv3d(
            features,
            channels,
            kernel,
            stride=stride,
            padding=padding[0] if even else 0,
            bias=False,
        )
        self.batch3d = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.padding is not None:
            x = F.pad(x, self.padding)
        return F.relu(self.batch3d(self.conv3d(x)))


class PaddedMaxPool(nn.Module):
    """Max-pool in ceil mode over an input padded with zeros by `kernel - stride` an axis.

    Zeros are as good as minus infinity here, because every input comes out of a ReLU.
    """

    def __init__(self, kernel: _Size, stride: _Size) -> None:
        super().__init__()
        self.padding = _padding(kernel, stride)
        self.kernel, self.stride = kernel, stride
        self.pool = nn.MaxPool3d(kernel, stride, ceil_mode=True)
        self.opaque = False  # hides the pool from `torch.compile`, with the same result

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self.padding)
        if self.opaque:
            return max_pool3d(padded, self.kernel, self.stride)
        return self.pool(padded)


def _padding(kernel: _Size, stride: _Size) -> tuple[int, ...]:
    """`F.pad`'s padding, last axis first: per axis half in front, the larger half behind."""
    padding: list[int] = []
    for size, step in zip(reversed(kernel), reversed(stride), strict=True):
        total = max(size - step, 0)
        padding += [total // 2, total - total // 2]
    return tuple(padding)
