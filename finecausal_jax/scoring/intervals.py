"""Intervals for figures of a test set: a bootstrap over its dives, or over its competitions.

A resample draws as many dives (or competitions) as there are, with replacement. It is written as
how often it holds each dive, so a figure is a function of such counts [r, n], and all resamples are
computed at once. The interval is the figure plus and minus Student's t times the resamples'
standard deviation, on a scale on which a figure's spread hardly depends on its value: Fisher's z
for correlations, the logarithm for errors, as it is for differences. Efron's
corrected percentiles (BCa) covered less: resampled dives are tied with themselves, which moves a
rank correlation of few dives (docs/evaluation.md has the coverage).

Dives of one competition share judges, camera and divers. A bootstrap over dives takes them for
independent; one over competitions does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

# Of counts [r, n] to figures [r]; nan where a resample has none.
Statistic = Callable[[Float[np.ndarray, "r n"]], Float[np.ndarray, " r"]]

_AT_ONCE = 250  # resamples computed together: 749 dives take 1.5 MB an array


class Scale(NamedTuple):
    """On which figures are spread evenly.

    Attributes:
      to: from a figure to the scale.
      back: from the scale to a figure.
    """

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


# Clipped: a perfect order is infinitely far away, and one such resample would outweigh all others.
CORRELATION = Scale(lambda r: np.arctanh(np.clip(r, -1 + 1e-4, 1 - 1e-4)), np.tanh)
ERROR = Scale(lambda x: np.log(np.maximum(x, 1e-12)), np.exp)
DIFFERENCE = Scale(lambda x: x, lambda x: x)
SHARE = Scale(lambda x: x, lambda x: np.clip(x, 0.0, 1.0))


class Interval(NamedTuple):
    """The ends of an interval; nan where there is none."""

    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure with its intervals.

    Attributes:
      value: over the test set as it is; nan where it has none.
      by_dives: interval of a bootstrap over dives.
      by_competitions: the same over competitions.
    """

    value: float
    by_dives: Interval = NO_INTERVAL
    by_competitions: Interval = NO_INTERVAL


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
      resamples: how many, at least 100.
      level: share of test sets whose interval shall hold the true value.
      seed: fixes the resamples.

    Raises:
      ValueError: `level` is no share, or there are too few resamples for a standard deviation.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level is {self.level}, expected a share between 0 and 1")
        if self.resamples < 100:
            raise ValueError(f"resamples is {self.resamples}, expected at least 100")

    def figure(
        self, statistic: Statistic, clusters: Int[np.ndarray, " n"], scale: Scale = CORRELATION
    ) -> Figure:
        """Returns a figure with both intervals.

        Args:
          statistic: the figure of resamples.
          clusters: int [n], each dive's competition, numbered from 0.
          scale: where its spread hardly depends on its value.
        """
        value = float(statistic(np.ones((1, len(clusters))))[0])
        if np.isnan(value):
            return Figure(value)
        each = np.arange(len(clusters))
        by = (self._interval(statistic, value, units, scale) for units in (each, clusters))
        return Figure(value, *by)

    def _interval(
        self, statistic: Statistic, value: float, units: Int[np.ndarray, " n"], scale: Scale
    ) -> Interval:
        """The interval where `units`, numbered from 0, are what is drawn."""
        count = int(units.max()) + 1
        if count < 2:
            return NO_INTERVAL
        # The same resamples for every figure: their differences are those of paired test sets.
        rng = np.random.default_rng([self.seed, count])
        parts = []
        for first in range(0, self.resamples, _AT_ONCE):
            rows = min(_AT_ONCE, self.resamples - first)
            drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=rows)
            parts.append(statistic(drawn[:, units].astype(np.float64)))
        resampled = np.concatenate(parts)
        resampled = resampled[~np.isnan(resampled)]
        if len(resampled) < self.resamples / 2:
            return NO_INTERVAL  # most resamples have no such figure
        deviation = np.std(scale.to(resampled), ddof=1)
        if deviation < 1e-9:
            # What is drawn has no say, as competitions have in a figure of one competition alone.
            return NO_INTERVAL
        reach = stats.t.ppf((1 + self.level) / 2, count - 1) * deviation
        middle = scale.to(np.float64(value))
        low, high = (float(scale.back(middle + sign * reach)) for sign in (-1.0, 1.0))
        return Interval(low, high)


def numbered(names: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """Numbers names from 0, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def rows_of(groups: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " m"]]:
    """The rows of each group, by its number."""
    return [np.flatnonzero(groups == number) for number in range(int(groups.max(initial=-1)) + 1)]


class Ranked:
    """Values whose ranks in any resample are quick to compute.

    Args:
      values: float [n].
    """

    def __init__(self, values: Float[np.ndarray, " n"]):
        distinct, self._place = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._place, kind="stable")
        self._starts = np.searchsorted(self._place[self._order], np.arange(len(distinct)))

    def ranks(self, counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
        """Each dive's rank in each resample, ties sharing their average rank."""
        tied = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        return (np.cumsum(tied, axis=1) - 0.5 * tied + 0.5)[:, self._place]


def spearman(prediction: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> Statistic:
    """Spearman's rank correlation of resamples; nan where one side has no order."""
    first, second = Ranked(prediction), Ranked(truth)

    def statistic(counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        return _correlation(first.ranks(counts), second.ranks(counts), counts)

    return statistic


def spearman_within(
    prediction: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    least: int,
) -> Statistic:
    """Mean over groups of Spearman's correlation inside each, weighted by their dives.

    Args:
      prediction, truth: float [n].
      groups: int [n], each dive's group, numbered from 0.
      least: dives that a group needs, in the test set and again in a resample.

    Returns:
      The statistic; nan where no group has enough dives and an order.
    """
    members = [rows for rows in rows_of(groups) if len(rows) >= least]
    inside = [spearman(prediction[rows], truth[rows]) for rows in members]

    def statistic(counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        total, weights = np.zeros(len(counts)), np.zeros(len(counts))
        for rows, correlation in zip(members, inside, strict=True):
            drawn = counts[:, rows]
            size, values = drawn.sum(axis=1), correlation(drawn)
            kept = (size >= least) & ~np.isnan(values)
            total += np.where(kept, size * values, 0.0)
            weights += np.where(kept, size, 0.0)
        return np.divide(total, weights, out=np.full(len(counts), np.nan), where=weights > 0)

    return statistic


def mean(values: Float[np.ndarray, " n"]) -> Statistic:
    """The mean of values, one a dive."""
    return lambda counts: counts @ values / counts.sum(axis=1)


def difference(first: Statistic, second: Statistic) -> Statistic:
    """The first figure less the second, of the same resamples: a paired bootstrap."""
    return lambda counts: first(counts) - second(counts)


def _correlation(
    x: Float[np.ndarray, "r n"], y: Float[np.ndarray, "r n"], counts: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Pearson's correlation of each row, of values that occur so often."""
    total = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = x - (counts * x).sum(axis=1, keepdims=True) / total
        y = y - (counts * y).sum(axis=1, keepdims=True) / total
        weighted = counts * x
        cross = np.einsum("rn,rn->r", weighted, y)
        first = np.einsum("rn,rn->r", weighted, x)
        second = np.einsum("rn,rn->r", counts * y, y)
        # Rounding leaves something of a spread that is none: ranks are halves, so real ones are not
        # as small.
        known = (first > 1e-6) & (second > 1e-6)
        return np.where(known, np.clip(cross / np.sqrt(first * second), -1.0, 1.0), np.nan)
