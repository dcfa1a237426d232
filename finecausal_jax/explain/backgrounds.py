"""Videos with another background, without their diver, or with a diver who stands still.

Every edit takes frames as the network sees them, with a mask of the diver, and gives frames of the
same shape. A hole of the mask's shape would still tell the pose, so a diver is removed as a tube:
the union of the masks of neighbouring frames, widened, filled from what surrounds it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

Frames = UInt8[np.ndarray, "t h w 3"]
Where = Bool[np.ndarray, "t h w"]

_NEIGHBOURS = 2  # frames before and after whose masks a tube holds
_AROUND = 2 / 64  # of the frame's height: by how much a mask is widened, one pixel at least
_MOVES = 28  # levels of 255 by which a pixel differs from its median over the entry, to be splash
_STRIPE = 1 / 8  # of the frame's width
_STRIPES = (np.array([70, 90, 150]), np.array([190, 180, 120]))  # RGB


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A video, with what is known of its parts.

    Attributes:
      frames: uint8 [t, h, w, 3].
      diver: where the diver is.
      entry: frame at which the entry begins, from which water may be thrown up.
    """

    frames: Frames
    diver: Where
    entry: int

    @functools.cached_property
    def tube(self) -> Where:
        """Where the diver is in this frame or in neighbouring ones, widened."""
        reach = max(1, round(_AROUND * self.frames.shape[1]))
        span = 2 * reach + 1
        return ndimage.binary_dilation(self.diver, np.ones((2 * _NEIGHBOURS + 1, span, span), bool))

    @functools.cached_property
    def splash(self) -> Where:
        """What moves in the entry and is not the diver; with a moving camera, edges of the hall
        too."""
        found = np.zeros(self.diver.shape, bool)
        entry = self.frames[self.entry :].astype(np.int16)
        if len(entry):
            moves = np.abs(entry - np.median(entry, axis=0)).max(axis=-1)
            found[self.entry :] = moves > _MOVES
        return ndimage.binary_dilation(found, np.ones((1, 3, 3), bool)) & ~self.diver

    @functools.cached_property
    def filled(self) -> Frames:
        """The frames without the diver."""
        return _fill(self.frames, self.tube)


def put_back(own: Scene, other: Scene) -> Frames:
    """The diver on the filled background of the video itself: what editing alone does."""
    return _where(own.diver, own.frames, own.filled)


def on_stripes(own: Scene, other: Scene) -> Frames:
    """Diver and splash on stripes that are the same in every frame of every video."""
    return _where(own.diver | own.splash, own.frames, _stripes(own))


def on_stripes_without_splash(own: Scene, other: Scene) -> Frames:
    """The diver alone on stripes."""
    return _where(own.diver, own.frames, _stripes(own))


def on_anothers(own: Scene, other: Scene) -> Frames:
    """Diver and splash on the filled background of another dive, whose splash is removed too."""
    behind = _fill(other.frames, other.tube | other.splash)
    return _where(own.diver | own.splash, own.frames, behind[_rows(own, other)])


def removed(own: Scene, other: Scene) -> Frames:
    """The video without its diver; the splash stays."""
    return _where(own.splash, own.frames, own.filled)


def removed_with_splash(own: Scene, other: Scene) -> Frames:
    """The video without its diver and without what moves in the entry."""
    return _fill(own.frames, own.tube | own.splash)


def frozen(own: Scene, other: Scene) -> Frames:
    """The diver of the middle frame in which one is seen, in every frame; the rest goes on."""
    seen = np.flatnonzero(own.diver.any(axis=(1, 2)))
    if not len(seen):
        return removed(own, other)
    still = int(seen[len(seen) // 2])
    return np.where(own.diver[still][None, ..., None], own.frames[still], removed(own, other))


# By what a table calls it. An edit is given the video and one of another competition.
EDITS: Mapping[str, Callable[[Scene, Scene], Frames]] = {
    "diver put back on its own background": put_back,
    "diver and splash on stripes": on_stripes,
    "diver alone on stripes": on_stripes_without_splash,
    "diver and splash on another's background": on_anothers,
    "diver removed": removed,
    "diver and splash removed": removed_with_splash,
    "diver frozen": frozen,
}
CONTROL = "diver put back on its own background"


def _where(mask: Where, inside: Frames, outside: Frames) -> Frames:
    return np.where(mask[..., None], inside, outside)


def _stripes(own: Scene) -> Frames:
    width = own.frames.shape[2]
    band = np.arange(width) // max(1, round(_STRIPE * width)) % 2
    row = np.stack(_STRIPES).astype(np.uint8)[band]
    return np.broadcast_to(row, own.frames.shape)


def _rows(own: Scene, other: Scene) -> np.ndarray:
    """For each frame of one video that of the other at the same share of its length."""
    return np.linspace(0, len(other.frames) - 1, len(own.frames)).round().astype(np.int64)


def _fill(frames: Frames, hole: Where) -> Frames:
    """Fills holes, frame by frame, with blurred surroundings: the nearest that say anything."""
    known = (~hole).astype(np.float32)
    result = frames.astype(np.float32)
    left, deviation = hole.copy(), 1.0
    while left.any() and deviation < 4 * max(frames.shape[1:3]):
        weight = _blur(known, deviation)
        mean = _blur(known[..., None] * frames, deviation) / np.maximum(weight, 1e-6)[..., None]
        now = left & (weight > 0.05)
        result[now] = mean[now]
        left &= ~now
        deviation *= 2.0
    return result.round().clip(0, 255).astype(np.uint8)


def _blur(values: Float[np.ndarray, "t h w *c"], deviation: float) -> Float[np.ndarray, "..."]:
    across = (0.0, deviation, deviation, 0.0)[: values.ndim]
    return ndimage.gaussian_filter(values.astype(np.float32), across, mode="nearest")
