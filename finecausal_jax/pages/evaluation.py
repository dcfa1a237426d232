"""The page of an evaluation."""

from __future__ import annotations

import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from finecausal_jax.data.clips import Key
from finecausal_jax.data.sources import Clips
from finecausal_jax.pages import html
from finecausal_jax.scoring.assessment import METRICS, Assessment, Within
from finecausal_jax.scoring.assessment_report import decided
from finecausal_jax.scoring.baselines import TITLES
from finecausal_jax.scoring.intervals import ERROR, Figure, Interval

WORST = 10  # dives that are shown
Thumbnails = Mapping[Key, Sequence[UInt8[np.ndarray, "h w 3"]]]


class Table(NamedTuple):
    """A table of numbers beside the usual ones; the first cell of a row says what it is."""

    title: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


def write_page(
    assessment: Assessment,
    path: str | os.PathLike[str],
    *,
    data_name: str,
    thumbnails: Thumbnails | None = None,
    tables: Sequence[Table] = (),
) -> pathlib.Path:
    """Writes the page, whole or not at all.

    Args:
      assessment: the figures.
      path: where it goes.
      data_name: what was scored, such as "rendered data".
      thumbnails: pictures of dives, of those among `worst_dives` that are to have some.
      tables: what else there is to show.

    Returns:
      `path`.
    """
    infos = assessment.predictions.infos
    return html.write_html(
        path,
        "evaluation.html",
        title=f"{assessment.name}, evaluated",
        name=assessment.name,
        dives=len(infos),
        competitions=len({info.competition for info in infos}),
        level=f"{100 * assessment.bootstrap.level:g}%",
        resamples=assessment.bootstrap.resamples,
        is_rendered="rendered" in data_name,
        quotation=quotation(assessment, data_name),
        forest=_forest(assessment),
        figures=_rows(assessment),
        spread_tau=assessment.spread_tau,
        coverage=assessment.coverage,
        other=assessment.other,
        differences=[
            {"title": METRICS[name].title, "figure": figure, "decided": decided(figure)}
            for name, figure in assessment.differences.items()
        ],
        scatter=_scatter(assessment),
        judges=assessment.judges,
        worst=assessment.worst_group,
        groups=assessment.groups,
        tables=tables,
        has_pictures=bool(thumbnails),
        errors=[_error(assessment, row, thumbnails or {}) for row in worst_dives(assessment)],
    )


def quotation(assessment: Assessment, data_name: str) -> str:
    """A sentence that says what was measured, on what, and how sure it is."""
    infos = assessment.predictions.infos
    competitions = len({info.competition for info in infos})
    own = assessment.figures[assessment.name]
    say = functools.partial(_quoted, level=assessment.bootstrap.level)
    text = (
        f"On {len(infos)} dives of {competitions} "
        f"{'competition' if competitions == 1 else 'competitions'} ({data_name}) "
        f"{assessment.name} reaches an execution Spearman of {say(own['execution_spearman'])}, "
        f"a Spearman of {say(own['spearman'])} and an R-l2 x100 of {say(own['r_l2_x100'])}"
    )
    alone = assessment.figures.get("difficulty_only", {}).get("spearman")
    if alone is not None and not math.isnan(alone.value):
        text += f"; difficulty alone reaches a Spearman of {alone.value:.3f}"
    text += "."
    if "rendered" in data_name:
        text += " Rendered data says nothing of how well it scores real dives."
    return text


def worst_dives(assessment: Assessment, count: int = WORST) -> list[int]:
    """Rows of the dives with the largest errors of the score, the largest first."""
    off = np.abs(assessment.predictions.score - assessment.predictions.true_score)
    return [int(row) for row in np.argsort(-off, kind="stable")[:count]]


def thumbnails_of(
    source: Clips, rows: Sequence[int], count: int = 5, height: int = 72
) -> dict[Key, list[UInt8[np.ndarray, "h w 3"]]]:
    """Small pictures of some dives, evenly spread over each.

    Args:
      source: the dives.
      rows: which.
      count: pictures a dive.
      height: of each, pixels.
    """
    found = {}
    for row in rows:
        dive = source[row]
        clip = getattr(dive, "clip", dive)
        chosen = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
        images = [
            clip.decode(int(frame), "frame")
            if clip.resize is None
            else Image.fromarray(clip.frames[frame])
            for frame in chosen
        ]
        found[clip.key] = [
            np.asarray(one.resize((round(one.width * height / one.height), height)))
            for one in images
        ]
    return found


def _quoted(figure: Figure, level: float) -> str:
    if math.isnan(figure.value):
        return "none"
    for interval, by in ((figure.by_competitions, "competitions"), (figure.by_dives, "dives")):
        if not math.isnan(interval.low):
            ends = f"{interval.low:.3f} to {interval.high:.3f}"
            return f"{figure.value:.3f} ({100 * level:g}% interval by {by} {ends})"
    return f"{figure.value:.3f}"


