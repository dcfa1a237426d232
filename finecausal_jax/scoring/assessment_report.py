"""An assessment as tables on the terminal and as plain values for JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from finecausal_jax.runtime.console import add_columns, make_console
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.scoring.assessment import METRICS, Assessment, GroupErrors
from finecausal_jax.scoring.baselines import TITLES
from finecausal_jax.scoring.intervals import Figure, Interval
from finecausal_jax.scoring.report import new_table, plain, truth_table


def print_assessment(
    assessment: Assessment, *, data_name: str, console: Console | None = None
) -> None:
    """Prints all figures with their intervals.

    Args:
      assessment: the figures.
      data_name: what was scored, such as "rendered data".
      console: where to print; None is standard output.
    """
    (console or make_console()).print(_tables(assessment, data_name))


def print_truth(
    truth: Mapping[str, Mapping[str, float]], name: str, console: Console | None = None
) -> None:
    """Prints `truth.compare_with_truth` of a model called `name`."""
    (console or make_console()).print(truth_table(truth, name))


def to_json(assessment: Assessment) -> dict[str, Any]:
    """Returns all figures in plain Python values; nan stays, for `report.plain` to turn into None.

    Returns:
      {"name", "dives", "competitions", "level", "resamples", "figures": {predictor: {metric:
      {value, by_dives, by_competitions}}}, "within": {metric: {groups, dives, lowest, highest}},
      "judges": [one object a size of panel], "groups": {kind: [one object a group]}, "worst_group",
      "spread_tau", "coverage" or None (with [low, high] of each dive's score), and with a second
      model "other" and "differences"}.
    """
    infos = assessment.predictions.infos
    worst = assessment.worst_group
    return {
        "name": assessment.name,
        "dives": len(infos),
        "competitions": len({info.competition for info in infos}),
        "level": assessment.bootstrap.level,
        "resamples": assessment.bootstrap.resamples,
        "figures": {
            model: {name: _figure_json(one) for name, one in figures.items()}
            for model, figures in assessment.figures.items()
        },
        "within": {name: dataclasses.asdict(one) for name, one in assessment.within.items()},
        "judges": [
            {**dataclasses.asdict(one), "spearman": _figure_json(one.spearman)}
            for one in assessment.judges
        ],
        "groups": {
            kind: [dataclasses.asdict(one) for one in groups]
            for kind, groups in assessment.groups.items()
        },
        "worst_group": None if worst is None else dataclasses.asdict(worst),
        "spread_tau": assessment.spread_tau,
        "coverage": _coverage_json(assessment),
        **(
            {
                "other": assessment.other,
                "differences": {
                    name: _figure_json(one) for name, one in assessment.differences.items()
                },
            }
            if assessment.other
            else {}
        ),
    }


def write_json(
    assessment: Assessment, path: str | os.PathLike[str], *, data_name: str
) -> pathlib.Path:
    """Writes the assessment of predictions without a network; returns the path.

    The file has the entries of an evaluation's that do not need one: "data", "step" (None),
    "assessment" and "dives".
    """
    predictions = assessment.predictions
    content = {
        "data": data_name,
        "step": None,
        "assessment": to_json(assessment),
        "dives": [
            {
                "competition": info.competition,
                "index": info.index,
                "dive_number": info.dive_number,
                "difficulty": info.difficulty,
                "score": info.score,
                "predicted_score": predictions.score[row],
                "completeness": info.completeness,
                "predicted_completeness": predictions.completeness[row],
            }
            for row, info in enumerate(predictions.infos)
        ],
    }
    text = json.dumps(plain(content), indent=1, allow_nan=False)
    return write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def _coverage_json(assessment: Assessment) -> dict[str, Any] | None:
    coverage = assessment.coverage
    if coverage is None:
        return None
    score, half = assessment.predictions.score, coverage.half_widths
    return {
        "level": coverage.level,
        "calibration_dives": coverage.calibration_dives,
        "groups": coverage.groups,
        "covered": _figure_json(coverage.covered),
        "score_intervals": np.stack([score - half, score + half], axis=1),
    }


def _figure_json(figure: Figure) -> dict[str, Any]:
    return {
        "value": figure.value,
        "by_dives": list(figure.by_dives),
        "by_competitions": list(figure.by_competitions),
    }


def _tables(assessment: Assessment, data_name: str) -> RenderableType:
    level = f"{100 * assessment.bootstrap.level:g}%"
    parts: list[RenderableType] = [_figures_table(assessment, data_name, level)]
    notes = []
    if assessment.other:
        parts.append(_differences_table(assessment, level))
    if assessment.judges:
        parts.append(_judges_table(assessment, level))
        if any(one.trimmed > 0.5 for one in assessment.judges):
            notes.append("* all marks count for the score: the outermost ones may be missing")
    worst = assessment.worst_group
    if worst is not None:
        notes.append(f"worst group: {_group_text(worst)}")
    if not math.isnan(assessment.spread_tau):
        notes.append(
            f"Kendall's tau of the exemplars' spread and the error: {assessment.spread_tau:.3f}"
        )
    coverage = assessment.coverage
    if coverage is not None:
        covered = coverage.covered
        notes.append(
            f"intervals of scores, made for {100 * coverage.level:g}% on "
            f"{coverage.calibration_dives} calibration dives, hold "
            f"{100 * covered.value:.1f}% of the true scores "
            f"({_interval(covered.by_dives, 3)} by dives); half a width is "
            f"{np.mean(coverage.half_widths):.2f} points in the mean. Not claimed for "
            "competitions held out of training, nor for other videos"
        )
    return Group(*parts, *(Text(note, style="dim") for note in notes))


def _figures_table(assessment: Assessment, data_name: str, level: str) -> Table:
    infos = assessment.predictions.infos
    competitions = len({info.competition for info in infos})
    table = new_table(
        f"Intervals of {level} ({data_name}: {len(infos)} dives, {competitions} competitions)"
    )
    add_columns(table, ["figure", "predictor"])
    add_columns(table, ("value", "by dives", "by competitions", "in groups"), justify="right")
    for name, metric in METRICS.items():
        for model, figures in assessment.figures.items():
            figure = figures[name]
            is_model = model == assessment.name
            if not is_model and math.isnan(figure.value):
                continue
            table.add_row(
                metric.title if is_model else "",
                Text(TITLES.get(model, model)),
                _number(figure.value),
                _interval(figure.by_dives),
                _interval(figure.by_competitions),
                _range(assessment, name) if is_model else "",
                style="bold" if is_model else "dim",
            )
    return table


def _range(assessment: Assessment, name: str) -> str:
    within = assessment.within.get(name)
    if within is None or not within.groups:
        return ""
    return f"{within.lowest:.2f} to {within.highest:.2f} in {within.groups}"


def _differences_table(assessment: Assessment, level: str) -> Table:
    table = new_table(f"{assessment.name} less {assessment.other}, intervals of {level}, paired")
    add_columns(table, ["figure"])
    add_columns(table, ("difference", "by dives", "by competitions"), justify="right")
    add_columns(table, [""])
    for name, figure in assessment.differences.items():
        table.add_row(
            METRICS[name].title,
            _number(figure.value),
            _interval(figure.by_dives),
            _interval(figure.by_competitions),
            decided(figure),
        )
    return table


def decided(figure: Figure) -> str:
    """What a difference says: "undecided" unless no interval that there is holds 0."""
    known = [one for one in (figure.by_dives, figure.by_competitions) if not math.isnan(one.low)]
    if not known or any(one.low <= 0 <= one.high for one in known):
        return "undecided"
    return "higher" if figure.value > 0 else "lower"


def _judges_table(assessment: Assessment, level: str) -> Table:
    table = new_table(f"One judge against the others (a reference point, no ceiling; {level})")
    add_columns(table, ["marks a dive"])
    add_columns(table, ("dives", "Spearman", "by dives", "by competitions"), justify="right")
    add_columns(table, ["mean difference"], justify="right")
    for one in assessment.judges:
        table.add_row(
            f"{one.size}{' *' if one.trimmed > 0.5 else ''}",
            str(one.dives),
            _number(one.spearman.value),
            _interval(one.spearman.by_dives),
            _interval(one.spearman.by_competitions),
            f"{one.difference:.2f}",
        )
    return table


def _group_text(group: GroupErrors) -> str:
    return (
        f"{group.name} ({group.kind}, {group.dives} dives), mean error {group.mean_error:.2f} "
        f"points, of which {group.bias:+.2f} is bias"
    )


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


def _interval(interval: Interval, digits: int = 4) -> str:
    if math.isnan(interval.low):
        return "none"
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
