"""An evaluation for people and programs: a terminal table, a JSON file and a scatter plot.

Every form says what data was scored: results on rendered data mean nothing next to the paper's.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from finecausal_jax.models.finecausal import STAGES
from finecausal_jax.runtime.console import add_columns, make_console
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.scoring import baselines
from finecausal_jax.scoring.masks import MaskExample
from finecausal_jax.scoring.protocol import DiveScore, Evaluation

# Row titles of `Evaluation.masks`.
MASK_TITLES = {
    "reference": "the reference's logit",
    "chosen": "the best logit on training dives",
    "constant": "one mask for all frames",
}
_SHOWN_FRAMES = 7
_LARGEST_ERRORS = 5  # dives in the second table: enough to look at, short enough to read


def print_table(evaluation: Evaluation, *, data_name: str, console: Console | None = None) -> None:
    """Prints the metrics beside the baselines', then the dives with the largest errors.

    Args:
      evaluation: the results.
      data_name: what was scored, such as "rendered data".
      console: where to print; None is standard output.
    """
    (console or make_console()).print(_tables(evaluation, data_name))


def to_json(evaluation: Evaluation, *, data_name: str, step: int | None = None) -> dict[str, Any]:
    """Returns everything but features in plain Python values; what is not a number becomes None.

    Args:
      evaluation: the results.
      data_name: what was scored.
      step: of the checkpoint whose network scored it, where there is one.

    Returns:
      {"data": str, "step": int or None, "metrics": {name: number}, "baselines": {predictor: {name:
      number}}, "masks": {which: {name: number}} and "truth": {part: {who: number}} if asked for,
      "dives": [one object a query]}. Scores, completeness and deltas are points, transitions
      frames.
    """
    return plain(
        {
            "data": data_name,
            "step": step,
            "metrics": evaluation.metrics,
            "baselines": evaluation.baselines,
            **({"masks": evaluation.masks} if evaluation.masks else {}),
            **({"truth": evaluation.truth} if evaluation.truth else {}),
            "dives": [_dive_json(dive) for dive in evaluation.dives],
        }
    )


def write_json(
    evaluation: Evaluation,
    path: str | os.PathLike[str],
    *,
    data_name: str,
    step: int | None = None,
    besides: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes `to_json`, and other entries `besides`, whole or not at all; returns the path."""
    content = to_json(evaluation, data_name=data_name, step=step) | plain(dict(besides or {}))
    text = json.dumps(content, indent=1, allow_nan=False)
    return write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def write_scatter(
    evaluation: Evaluation, path: str | os.PathLike[str], *, data_name: str
) -> pathlib.Path:
    """Draws predicted over true score, and the same over difficulty, as a PNG of 1500 x 780.

    Colour is difficulty: it orders the left plot by itself and must not order the right one.

    Args:
      evaluation: the results.
      path: where the PNG goes; it appears whole or not at all.
      data_name: what was scored; the caption says it.

    Returns:
      `path`.
    """
    dives = evaluation.dives
    difficulty = np.array([dive.difficulty for dive in dives])
    figure = _figure(10.0, 5.2)
    left, right = figure.subplots(1, 2)
    scores = _Panel(
        [dive.score for dive in dives],
        [dive.predicted_score for dive in dives],
        title=f"Score: Spearman {_number(evaluation.metrics['spearman'])}",
        note=_baseline_note(evaluation, "spearman"),
        unit="score (points)",
    )
    execution = _Panel(
        [dive.completeness for dive in dives],
        [dive.predicted_completeness for dive in dives],
        title=f"Execution: Spearman {_number(evaluation.metrics['execution_spearman'])}",
        note=_baseline_note(evaluation, "execution_spearman"),
        unit="score / difficulty (points)",
    )
    _scatter(left, scores, difficulty)
    points = _scatter(right, execution, difficulty)
    bar = figure.colorbar(points, ax=[left, right], shrink=0.85, pad=0.02, label="difficulty")
    bar.outline.set_visible(False)
    bar.solids.set_alpha(1)  # the points' transparency would stripe the bar
    figure.suptitle(
        f"{_capital(data_name)}: {evaluation.metrics['dives']} dives, "
        f"{evaluation.metrics['pairs']} comparisons with an exemplar",
        fontsize=11,
        color="0.3",
    )
    return _save(figure, path)


