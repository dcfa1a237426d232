"""What a reviewer asks of a model's predictions: figures with intervals, by group, beside others.

It needs no network: predictions of any model will do (`predictions`). Beside the reference's
metrics stand those that difficulty and competition do not lend to a model: the rank correlation of
execution, and the same inside competitions and dive numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import baselines, intervals, judges, metrics
from finecausal_jax.scoring.conformal import Calibration
from finecausal_jax.scoring.intervals import Bootstrap, Figure, Scale, Statistic
from finecausal_jax.scoring.judges import PanelAgreement
from finecausal_jax.scoring.predictions import Predictions

LEAST_IN_GROUP = 8  # dives of a group, for a correlation inside it to say something


class Metric(NamedTuple):
    """A figure of predictions.

    Attributes:
      title: for people.
      scale: on which it is spread evenly.
      group: for a figure inside groups, which group a dive is in.
      of: what is compared: "score" or "execution".
    """

    title: str
    scale: Scale
    of: str
    group: Callable[[DiveInfo], Hashable] | None = None


def _competition(info: DiveInfo) -> str:
    return info.competition


def _dive_number(info: DiveInfo) -> str:
    return info.dive_number


METRICS: Mapping[str, Metric] = {
    "spearman": Metric("Spearman", intervals.CORRELATION, "score"),
    "execution_spearman": Metric("execution Spearman", intervals.CORRELATION, "execution"),
    "spearman_within_competitions": Metric(
        "Spearman within competitions", intervals.CORRELATION, "score", _competition
    ),
    "execution_within_competitions": Metric(
        "execution Spearman within competitions", intervals.CORRELATION, "execution", _competition
    ),
    "execution_within_dive_numbers": Metric(
        "execution Spearman within dive numbers", intervals.CORRELATION, "execution", _dive_number
    ),
    "r_l2_x100": Metric("R-l2 x100", intervals.ERROR, "score"),
}
GROUPS: Mapping[str, Callable[[DiveInfo], Hashable]] = {
    "stages": lambda info: f"{len(info.sub_action_names)} sub-actions",
    "dive numbers": _dive_number,
    "competitions": _competition,
}


@dataclasses.dataclass(frozen=True)
class Within:
    """The correlations that a figure inside groups is the mean of.

    Attributes:
      groups: how many groups have enough dives and an order.
      dives: how many dives these have.
      lowest, highest: over the groups; nan where there is none.
    """

    groups: int
    dives: int
    lowest: float
    highest: float


@dataclasses.dataclass(frozen=True)
class GroupErrors:
    """How wrong the scores of a group of dives are.

    Attributes:
      kind: one of `GROUPS`.
      name: of the group.
      dives: how many it has.
      mean_error: mean absolute error of the score, points.
      bias: mean of the predicted less the true score, points.
      execution_spearman: inside the group; nan where it has no order.
    """

    kind: str
    name: str
    dives: int
    mean_error: float
    bias: float
    execution_spearman: float


@dataclasses.dataclass(frozen=True, eq=False)
class Coverage:
    """Whether intervals hold the true scores of test dives.

    Attributes:
      level: the share that they were made for.
      calibration_dives: how many dives they were learnt from.
      groups: how many dive numbers have a width of their own.
      covered: share of test dives whose interval holds the true score.
      half_widths: float64 [n], half the interval of each test dive's score, points.
    """

    level: float
    calibration_dives: int
    groups: int
    covered: Figure
    half_widths: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Assessment:
    """All figures of a model's predictions; nan where there is none.

    Attributes:
      name: of the model.
      predictions: what is assessed.
      bootstrap: how intervals were made.
      figures: by predictor, the model first and then those that see no pixel, by `METRICS`.
      within: of the model, by the metrics inside groups.
      judges: by size of panel.
      groups: by `GROUPS`, largest groups first.
      spread_tau: Kendall's tau of the exemplars' spread and the absolute error of completeness.
      coverage: of the scores' intervals; None without calibration dives.
      other: name of a second model on the same dives, "" where there is none.
      differences: the model's figures less the second one's, by `METRICS`, of paired resamples.
    """

    name: str
    predictions: Predictions
    bootstrap: Bootstrap
    figures: Mapping[str, Mapping[str, Figure]]
    within: Mapping[str, Within]
    judges: tuple[PanelAgreement, ...]
    groups: Mapping[str, tuple[GroupErrors, ...]]
    spread_tau: float
    coverage: Coverage | None = None
    other: str = ""
    differences: Mapping[str, Figure] = dataclasses.field(default_factory=dict)

    @property
    def worst_group(self) -> GroupErrors | None:
        """The group with the largest mean error among those of at least `LEAST_IN_GROUP` dives."""
        large = [
            one for groups in self.groups.values() for one in groups if one.dives >= LEAST_IN_GROUP
        ]
        return max(large, key=lambda one: one.mean_error, default=None)


def assess(
    predictions: Predictions,
    train: Sequence[DiveInfo],
    bootstrap: Bootstrap | None = None,
    *,
    calibration: Calibration | None = None,
    other: Predictions | None = None,
) -> Assessment:
    """Computes all figures.

    Args:
      predictions: of the test dives.
      train: the training dives, for the predictors that see no pixel.
      bootstrap: how intervals are made; None for 2000 resamples at 95%.
      calibration: how wide the scores' intervals are.
      other: a second model's predictions of the same dives, in the same order.

    Raises:
      InputError: there are no dives, or the second model's are others.
    """
    if not predictions.infos:
        raise InputError("there are no dives to assess")
    bootstrap = bootstrap or Bootstrap()
    infos = predictions.infos
    clusters = intervals.numbered([info.competition for info in infos])
    models = {predictions.name: predictions.completeness} | {
        name: predict(infos, train) for name, predict in baselines.PREDICTORS.items()
    }
    figures = {
        model: {
            name: bootstrap.figure(
                _statistic(metric, predictions, completeness), clusters, metric.scale
            )
            for name, metric in METRICS.items()
        }
        for model, completeness in models.items()
    }
    differences = {}
    if other is not None:
        _check_same(predictions, other)
        for name, metric in METRICS.items():
            paired = intervals.difference(
                _statistic(metric, predictions, predictions.completeness),
                _statistic(metric, predictions, other.completeness),
            )
            differences[name] = bootstrap.figure(paired, clusters, intervals.DIFFERENCE)
    return Assessment(
        name=predictions.name,
        predictions=predictions,
        bootstrap=bootstrap,
        figures=figures,
        within={
            name: _within(metric, predictions)
            for name, metric in METRICS.items()
            if metric.group is not None
        },
        judges=judges.agreement(infos, bootstrap),
        groups={kind: _group_errors(kind, predictions) for kind in GROUPS},
        spread_tau=_spread_tau(predictions),
        coverage=None
        if calibration is None
        else _coverage(calibration, predictions, bootstrap, clusters),
        other=other.name if other is not None else "",
        differences=differences,
    )


def _statistic(
    metric: Metric, dives: Predictions, completeness: Float[np.ndarray, " n"]
) -> Statistic:
    """A metric of some predicted completeness of these dives, as a function of resamples."""
    predicted, truth = _sides(metric, dives, completeness)
    if metric.scale is intervals.ERROR:
        # The range is that of the test set: a resample's would be what its outermost dives make it.
        extent = np.ptp(truth)
        if extent == 0:
            return lambda counts: np.full(len(counts), np.nan)
        return intervals.mean(100 * ((predicted - truth) / extent) ** 2)
    if metric.group is None:
        return intervals.spearman(predicted, truth)
    groups = intervals.numbered([metric.group(info) for info in dives.infos])
    return intervals.spearman_within(predicted, truth, groups, LEAST_IN_GROUP)


def _sides(
    metric: Metric, dives: Predictions, completeness: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """What is predicted and what is true, of scores or of execution."""
    if metric.of == "score":
        return completeness * dives.difficulty, dives.true_score
    return completeness, metrics.execution(dives.true_score, dives.difficulty)


def _within(metric: Metric, dives: Predictions) -> Within:
    assert metric.group is not None
    predicted, truth = _sides(metric, dives, dives.completeness)
    groups = intervals.rows_of(intervals.numbered([metric.group(info) for info in dives.infos]))
    found = [
        (len(rows), metrics.spearman(predicted[rows], truth[rows]))
        for rows in groups
        if len(rows) >= LEAST_IN_GROUP
    ]
    found = [(count, value) for count, value in found if not np.isnan(value)]
    values = [value for _, value in found] or [np.nan]
    return Within(len(found), sum(count for count, _ in found), min(values), max(values))


def _group_errors(kind: str, dives: Predictions) -> tuple[GroupErrors, ...]:
    names = [GROUPS[kind](info) for info in dives.infos]
    off = dives.score - dives.true_score
    execution = metrics.execution(dives.true_score, dives.difficulty)
    groups = []
    for rows in intervals.rows_of(intervals.numbered(names)):
        groups.append(
            GroupErrors(
                kind=kind,
                name=str(names[rows[0]]),
                dives=len(rows),
                mean_error=float(np.mean(np.abs(off[rows]))),
                bias=float(np.mean(off[rows])),
                execution_spearman=metrics.spearman(dives.completeness[rows], execution[rows]),
            )
        )
    return tuple(sorted(groups, key=lambda one: (-one.dives, one.name)))


def _spread_tau(dives: Predictions) -> float:
    if dives.spread is None or len(dives.infos) < 2 or np.ptp(dives.spread) == 0:
        return float("nan")
    off = np.abs(dives.completeness - dives.true_completeness)
    return float(stats.kendalltau(dives.spread, off).statistic)


def _coverage(
    calibration: Calibration,
    dives: Predictions,
    bootstrap: Bootstrap,
    clusters: Int[np.ndarray, " n"],
) -> Coverage:
    covered = intervals.mean(calibration.covered(dives))
    return Coverage(
        level=calibration.level,
        calibration_dives=calibration.dives,
        groups=len(calibration.by_dive_number),
        covered=bootstrap.figure(covered, clusters, intervals.SHARE),
        half_widths=calibration.half_widths(dives.infos),
    )


def _check_same(first: Predictions, second: Predictions) -> None:
    keys = [[info.key for info in one.infos] for one in (first, second)]
    if keys[0] != keys[1]:
        raise InputError(
            f"{first.name} and {second.name} are of other dives, or in another order: expected "
            "predictions of the same ones"
        )
