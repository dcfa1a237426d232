"""How well a rendered dive is executed, and what judges give it."""

from __future__ import annotations

import dataclasses

import numpy as np

# What judges look at, with its share of the mark. The entry (angle, line, splash) carries most, as
# it does in the sport.
SHARES = {"tightness": 0.15, "legs": 0.15, "line": 0.2, "angle": 0.2, "splash": 0.3}
COMPONENT_NOISE = 0.08  # how far one aspect strays from the dive's overall quality
MARK_NOISE = 0.35  # points by which judges disagree, about what panels show
WORST = 0.12  # overall quality of the poorest dives: a mark near 1, below which dives fail


@dataclasses.dataclass(frozen=True)
class Execution:
    """Quality of a dive in [0, 1], 1 being faultless, one value for each thing judges look at.

    Attributes:
      tightness: how closed tuck and pike are.
      legs: how closely the legs stay together.
      line: how straight knees and hips are at the entry.
      angle: how near the vertical the body enters.
      splash: how little water it throws up.
    """

    tightness: float
    legs: float
    line: float
    angle: float
    splash: float

    @property
    def quality(self) -> float:
        """What judges try to mark: the weighted mean of the aspects, in [0, 1]."""
        return sum(share * getattr(self, name) for name, share in SHARES.items())


def draw_execution(rng: np.random.Generator) -> Execution:
    """Draws an execution: one overall quality, uniform so that every mark occurs, plus variation.

    Args:
      rng: random generator; the dive's number and difficulty play no part.

    Returns:
      The execution.
    """
    overall = rng.uniform(WORST, 1.0)
    aspects = overall + COMPONENT_NOISE * rng.standard_normal(len(SHARES))
    return Execution(**dict(zip(SHARES, np.clip(aspects, 0.0, 1.0).tolist(), strict=True)))


def judge_marks(quality: float, judges: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Draws each judge's mark.

    Args:
      quality: execution quality in [0, 1].
      judges: size of the panel: 3, 5 or 7.
      rng: random generator.

    Returns:
      One mark a judge: 0 to 10 points in steps of one half.
    """
    points = 10.0 * quality + MARK_NOISE * rng.standard_normal(judges)
    return tuple(np.clip(np.round(2.0 * points) / 2.0, 0.0, 10.0).tolist())


def execution_points(marks: tuple[float, ...]) -> float:
    """Sums the three middle marks: the highest and lowest are dropped as in the sport.

    Args:
      marks: 3 marks (all count), 5 (one dropped at each end) or 7 (two at each end).

    Returns:
      Points in 0..30; times the difficulty they are the dive's score.

    Raises:
      ValueError: the panel has another size.
    """
    if len(marks) not in (3, 5, 7):
        raise ValueError(f"a panel has 3, 5 or 7 judges, got {len(marks)} marks")
    dropped = (len(marks) - 3) // 2
    return float(sum(sorted(marks)[dropped : dropped + 3]))
