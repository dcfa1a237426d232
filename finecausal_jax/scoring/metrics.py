"""The numbers a scorer is judged by: rank correlation, relative error, temporal and mask overlap.

Everything is float64 on the host but `mask_counts`, which runs inside the jitted encoder: a video's
mask logits are megabytes, their counts a few numbers. Values and counts are summed first and
divided last, so that neither batches nor their padding can change a metric.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num
from numpy.typing import ArrayLike
from scipy import stats

# Parity: the reference compares the raw logit with 0.5, a probability of 0.62, not 0.5.
LOGIT_THRESHOLD = 0.5
PROBABILITY_THRESHOLD = 0.0  # the logit of probability 0.5

# Completeness is score / difficulty: dives of equal execution differ in its last bits, which would
# break their tie. Scores have two decimals, so real differences are above 1e-3.
_COMPLETENESS_DECIMALS = 6


def spearman(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Returns Spearman's rank correlation, tied values sharing their average rank.

    Args:
      prediction: float [n].
      truth: float [n].

    Returns:
      -1 to 1; nan where either side has fewer than two distinct values, so no order.

    Raises:
      ValueError: the lengths differ or a value is not finite.
    """
    prediction, truth = _paired(prediction, truth, "spearman")
    if prediction.size < 2 or np.ptp(prediction) == 0 or np.ptp(truth) == 0:
        return float("nan")
    ranks = [stats.rankdata(values) - (len(values) + 1) / 2 for values in (prediction, truth)]
    cross, first, second = (ranks[0] @ ranks[1]), (ranks[0] @ ranks[0]), (ranks[1] @ ranks[1])
    # Rounding may leave a perfect order a few units in the last place above 1.
    return float(np.clip(cross / np.sqrt(first * second), -1.0, 1.0))


