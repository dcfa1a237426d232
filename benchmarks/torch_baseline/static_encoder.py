"""Per-frame features and their reduction to four tokens a stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_baseline.blocks import Down, First
from benchmarks.torch_baseline.stages import STAGE_FRAMES

_CHANNELS = (48, 24, 12, 4)  # of the reducers; each but the first follows a max-pool by 2


class StaticEncoder(nn.Module):
    """`video_encoder`: ResNet-34 on frames, and one reducer a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet34()
        for stage, frames in enumerate(STAGE_FRAMES, start=1):
            self.add_module(f"inc{stage}", First(frames, _CHANNELS[0]))
            for level in (1, 2, 3):
                block = Down(_CHANNELS[level - 1], _CHANNELS[level])
                self.add_module(f"down{stage}{level}", block)

    def reduce(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """The static tokens of one run of videos.

        Args:
            pieces: float32 [v, 36, 512], [v, 60, 512] and [v, 48, 512]: resampled stages.

        Returns:
            `static_feature`, float32 [v, 3, 4, 64].
        """
        tokens = []
        for stage, piece in enumerate(pieces, start=1):
            # Parity: the frames of a stage are the channels of a signal of length 512.
            x = self.get_submodule(f"inc{stage}")(piece)
            for level in (1, 2, 3):
                x = self.get_submodule(f"down{stage}{level}")(x)
            tokens.append(x)  # [v, 4, 64]
        return torch.stack(tokens, dim=1)


class ResNet34(nn.Module):
    """ResNet-34 (He et al. 2015, arXiv:1512.03385) with torchvision's keys, pooled, without `fc`.

    Args:
        images: float32 [n, 3, h, w].

    Returns:
        float32 [n, 512].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _residual_layer(64, 64, blocks=3)
        self.layer2 = _residual_layer(64, 128, blocks=4)
        self.layer3 = _residual_layer(128, 256, blocks=6)
        self.layer4 = _residual_layer(256, 512, blocks=3)
        # Parity: the classifier is in checkpoints and has no use.
        self.fc = nn.Linear(512, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [n, 512, h / 32, w / 32]
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [n, c, h, w] to [n, channels, h / s, w / s]."""

    def __init__(self, features: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or features != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(features, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += shortcut
        return F.relu(out, inplace=True)


def _residual_layer(features: int, channels: int, blocks: int) -> nn.Sequential:
    """Blocks of one resolution; the first halves it, except where the channels stay."""
    first = ResidualBlock(features, channels, stride=1 if features == channels else 2)
    rest = [ResidualBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