def write_masks(
    examples: Sequence[MaskExample],
    threshold: float,
    path: str | os.PathLike[str],
    *,
    data_name: str,
) -> pathlib.Path:
    """Draws frames of some dives with the true and the predicted outline of the diver, as a PNG.

    Args:
      examples: the dives, a row each, at least one.
      threshold: logit from which a pixel counts as the diver's.
      path: where the PNG goes; it appears whole or not at all.
      data_name: what they are; the caption says it.

    Returns:
      `path`.
    """
    figure = _figure(1.5 * _SHOWN_FRAMES, 1.62 * len(examples) + 0.5)
    axes = figure.subplots(len(examples), _SHOWN_FRAMES, squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        frames = np.linspace(0, len(example.frames) - 1, _SHOWN_FRAMES).round().astype(int)
        for place, frame in zip(row, frames, strict=True):
            place.imshow(example.frames[frame])
            place.set(xticks=[], yticks=[], xlabel=f"frame {frame}")
            found = example.logits[frame] > threshold
            for mask, colour in ((example.true[frame], "#2ee66b"), (found, "#ff2d2d")):
                if mask.any() and not mask.all():
                    place.contour(mask, levels=[0.5], colors=colour, linewidths=1)
        competition, index = example.key
        row[0].set_title(f"{index} of {competition}", fontsize=8, loc="left")
    figure.suptitle(
        f"{_capital(data_name)}: the diver as labelled (green), and as predicted (red, logit above "
        f"{threshold:g})",
        fontsize=10,
        color="0.3",
    )
    return _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, of 150 pixels each."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # bound to this figure alone: no window, no global state
    return figure


def _save(figure: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _tables(evaluation: Evaluation, data_name: str) -> RenderableType:
    values = evaluation.metrics
    scores = new_table(f"Scores ({data_name})")
    add_columns(scores, ["predictor"])
    add_columns(scores, ("Spearman", "execution Spearman", "R-l2 x100"), justify="right")
    names = ("spearman", "execution_spearman", "r_l2_x100")
    scores.add_row("FineCausal", *(_number(values[name]) for name in names), style="bold")
    for baseline, numbers in evaluation.baselines.items():
        title = baselines.TITLES.get(baseline, baseline)
        scores.add_row(title, *(_number(numbers[name]) for name in names), style="dim")

    parts = new_table("Stages and masks")
    columns = {
        "tIoU 0.5": "tiou_50",
        "tIoU 0.75": "tiou_75",
        "mask IoU": "mask_iou",
        "F1": "mask_f1",
        "F2": "mask_f2",
        "accuracy": "mask_accuracy",
        "recall": "mask_recall",
    }
    add_columns(parts, list(columns), justify="right")
    parts.add_row(*(_number(values[name]) for name in columns.values()))

    worst = sorted(evaluation.dives, key=_error, reverse=True)[:_LARGEST_ERRORS]
    errors = new_table("Largest errors")
    add_columns(errors, ("dive", "diff.", "true", "predicted", *STAGES), justify="right")
    add_columns(errors, ["which"])
    for dive in worst:
        stages = np.mean(dive.stage_deltas, axis=0)
        errors.add_row(
            dive.dive_number,
            f"{dive.difficulty:.1f}",
            f"{dive.score:.2f}",
            f"{dive.predicted_score:.2f}",
            *(f"{stage:+.2f}" for stage in stages),
            # As Text: names may hold brackets, which are markup otherwise.
            Text(f"{dive.key[1]} of {dive.key[0]}"),
        )
    note = Text(
        "forward, twist, entry: how each stage moved the prediction off the exemplars' mean, "
        "points before difficulty",
        style="dim",
    )
    masks = [_masks_table(evaluation.masks)] if evaluation.masks else []
    truth = [truth_table(evaluation.truth, "FineCausal")] if evaluation.truth else []
    return Group(scores, parts, *masks, *truth, errors, note)


def _masks_table(masks: dict[str, dict[str, float]]) -> Table:
    table = new_table("Masks of the test dives alone")
    add_columns(table, ["which"])
    names = ("mask_iou", "mask_f1", "mask_recall")
    add_columns(table, ("threshold", "IoU", "F1", "recall"), justify="right")
    for which, title in MASK_TITLES.items():
        figures = masks[which]
        numbers = (_number(figures[name]) for name in names)
        table.add_row(title, f"{figures['threshold']:.2f}", *numbers)
    return table


def truth_table(truth: Mapping[str, Mapping[str, float]], name: str) -> Table:
    """A table of `truth.compare_with_truth`, of a model called `name`."""
    table = new_table("Spearman with the truth of the rendered dives")
    add_columns(table, ["aspect or stage"])
    add_columns(table, (name, "judges"), justify="right")
    for part, figures in truth.items():
        table.add_row(part, _number(figures["network"]), _number(figures["judges"]))
    return table


def new_table(title: str) -> Table:
    """An empty table in the style of all."""
    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))