def _rows(assessment: Assessment) -> list[dict[str, Any]]:
    """Each metric with a row a predictor, the model's first."""
    found = []
    for name, metric in METRICS.items():
        rows = [
            {
                "predictor": TITLES.get(model, model),
                "is_model": model == assessment.name,
                "figure": figures[name],
                "range": _range(assessment.within.get(name)) if model == assessment.name else "",
            }
            for model, figures in assessment.figures.items()
            if model == assessment.name or not math.isnan(figures[name].value)
        ]
        found.append({"title": metric.title, "rows": rows})
    return found


def _range(within: Within | None) -> str:
    if within is None or not within.groups:
        return ""
    return f"{within.lowest:.2f} to {within.highest:.2f} in {within.groups}"


def _error(assessment: Assessment, row: int, thumbnails: Thumbnails) -> dict[str, Any]:
    predictions = assessment.predictions
    info = predictions.infos[row]
    predicted = float(predictions.score[row])
    return {
        "dive_number": info.dive_number,
        "difficulty": info.difficulty,
        "competition": info.competition,
        "index": info.index,
        "score": info.score,
        "predicted": predicted,
        "off": predicted - info.score,
        "pictures": [html.jpeg(image) for image in thumbnails.get(info.key, ())],
    }


def _forest(assessment: Assessment) -> markupsafe.Markup:
    """Figures with their intervals, one a line; errors have an axis of their own."""
    errors = [name for name, metric in METRICS.items() if metric.scale is ERROR]
    names = [name for name in METRICS if name not in errors]
    figure = html.new_figure(8.4, 0.62 * len(METRICS) + 1.3)
    heights = [len(names), len(errors) + 0.4]
    above, below = figure.subplots(2, 1, height_ratios=heights)
    _lines(above, assessment, names)
    above.axvline(0, color=html.FAINT, linewidth=1)
    above.set_xlim(min(above.get_xlim()[0], -0.05), 1.02)
    _lines(below, assessment, errors)
    below.set_xlim(0, None)
    own = assessment.figures[assessment.name]
    said = "; ".join(f"{METRICS[name].title} {html.number(own[name].value)}" for name in METRICS)
    return html.svg(figure, f"Figures with their intervals: {said}")


def _lines(axes: Any, assessment: Assessment, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        own = assessment.figures[assessment.name][name]
        others = [one for one in assessment.figures if one != assessment.name]
        for at, model in enumerate(others, start=1):
            # A little below the model's, one under the other.
            one, row = assessment.figures[model][name], place + 0.13 * at
            _line(axes, row, one.by_dives, 1.0, html.INK)
            if not math.isnan(one.value):
                axes.plot([one.value], [row], "|", color=html.INK, markersize=6)
        _line(axes, float(place), own.by_competitions, 1.5, html.MODEL)
        _line(axes, float(place), own.by_dives, 5.0, html.MODEL)
        if not math.isnan(own.value):
            axes.plot([own.value], [place], "o", color=html.MODEL, markersize=7)
    axes.set_yticks(range(len(names)), [METRICS[name].title for name in names])
    axes.set_ylim(len(names) - 0.45, -0.3)
    axes.grid(axis="x", color=html.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    html.style_axes(axes)
    axes.tick_params(axis="y", labelsize=10)


def _line(axes: Any, row: float, interval: Interval, width: float, colour: str) -> None:
    if not math.isnan(interval.low):
        axes.plot(
            [interval.low, interval.high],
            [row, row],
            color=colour,
            linewidth=width,
            alpha=0.55,
            solid_capstyle="butt",
        )


def _scatter(assessment: Assessment) -> markupsafe.Markup:
    dives = assessment.predictions
    figure = html.new_figure(9.6, 4.7)
    panels = (
        ("score (points)", dives.true_score, dives.score),
        ("score / difficulty (points)", dives.true_completeness, dives.completeness),
    )
    for axes, (unit, truth, prediction) in zip(figure.subplots(1, 2), panels, strict=True):
        ends = min(truth.min(), prediction.min()), max(truth.max(), prediction.max())
        margin = 0.04 * (ends[1] - ends[0]) or 1.0
        limits = ends[0] - margin, ends[1] + margin
        axes.plot(limits, limits, color=html.INK, linewidth=1)
        axes.scatter(truth, prediction, s=16, color=html.MODEL, alpha=0.6, linewidths=0)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.set_xlabel(f"true {unit}")
        axes.set_ylabel(f"predicted {unit}")
        axes.grid(color=html.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        html.style_axes(axes)
    own = assessment.figures[assessment.name]
    return html.svg(
        figure,
        f"Predicted over true values of {len(dives.infos)} dives: scores, Spearman "
        f"{html.number(own['spearman'].value)}, and execution, Spearman "
        f"{html.number(own['execution_spearman'].value)}",
    )
