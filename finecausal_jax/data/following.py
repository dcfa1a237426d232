"""Keeps a diver who is small in the picture in view.

Networks are trained on broadcast shots that follow the diver, who is about a third as high as the
frame. In a video of a camera that stands still, what moves is found against the median of all
frames: the diver, until the water does. The window that is cut out goes with it, smoothly.

A camera that pans or shakes moves everything; then the picture is left as it is, and that is said.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.errors import InputError

SHARE = 1 / 3  # of the window's height that the diver has
_HEIGHT = 180  # rows at which motion is looked for
_MOVES = 22.0  # levels of 255 by which a pixel differs from its median
_EVERYWHERE = 0.25  # share of moving pixels from which it is the camera that moves
_SMOOTH = 0.04  # of the clip's length: deviation of the Gaussian along time
_LEAST = 0.25  # of the picture's height: no window is smaller, however small what moves is


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """Where the diver is.

    Attributes:
      centres: float64 [n, 2], (x, y) in shares of the picture's width and height.
      height: of the window to cut out, a share of the picture's height, at most 1.
    """

    centres: Float[np.ndarray, "n 2"]
    height: float


def find_diver(frames: UInt8[np.ndarray, "n h w 3"]) -> Track:
    """Follows what moves most.

    Args:
      frames: of a camera that stands still.

    Raises:
      InputError: nothing moves, or everything does.
    """
    grey = _small(frames)
    moves = np.abs(grey - np.median(grey, axis=0)) > _MOVES
    if np.median(moves.mean(axis=(1, 2))) > _EVERYWHERE:
        raise InputError(
            "the camera moves, so that nobody can be followed by motion: leave --follow out, or "
            "cut the diver out with --crop"
        )
    n, h, w = moves.shape
    centres, heights = np.full((n, 2), np.nan), np.full(n, np.nan)
    for row in range(n):
        found = _largest(moves[row])
        if found is not None:
            y, x = found
            centres[row] = ((x.start + x.stop) / 2 / w, (y.start + y.stop) / 2 / h)
            heights[row] = (y.stop - y.start) / h
    seen = ~np.isnan(heights)
    if seen.sum() < n / 4:
        raise InputError(
            "nothing moves in three quarters of the frames, so that nobody can be followed: leave "
            "--follow out"
        )
    rows = np.arange(n)
    for axis in (0, 1):
        # Where nothing moves, as while the diver stands still, the place between is taken.
        centres[:, axis] = np.interp(rows, rows[seen], centres[seen, axis])
        centres[:, axis] = ndimage.median_filter(centres[:, axis], size=5, mode="nearest")
        centres[:, axis] = ndimage.gaussian_filter1d(centres[:, axis], _SMOOTH * n, mode="nearest")
    height = float(np.clip(np.median(heights[seen]) / SHARE, _LEAST, 1.0))
    return Track(centres, height)


def cut_along(
    frames: UInt8[np.ndarray, "n h w 3"], track: Track, resize: Resize
) -> UInt8[np.ndarray, "n rh rw 3"]:
    """Cuts the window along a track, resized as the pipeline does with whole frames.

    Args:
      frames: the frames.
      track: where the window is; it stays within the picture, whose aspect ratio it has.
      resize: to which size.
    """
    n, h, w, _ = frames.shape
    height, width = round(h * track.height), round(w * track.height)
    cut = []
    for row in range(n):
        x, y = track.centres[row]
        left = int(np.clip(round(x * w - width / 2), 0, w - width))
        top = int(np.clip(round(y * h - height / 2), 0, h - height))
        window = frames[row, top : top + height, left : left + width]
        cut.append(resize(Image.fromarray(np.ascontiguousarray(window))))
    return np.stack(cut)


def _small(frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h2 w2"]:
    """Brightness of smaller frames, without the noise of single pixels."""
    n, h, w, _ = frames.shape
    size = (max(1, round(w * _HEIGHT / h)), _HEIGHT) if h > _HEIGHT else (w, h)
    grey = [np.asarray(Image.fromarray(one).convert("L").resize(size)) for one in frames]
    return ndimage.gaussian_filter(np.stack(grey).astype(np.float64), (0, 1, 1))


def _largest(moves: np.ndarray) -> tuple[slice, slice] | None:
    """The box of the largest connected piece; None where nothing moves."""
    labels, count = ndimage.label(ndimage.binary_opening(moves))
    if not count:
        return None
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1))
    return ndimage.find_objects(labels)[int(np.argmax(sizes))]
