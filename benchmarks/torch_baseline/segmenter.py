"""Foreground masks from a second trunk with four side outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.torch_baseline.trunk import InceptionTrunk

_SIDE_CHANNELS = 16


class _Side(NamedTuple):
    """A tap of the trunk and the transposed convolution that brings it to 16 x 112 x 112."""

    features: int
    kernel: tuple[int, int, int]

    @property
    def stride(self) -> tuple[int, int, int]:
        depth, height, width = self.kernel
        return depth // 2, height // 2, width // 2

    @property
    def padding(self) -> tuple[int, int, int]:
        depth, height, width = self.kernel
        return depth // 4, height // 4, width // 4


_SIDES = (
    _Side(64, (4, 4, 4)),
    _Side(192, (4, 8, 8)),
    _Side(480, (4, 16, 16)),
    _Side(832, (8, 32, 32)),
)


class Segmenter(InceptionTrunk):
    """Five mask maps and the trunk's pooled output; its trunk has the keys of `InceptionTrunk`.

    All maps are computed as the reference does: 16 channels are enlarged at every side, the 64 of
    them are fused at full size, and the four side maps come along whether a loss needs them or not.

    Args:
        clips: float32 [n, 3, 16, 112, 112], normalised frames.

    Returns:
        Logits of the four side maps and the fused one, each float32 [n, 16, 112, 112], and
        `mask_feature`, float32 [n, 1024].
    """

    def __init__(self) -> None:
        super().__init__()
        for number, side in enumerate(_SIDES, start=1):
            wide = _transposed(_SIDE_CHANNELS, side)
            single = _transposed(1, side)
            prep = nn.Conv3d(side.features, _SIDE_CHANNELS, 1, bias=False)
            score = nn.Conv3d(_SIDE_CHANNELS, 1, 1)
            self.add_module(f"side_prep{number}", prep)
            self.add_module(f"score_dsn{number}", score)
            self.add_module(f"upsample{number}", wide)
            self.add_module(f"upsample{number}_", single)
        self.fuse = nn.Conv3d(_SIDE_CHANNELS * len(_SIDES), 1, 1)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith(("side_prep", "score_dsn", "fuse")):
                    parameter.normal_(std=0.0 if name.endswith("bias") else 0.001)

    def forward(self, clips: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        *taps, mask_feature = self.stages(clips)
        wide, maps = [], []
        for number, tap in enumerate(taps, start=1):
            side = self.get_submodule(f"side_prep{number}")(tap)  # [n, 16, d, h, w]
            wide.append(self.get_submodule(f"upsample{number}")(side))  # [n, 16, 16, 112, 112]
            score = self.get_submodule(f"score_dsn{number}")(side)  # [n, 1, d, h, w]
            maps.append(self.get_submodule(f"upsample{number}_")(score))  # [n, 1, 16, 112, 112]
        maps.append(self.fuse(torch.cat(wide, dim=1)))
        return tuple(logits.squeeze(1) for logits in maps), mask_feature


def _transposed(channels: int, side: _Side) -> nn.ConvTranspose3d:
    """A transposed convolution that starts as bilinear enlargement of each channel by itself."""
    layer = nn.ConvTranspose3d(
        channels, channels, side.kernel, stride=side.stride, padding=side.padding, bias=False
    )
    _, height, width = side.kernel
    window = torch.outer(_bilinear(height), _bilinear(width))
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(channels):
            layer.weight[channel, channel] = window  # the same at every depth
    return layer


def _bilinear(size: int) -> Tensor:
    """Weights [size] of linear interpolation for an even kernel of twice its stride."""
    centre = (size - 1) / 2
    return 1 - (torch.arange(size, dtype=torch.float32) - centre).abs() / (size / 2)
