"""How well a rendered dive is executed, and what judges give it."""

from __future__ import annotations

import dataclasses
import types
from typing import NamedTuple

import numpy as np

STAGES = ("takeoff", "flight", "entry")  # the network's three, where transitions part them


class Aspect(NamedTuple):
    """One of the things that judges look at.

    Attributes:
      stage: when its fault shows, one of `STAGES`.
      share: of the mark that it decides; all shares sum to 1.
      fault: what is seen where its quality is 0.
    """

    stage: str
    share: float
    fault: str


# The entry weighs most, as it does in the sport; each aspect is drawn by itself.
ASPECTS = types.MappingProxyType(
    {
        "lean": Aspect("takeoff", 0.08, "the body leans forward or back as it leaves the board"),
        "distance": Aspect("takeoff", 0.06, "the jump stays close to the board, or goes far out"),
        "line": Aspect("flight", 0.08, "knees or hips bend where they should be straight"),
        "tightness": Aspect("flight", 0.12, "tuck and pike stay open, arms leave the body"),
        "legs": Aspect("flight", 0.08, "the legs part"),
        "angle": Aspect("entry", 0.10, "the body enters bent at hips and knees"),
        "rotation": Aspect("entry", 0.18, "the body enters off the vertical: short, or over"),
        "splash": Aspect("entry", 0.30, "water is thrown up high and wide"),
    }
)
# Panels use their whole scale: the quality's distance from the middle counts so much more.
SPREAD = 1.5
MARK_NOISE = 0.35  # points by which judges disagree, about what panels show
# A sum of even draws: what the quality of many dives is like.
MEAN_QUALITY = 0.5
QUALITY_DEVIATION = float(np.sqrt(sum(one.share**2 for one in ASPECTS.values()) / 12.0))


@dataclasses.dataclass(frozen=True)
class Execution:
    """Quality of a dive in [0, 1], 1 being faultless, one value an aspect; see `ASPECTS`."""

    lean: float = 1.0
    distance: float = 1.0
    line: float = 1.0
    tightness: float = 1.0
    legs: float = 1.0
    angle: float = 1.0
    rotation: float = 1.0
    splash: float = 1.0

    @property
    def quality(self) -> float:
        """What judges try to mark: the weighted mean of the aspects, in [0, 1]."""
        return sum(one.share * getattr(self, name) for name, one in ASPECTS.items())

    @property
    def points_lost(self) -> dict[str, float]:
        """Points out of 10 that the faults of each stage cost, before the scale's ends."""
        lost = dict.fromkeys(STAGES, 0.0)
        for name, one in ASPECTS.items():
            lost[one.stage] += 10.0 * SPREAD * one.share * (1.0 - getattr(self, name))
        return lost


def draw_execution(rng: np.random.Generator) -> Execution:
    """Draws an execution: every aspect evenly from 0 to 1, independent of all others.

    Args:
      rng: random generator; the dive's number and difficulty play no part.
    """
    return Execution(**dict(zip(ASPECTS, rng.uniform(size=len(ASPECTS)).tolist(), strict=True)))


def points_of(quality: float) -> float:
    """The mark that a quality in [0, 1] deserves, in 0..10 points."""
    return float(np.clip(10.0 * (0.5 + SPREAD * (quality - 0.5)), 0.0, 10.0))


def judge_marks(quality: float, judges: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Draws each judge's mark.

    Args:
      quality: execution quality in [0, 1].
      judges: size of the panel: 3, 5 or 7.
      rng: random generator.

    Returns:
      One mark a judge: 0 to 10 points in steps of one half.
    """
    points = points_of(quality) + MARK_NOISE * rng.standard_normal(judges)
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
