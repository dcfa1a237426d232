"""How far one judge agrees with the others: what a scorer's figures can be held against.

It is no ceiling. A scorer is compared with the sum of the marks that count, which is less noisy
than one judge's mark; and judges see the competition, each other's earlier marks and the divers'
names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.scoring import intervals
from finecausal_jax.scoring.intervals import Bootstrap, Figure, Statistic

LARGEST_MARK = 10.0  # points; the real release has two impossible ones, 45.0 and 55.5
_COUNTING = 1e-2  # points by which the marks' sum times difficulty may miss the score


@dataclasses.dataclass(frozen=True)
class PanelAgreement:
    """Agreement in panels of one size.

    Attributes:
      size: marks a dive.
      dives: how many have so many marks, all of them possible.
      trimmed: share of these whose marks all count for the score. Where a competition had more
        judges, the outermost marks are missing then, and what is left agrees too well.
      spearman: of each mark with the mean of the others, over dives; the mean over the marks'
        places, since a release does not say whose they are.
      difference: mean absolute difference of a mark and the mean of the others, points of 10.
    """

    size: int
    dives: int
    trimmed: float
    spearman: Figure
    difference: float


def agreement(infos: Sequence[DiveInfo], bootstrap: Bootstrap) -> tuple[PanelAgreement, ...]:
    """Returns the agreement by size of panel, for sizes that at least two dives have.

    Args:
      infos: dives; those without marks, or with a mark that none can give, are left out.
      bootstrap: how intervals are made.
    """
    panels: dict[int, list[DiveInfo]] = {}
    for info in infos:
        marks = info.judge_scores
        if len(marks) > 1 and all(0 <= mark <= LARGEST_MARK for mark in marks):
            panels.setdefault(len(marks), []).append(info)
    return tuple(
        _of_panel(size, panels[size], bootstrap) for size in sorted(panels) if len(panels[size]) > 1
    )


def _of_panel(size: int, infos: Sequence[DiveInfo], bootstrap: Bootstrap) -> PanelAgreement:
    marks = np.array([info.judge_scores for info in infos], np.float64)  # [n, size]
    others = (marks.sum(axis=1, keepdims=True) - marks) / (size - 1)
    of_places = [intervals.spearman(marks[:, at], others[:, at]) for at in range(size)]
    clusters = intervals.numbered([info.competition for info in infos])
    all_count = [
        abs(sum(info.judge_scores) * info.difficulty - info.score) < _COUNTING for info in infos
    ]
    return PanelAgreement(
        size=size,
        dives=len(infos),
        trimmed=float(np.mean(all_count)),
        spearman=bootstrap.figure(_mean_of(of_places), clusters),
        difference=float(np.mean(np.abs(marks - others))),
    )


def _mean_of(statistics: Sequence[Statistic]) -> Statistic:
    def statistic(counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        return np.mean([one(counts) for one in statistics], axis=0)

    return statistic