class _Panel(NamedTuple):
    """One scatter plot."""

    truth: list[float]
    prediction: list[float]
    title: str
    note: str
    unit: str


def _scatter(axes: Any, panel: _Panel, difficulty: np.ndarray) -> Any:
    """Draws a panel with equal axes; returns the points."""
    truth, prediction, title, note, unit = panel
    low, high = min(*truth, *prediction), max(*truth, *prediction)
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.75", linewidth=1, zorder=1)
    points = axes.scatter(
        truth,
        prediction,
        c=difficulty,
        cmap="viridis",
        s=22,
        alpha=0.85,
        edgecolors="white",
        linewidths=0.4,
        zorder=2,
    )
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"true {unit}")
    axes.set_ylabel(f"predicted {unit}")
    axes.set_title(title, fontsize=13, fontweight="bold", loc="left")
    axes.text(
        0.03, 0.97, note, transform=axes.transAxes, ha="left", va="top", fontsize=8.5, color="0.35"
    )
    axes.grid(color="0.93", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return points


def _baseline_note(evaluation: Evaluation, name: str) -> str:
    lines = [
        f"{baselines.TITLES.get(baseline, baseline)}: {_number(values[name])}"
        for baseline, values in evaluation.baselines.items()
        if not math.isnan(values[name])
    ]
    return "\n".join(["without a look at the video", *lines]) if lines else ""


def _dive_json(dive: DiveScore) -> dict[str, Any]:
    return {
        "competition": dive.key[0],
        "index": dive.key[1],
        "dive_number": dive.dive_number,
        "difficulty": dive.difficulty,
        "score": dive.score,
        "predicted_score": dive.predicted_score,
        "completeness": dive.completeness,
        "predicted_completeness": dive.predicted_completeness,
        "stage_deltas": dict(zip(STAGES, np.mean(dive.stage_deltas, axis=0), strict=True)),
        "tiou": dive.tiou,
        "transitions": dive.true_transitions,
        "exemplars": [
            {
                "competition": key[0],
                "index": key[1],
                dive.target: dive.exemplar_targets[i],
                "delta": dive.deltas[i],
                "predicted_transitions": dive.transitions[i],
            }
            for i, key in enumerate(dive.exemplars)
        ],
    }


def plain(value: Any) -> Any:
    """Returns plain Python values; JSON has no nan, so it becomes None."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _error(dive: DiveScore) -> float:
    return abs(dive.predicted_score - dive.score)


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
