"""Where a dive's stages change, and cutting features there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_baseline.blocks import DoubleConv, Down, First, Mlp

FRAMES = 96
STAGE_FRAMES = (36, 60, 48)  # to which take-off, flight and entry are resampled
STAGE_WINDOWS = 4  # to which each stage's windows are resampled
_OVERLAP = 5  # frames that neighbouring stages share on each side of a transition
# `int(sum of two transitions) // 20` is their mean in windows, which start every 10 frames.
_FRAMES_PER_WINDOW_PAIR = 20


class TransitionHead(nn.Module):
    """`psnet_model`: the probability of each frame to start a video's second or last stage.

    Args:
        features: float32 [v, 9, 1024]; the windows are channels of a signal of length 1024.

    Returns:
        `transition_probability`, float32 [v, 96, 2].
    """

    def __init__(self) -> None:
        super().__init__()
        self.inc1 = First(9, 12)
        self.down4 = Down(12, 24)
        self.down5 = Down(24, 48)
        self.down6 = Down(48, FRAMES)
        self.down7 = Down(FRAMES, FRAMES)
        self.tas = Mlp(64, 128, 64, 2)

    def forward(self, features: Tensor) -> Tensor:
        x = self.down4(self.inc1(features))  # [v, 24, 512]
        x = self.down7(self.down6(self.down5(x)))  # [v, 96, 64]
        return torch.sigmoid(self.tas(x))


class StageReducer(nn.Module):
    """`dim_reducerN`: a stage's 4 steps of 1024 features to 12 tokens of 64.

    Args:
        steps: float32 [v, 4, 1024].

    Returns:
        float32 [v, 12, 64].
    """

    def __init__(self) -> None:
        super().__init__()
        self.inc = First(STAGE_WINDOWS, 8)
        self.down1 = DoubleConv(8, 12)  # no pool, whatever its name says
        self.layer0 = nn.Linear(1024, 512)
        self.layer1 = nn.Linear(512, 256)
        self.layer2 = nn.Linear(256, 64)

    def forward(self, steps: Tensor) -> Tensor:
        x = self.down1(self.inc(steps))  # [v, 12, 1024]
        for layer in (self.layer0, self.layer1, self.layer2):
            x = F.relu(layer(x))  # after the last one, too
        return x


def predict_transitions(probability: Tensor) -> Tensor:
    """The likeliest first transition of frames 0..47 and last one of frames 48..95.

    Args:
        probability: float32 [v, 96, 2].

    Returns:
        int64 [v, 2], frames.
    """
    half = probability.shape[1] // 2
    first = probability[:, :half, 0].argmax(1)
    last = probability[:, half:, 1].argmax(1) + half
    return torch.stack([first, last], dim=1)


def pair_boundaries(query: Tensor, exemplar: Tensor) -> list[tuple[int, int]]:
    """The pair's mean transitions in windows.

    Args:
        query: [b, 2], frames; exemplar: [b, 2], frames.

    Returns:
        One (first, last) a pair.
    """
    windows = (query + exemplar).to(torch.int64) // _FRAMES_PER_WINDOW_PAIR
    return [(first, last) for first, last in windows.tolist()]


def cut_windows(features: Tensor, boundaries: list[tuple[int, int]]) -> Tensor:
    """Cuts windows into three stages and resamples each to 4 steps.

    Args:
        features: float32 [v, 9, d].
        boundaries: (first, last) a video, in windows.

    Returns:
        `stage_feature`, float32 [v, 12, d].
    """
    stages = []
    for feature, (first, last) in zip(features, boundaries, strict=True):
        # Parity: with last = 0 the third slice is the last window alone.
        pieces = (feature[: first + 1], feature[first : last + 1], feature[last - 1 :])
        stages.append(torch.cat([_resample(piece, STAGE_WINDOWS) for piece in pieces]))
    return torch.stack(stages)


def cut_frames(features: Tensor, boundaries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts frames into three overlapping stages and resamples each to a fixed length.

    Args:
        features: float32 [v, 96, d].
        boundaries: [v, 2], the video's own transitions in frames.

    Returns:
        float32 [v, 36, d], [v, 60, d] and [v, 48, d].
    """
    stages: list[list[Tensor]] = [[], [], []]
    for feature, (first, last) in zip(features, boundaries.to(torch.int64).tolist(), strict=True):
        pieces = (
            feature[: first + _OVERLAP],
            feature[max(0, first - _OVERLAP) : last + _OVERLAP],
            feature[max(0, last - _OVERLAP) :],
        )
        for stage, piece, length in zip(stages, pieces, STAGE_FRAMES, strict=True):
            stage.append(_resample(piece, length))
    first_stage, second_stage, third_stage = (torch.stack(stage) for stage in stages)
    return first_stage, second_stage, third_stage


def _resample(steps: Tensor, length: int) -> Tensor:
    """Linear resampling of [n, d] to [length, d], first and last step kept."""
    signal = steps.T.unsqueeze(0)  # [1, d, n]
    resized = F.interpolate(signal, size=length, mode="linear", align_corners=True)
    return resized.squeeze(0).T