def r_l2(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Returns the mean squared error relative to the range of the truth (not yet times 100).

    Args:
      prediction: float [n], points.
      truth: float [n], points.

    Returns:
      mean over dives of ((prediction - truth) / (max truth - min truth))^2; nan where the truth has
      no range.

    Raises:
      ValueError: as `spearman`.
    """
    prediction, truth = _paired(prediction, truth, "r_l2")
    if truth.size < 2 or np.ptp(truth) == 0:
        return float("nan")
    return float(np.mean(((prediction - truth) / np.ptp(truth)) ** 2))


def score_metrics(
    completeness: ArrayLike, score: ArrayLike, difficulty: ArrayLike
) -> dict[str, float]:
    """Returns how well predicted completeness times difficulty gives the scores.

    `execution_spearman` leaves difficulty out on both sides: difficulty alone already ranks dives
    (Spearman 0.560 on the real test split) without a look at how they were performed.

    Args:
      completeness: float [n], predicted score over difficulty, points.
      score: float [n], true score, points.
      difficulty: float [n].

    Returns:
      `spearman`, `r_l2_x100` (on scores) and `execution_spearman` (on score / difficulty).
    """
    completeness, score = _paired(completeness, score, "score_metrics")
    difficulty = np.asarray(difficulty, np.float64)
    predicted = completeness * difficulty
    return {
        "spearman": spearman(predicted, score),
        "r_l2_x100": 100 * r_l2(predicted, score),
        "execution_spearman": spearman(completeness, execution(score, difficulty)),
    }


def execution(score: ArrayLike, difficulty: ArrayLike) -> Float[np.ndarray, " n"]:
    """Returns score over difficulty, float64 [n], equal where the execution is."""
    ratio = np.asarray(score, np.float64) / np.asarray(difficulty, np.float64)
    return np.round(ratio, _COMPLETENESS_DECIMALS)


def temporal_iou(
    predicted: Num[np.ndarray, "*#batch 2"], true: Num[np.ndarray, "*#batch 2"]
) -> Float[np.ndarray, ...]:
    """Returns intersection over union of intervals [start, end] on the frame axis.

    Parity: lengths are `end - start`, as in the reference, so an interval that starts and ends at
    one frame is empty. It overlaps nothing: the result is 0, also between two equal empty ones.

    Args:
      predicted: number [..., 2], the two transitions, frames.
      true: number [..., 2], likewise; the leading axes broadcast.

    Returns:
      float64 [...], 0 to 1.
    """
    start, end = np.moveaxis(np.asarray(predicted, np.float64), -1, 0)
    true_start, true_end = np.moveaxis(np.asarray(true, np.float64), -1, 0)
    shared = np.maximum(np.minimum(end, true_end) - np.maximum(start, true_start), 0.0)
    union = (end - start) + (true_end - true_start) - shared
    return np.asarray(shared / np.where(union > 0, union, 1.0))


class MaskCounts(NamedTuple):
    """Pixel counts of predicted against true masks; a pytree, one number a video or a total.

    Attributes:
      true_positive, false_positive, false_negative, true_negative: numbers of pixels.
      recall: sum of the frames' recalls; a frame without foreground counts as 1.
      frames: number of frames. Windows overlap, so a frame counts once for each window it is in.
    """

    true_positive: Any
    false_positive: Any
    false_negative: Any
    true_negative: Any
    recall: Any
    frames: Any


def mask_counts(
    logits: Float[Any, "v n w h x"],
    mask: Float[Any, "v t ..."],
    window_stride: int,
    threshold: Any = LOGIT_THRESHOLD,
) -> MaskCounts:
    """Counts pixels over the frames of all windows; may be traced.

    Args:
      logits: float32 [v, n windows, w frames, h, x pixels], the fused map.
      mask: float32 [v, t, h, x], 0 to 1; foreground from 0.5 on. (The loss rounds half to even,
        which differs at exactly 0.5 only, a value that no 8-bit mask has.)
      window_stride: frames between the starts of two windows.
      threshold: logits from here on are foreground; a number, or a traced scalar.

    Returns:
      int32 [v] counts (at most 9 * 16 * 112^2 = 1.8e6 at full size) and float32 [v] recall.
    """
    n, w = logits.shape[1:3]
    rows = np.arange(n)[:, None] * window_stride + np.arange(w)[None, :]
    if rows.max() >= mask.shape[1] or mask.shape[2:] != logits.shape[3:]:
        raise ValueError(
            f"{n} windows of {w} frames every {window_stride} frames and pixels "
            f"{logits.shape[3:]} do not fit a mask of {mask.shape[1]} frames and pixels "
            f"{mask.shape[2:]}: use the windows and the frame size the logits were made with"
        )
    true = (mask >= 0.5)[:, rows]  # [v, n, w, h, x]
    found = logits >= threshold

    def count(pixels: Any) -> Any:
        return jnp.sum(pixels, axis=(-2, -1), dtype=jnp.int32)  # [v, n, w]

    hit, foreground, predicted = count(true & found), count(true), count(found)
    recall = jnp.where(foreground > 0, hit / jnp.maximum(foreground, 1), 1.0)
    area = logits.shape[3] * logits.shape[4]
    windows = (1, 2)
    return MaskCounts(
        true_positive=jnp.sum(hit, axis=windows),
        false_positive=jnp.sum(predicted - hit, axis=windows),
        false_negative=jnp.sum(foreground - hit, axis=windows),
        true_negative=jnp.sum(area - predicted - foreground + hit, axis=windows),
        recall=jnp.sum(recall, axis=windows, dtype=jnp.float32),
        frames=jnp.full(logits.shape[:1], n * w, jnp.int32),
    )


def add_counts(counts: Iterable[MaskCounts]) -> MaskCounts:
    """Returns the total in int64 and float64: int32 may overflow from 1,190 full-size videos on."""
    total = [np.int64(0)] * 4 + [np.float64(0), np.int64(0)]
    for one in counts:
        total = [
            have + np.asarray(more).sum(dtype=have.dtype)
            for have, more in zip(total, one, strict=True)
        ]
    return MaskCounts(*total)


def mask_metrics(counts: MaskCounts) -> dict[str, float]:
    """Returns `mask_iou`, `mask_f1`, `mask_f2`, `mask_accuracy`, `mask_recall` of a total.

    The first four divide sums over all frames; recall is the mean over frames. Where there is
    neither foreground nor a prediction, IoU, F1 and F2 are 1, as for the reference's empty frames.
    Where no frame had a mask all are nan.
    """
    if not counts.frames:
        return dict.fromkeys(
            ("mask_iou", "mask_f1", "mask_f2", "mask_accuracy", "mask_recall"), float("nan")
        )
    tp, fp, fn, tn = (float(one) for one in counts[:4])

    def ratio(above: float, below: float) -> float:
        return above / below if below > 0 else 1.0

    return {
        "mask_iou": ratio(tp, tp + fp + fn),
        "mask_f1": ratio(2 * tp, 2 * tp + fp + fn),
        "mask_f2": ratio(5 * tp, 5 * tp + 4 * fn + fp),
        "mask_accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "mask_recall": ratio(float(counts.recall), float(counts.frames)),
    }


def _paired(
    prediction: ArrayLike, truth: ArrayLike, what: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns both as float64 [n], or says what is wrong with them."""
    first, second = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"{what}: expected predictions and truth of one shape [n], got {first.shape} and "
            f"{second.shape}"
        )
    for name, values in (("prediction", first), ("truth", second)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{what}: the {name} of row {row} is {values[row]}, expected a number")
    return first, second
