"""How well the predicted masks cover the divers, each test dive once.

The test protocol's mask figures are over both videos of every pair, training dives among them, at
the reference's threshold. Here they are over test dives alone, at that threshold and at the one
that is best on training dives, beside a guess that sees no pixel: one mask for all frames.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from finecausal_jax.data import preprocessing
from finecausal_jax.data.sources import Clips
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.features import Key
from finecausal_jax.scoring.metrics import MaskCounts
from finecausal_jax.scoring.scorer import Scorer

THRESHOLDS = tuple(np.arange(-6.0, 4.01, 0.25).tolist())  # logits to choose from
MOST_TRAINING_DIVES = 100  # enough for one number
_SHARES = np.linspace(0.02, 0.98, 49)  # of frames, to cut the mean mask at


@dataclasses.dataclass(frozen=True, eq=False)
class MaskExample:
    """A video with its masks, to be looked at.

    Attributes:
      key: the dive's name.
      frames: uint8 [t, h, w, 3], those that a window covers.
      true: whether a pixel is the diver's, bool [t, h, w].
      logits: float32 [t, h, w], of the fused map; where windows overlap, the earlier one's.
    """

    key: Key
    frames: UInt8[np.ndarray, "t h w 3"]
    true: Bool[np.ndarray, "t h w"]
    logits: Float32[np.ndarray, "t h w"]


def show_masks(scorer: Scorer, source: Clips, rows: Sequence[int]) -> list[MaskExample]:
    """Returns rows of a source, dives with masks, with what the network takes for the diver."""
    # With the thresholds of `judge_masks`, whose program then serves here too.
    logits = _thresholds(scorer)
    shown = []
    for batch, images in scorer.batches(source, rows, "masks to look at"):
        _, fused = _count(scorer.model, scorer.variables, *images, logits)
        videos = np.asarray(fused)
        _, windows, length = videos.shape[:3]
        stride = scorer.model.window_stride
        seen = {w * stride + f: (w, f) for w in reversed(range(windows)) for f in range(length)}
        frames = sorted(seen)
        window, place = np.array([seen[frame] for frame in frames]).T
        for i in np.flatnonzero(batch["valid"]):
            shown.append(
                MaskExample(
                    key=source.keys[int(batch["row"][i])],
                    frames=batch["frames"][i][frames],
                    true=_true(batch["mask"][i][frames]),
                    logits=videos[i, window, place],
                )
            )
    return shown


def judge_masks(
    scorer: Scorer, train: Clips, test: Clips, *, most: int = MOST_TRAINING_DIVES
) -> dict[str, dict[str, float]]:
    """Compares predicted with true masks.

    Args:
      scorer: the network; its `mask_threshold` is the reference's.
      train: dives with masks to choose a threshold on, of which the first `most` are taken.
      test: dives with masks to report on.
      most: see there.

    Returns:
      {"reference": ..., "chosen": ..., "constant": ...}, each `threshold` and the figures of
      `metrics.mask_metrics` on the test dives: at the scorer's threshold, at the logit with the
      best IoU on training dives, and of the mean training mask, cut where its IoU on training dives
      is best (its threshold is a share of frames).
    """
    logits = _thresholds(scorer)
    chosen_on = _Masks(scorer, train, range(min(most, len(train.keys))), logits, "training")
    judged_on = _Masks(scorer, test, range(len(test.keys)), logits, "test")
    best = _best(chosen_on.counts[1:]) + 1
    # The constant mask's counts follow from how often each pixel is foreground.
    mean = chosen_on.foreground / chosen_on.frames
    share = _SHARES[
        _best(
            [
                _constant_counts(mean >= one, chosen_on.foreground, chosen_on.frames)
                for one in _SHARES
            ]
        )
    ]
    constant = _constant_counts(mean >= share, judged_on.foreground, judged_on.frames)
    return {
        "reference": _figures(float(logits[0]), judged_on.counts[0]),
        "chosen": _figures(float(logits[best]), judged_on.counts[best]),
        "constant": _figures(float(share), constant),
    }


class _Masks:
    """Counts over some dives: by threshold, and how often each pixel is foreground."""

    def __init__(
        self, scorer: Scorer, source: Clips, rows: Sequence[int], logits: np.ndarray, name: str
    ):
        totals: list[list[MaskCounts]] = [[] for _ in logits]
        size = scorer.preprocessing.frame_size
        self.foreground, self.frames = np.zeros((size, size)), 0
        for counts, masks in _encoded(scorer, source, rows, logits, name):
            for place, total in enumerate(totals):
                total.append(jax.tree.map(lambda one, place=place: one[place], counts))
            self.foreground += masks.sum((0, 1))
            self.frames += masks.shape[0] * masks.shape[1]
        self.counts = [metrics.add_counts(total) for total in totals]


def _encoded(
    scorer: Scorer, source: Clips, rows: Sequence[int], logits: np.ndarray, name: str
) -> Iterator[tuple[MaskCounts, Float[np.ndarray, "v t h w"]]]:
    """Yields counts [k thresholds, v] and which pixels are foreground, without padding."""
    for batch, images in scorer.batches(source, rows, f"masks of {name} dives"):
        counts = jax.device_get(_count(scorer.model, scorer.variables, *images, logits)[0])
        valid = np.flatnonzero(batch["valid"])
        true = _true(batch["mask"][valid])
        yield jax.tree.map(lambda one, valid=valid: one[:, valid], counts), true


def _true(mask: np.ndarray) -> np.ndarray:
    """Which pixels of uint8 masks are the diver's."""
    return np.asarray(preprocessing.scale_mask(mask)) >= 0.5


def _thresholds(scorer: Scorer) -> np.ndarray:
    """The reference's logit, then those to choose from."""
    return np.array([scorer.mask_threshold, *THRESHOLDS], np.float32)


@functools.partial(jax.jit, static_argnames=("model",))
def _count(
    model: Any, variables: Any, frames: Any, mask: Any, logits: Any
) -> tuple[MaskCounts, Any]:
    """Counts [k, v] at k thresholds, and the fused map [v, n, f, h, w]."""
    features = model.apply(variables, preprocessing.normalize(frames), method="encode")
    fused, true = features.mask_logits[-1], preprocessing.scale_mask(mask)
    counts = jax.lax.map(
        lambda threshold: metrics.mask_counts(fused, true, model.window_stride, threshold), logits
    )
    return counts, fused


def _constant_counts(found: np.ndarray, foreground: np.ndarray, frames: int) -> MaskCounts:
    """Counts of one mask [h, w] for all frames, of which pixels are foreground so often."""
    hit, area = float(foreground[found].sum()), float(found.size) * frames
    predicted, true = float(found.sum()) * frames, float(foreground.sum())
    counts = hit, predicted - hit, true - hit, area - predicted - true + hit
    return MaskCounts(*counts, recall=np.nan, frames=frames)


def _best(counts: Sequence[MaskCounts]) -> int:
    return int(np.argmax([metrics.mask_metrics(one)["mask_iou"] for one in counts]))


def _figures(threshold: float, counts: MaskCounts) -> dict[str, float]:
    return {"threshold": float(threshold), **metrics.mask_metrics(counts)}
