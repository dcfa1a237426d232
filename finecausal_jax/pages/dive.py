"""The page of one scored dive: what the score is made of, and what changes it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import markupsafe
import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image

from finecausal_jax.explain.explanation import Explanation
from finecausal_jax.models.finecausal import STAGES
from finecausal_jax.pages import html, video
from finecausal_jax.scoring.new_dive import NewScore

STAGE_COLOURS = ("#2f7fd0", "#c9822b", "#2e9a62")  # forward, twist, entry
_STRIP = 9  # frames of the film strip
# Its middle is passed through quickly: neither black nor white is read on it.
_MAP = LinearSegmentedColormap.from_list("weight", ["#f4f8fc", "#a9cfee", "#1c6cb0", "#08407a"])
_OUTLINE = np.array([255, 70, 60], np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """A video to show.

    Attributes:
      title: whose it is.
      frames: uint8 [n, h, w, 3].
      stages: first and last frame of each stage, rows of `frames`.
      rate: frames a second.
    """

    title: str
    frames: UInt8[np.ndarray, "n h w 3"]
    stages: Sequence[tuple[int, int]]
    rate: int = 25


def write_page(
    path: str | os.PathLike[str],
    result: NewScore,
    explanation: Explanation,
    *,
    name: str,
    warnings: Sequence[str] = (),
    shown: Sequence[Shown] = (),
    truth: Sequence[tuple[str, float]] = (),
) -> pathlib.Path:
    """Writes the page, whole or not at all.

    Args:
      path: where it goes.
      result: the score.
      explanation: what the network says beside.
      name: of the video.
      warnings: sentences in large letters above the score.
      shown: the query's video, and an exemplar's behind it if that may be shown.
      truth: of a rendered dive, its aspects and their quality in 0..1.

    Returns:
      `path`.
    """
    script = _script()
    players = [
        {
            "title": one.title,
            "source": video.mp4(one.frames, one.rate),
            # Middles of the first and last frame of a stage: where a browser shows that very frame.
            "stages": [[(a + 0.5) / one.rate, (b + 0.5) / one.rate] for a, b in one.stages],
        }
        for one in shown
    ]
    return html.write_html(
        path,
        "dive.html",
        title=f"{name}: {result.score:.2f} points",
        name=name,
        result=result,
        warnings=warnings,
        stages=list(zip(STAGES, STAGE_COLOURS, result.stages, strict=True)),
        players=players,
        script=markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        strip=_strip(shown[0]) if shown else [],
        build_up=_build_up(result, explanation),
        parts=_parts(result, explanation),
        votes=sorted(
            zip(result.exemplars, result.votes.tolist(), strict=True), key=lambda one: -one[1]
        ),
        graph=_graph(explanation),
        windows=_windows(explanation),
        temporal=_temporal(explanation),
        effects=_effects(result, explanation),
        effects_drawn=_effects_drawn(result, explanation),
        truth=truth,
    )


def outlined(
    frames: UInt8[np.ndarray, "n h w 3"], masks: Bool[np.ndarray, "n h w"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames with the border of a mask drawn into them.

    Args:
      frames: the frames.
      masks: whether a pixel is the diver's.
    """
    inside = masks.copy()
    inside[:, 1:] &= masks[:, :-1]
    inside[:, :-1] &= masks[:, 1:]
    inside[:, :, 1:] &= masks[:, :, :-1]
    inside[:, :, :-1] &= masks[:, :, 1:]
    drawn = frames.copy()
    drawn[masks & ~inside] = _OUTLINE
    return drawn


def enlarged(
    frames: UInt8[np.ndarray, "n h w 3"], height: int = 224
) -> UInt8[np.ndarray, "n h2 w2 3"]:
    """Frames at a height that is pleasant to look at, pixels; larger ones stay as they are."""
    n, h, w, _ = frames.shape
    if h >= height:
        return frames
    size = (round(w * height / h), height)
    return np.stack([np.asarray(Image.fromarray(one).resize(size)) for one in frames])


def _script() -> str:
    folder = importlib.resources.files("finecausal_jax.pages")
    return (folder / "templates" / "players.js").read_text(encoding="utf-8")


def _strip(shown: Shown) -> list[dict[str, Any]]:
    """Frames spread over the dive, with the stage that each is in."""
    rows = np.linspace(0, len(shown.frames) - 1, _STRIP).round().astype(int)
    strip = []
    for row in rows.tolist():
        place = max(k for k, (first, _) in enumerate(shown.stages) if row >= first or k == 0)
        image = Image.fromarray(shown.frames[row])
        small = image.resize((round(image.width * 120 / image.height), 120))
        strip.append(
            {
                "source": html.jpeg(np.asarray(small), 80),
                "stage": STAGES[place],
                "colour": STAGE_COLOURS[place],
                "frame": row,
            }
        )
    return strip


def _parts(result: NewScore, explanation: Explanation) -> list[dict[str, Any]]:
    """By stage and path, points of completeness; with the exemplars' mean they add up."""
    scale = _per_point(result)
    static, dynamic = (
        one.mean(axis=0) / scale for one in (explanation.static_parts, explanation.dynamic_parts)
    )
    return [
        {
            "stage": stage,
            "static": float(static[place]),
            "dynamic": float(dynamic[place]),
            "both": float(static[place] + dynamic[place]),
        }
        for place, stage in enumerate(STAGES)
    ]


def _per_point(result: NewScore) -> float:
    return result.difficulty if result.comparison.target == "score" else 1.0


def _exemplars_mean(result: NewScore) -> float:
    return float(np.mean(result.comparison.exemplar_targets)) / _per_point(result)


def _build_up(result: NewScore, explanation: Explanation) -> markupsafe.Markup:
    """From the exemplars' mean to the score, a bar a part."""
    start = _exemplars_mean(result)
    parts = _parts(result, explanation)
    figure = html.new_figure(8.6, 3.3)
    axes = figure.subplots()
    axes.barh(0, start, color=html.INK, alpha=0.45)
    names, at, said = ["exemplars' mean"], start, [f"exemplars' mean {start:.2f}"]
    for place, part in enumerate(parts):
        for path in ("static", "dynamic"):
            size = part[path]
            row = len(names)
            axes.barh(
                row,
                size,
                left=at,
                color=STAGE_COLOURS[place],
                alpha=0.9 if path == "static" else 0.55,
            )
            axes.plot([at, at], [row - 1, row], color=html.INK, linewidth=0.8)
            at += size
            label = "frames" if path == "static" else "motion"
            names.append(f"{part['stage']}, {label}")
            said.append(f"{names[-1]} {size:+.2f}")
    axes.barh(len(names), at, color=html.MODEL)
    names.append("completeness")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("points of completeness (score over difficulty)")
    axes.axvline(0, color=html.FAINT, linewidth=1)
    html.style_axes(axes)
    said.append(
        f"together {at:.2f}, times the difficulty {result.difficulty:g}: {result.score:.2f}"
    )
    return html.svg(figure, "How the score is built up: " + "; ".join(said))


def _heat(axes: Any, values: np.ndarray, labels: Sequence[str], title: str) -> None:
    axes.imshow(values, cmap=_MAP, vmin=0, vmax=max(1e-6, float(values.max())))
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    html.style_axes(axes)
    if len(labels) <= 4:
        for (row, column), value in np.ndenumerate(values):
            dark = value > 0.55 * values.max()
            colour = "white" if dark else "#20262b"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour
            )


def _graph(explanation: Explanation) -> markupsafe.Markup | None:
    if not explanation.node_kinds:
        return None
    layers, heads = explanation.graph_attention.shape[:2]
    figure = html.new_figure(2.6 * heads, 2.9 * layers)
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer in range(layers):
        for head in range(heads):
            _heat(
                grid[layer][head],
                explanation.graph_attention[layer, head],
                explanation.node_kinds,
                f"layer {layer + 1}, head {head + 1}",
            )
            if head:
                grid[layer][head].set_yticklabels([])
    mean = explanation.graph_attention.mean(axis=(0, 1))
    said = "; ".join(
        f"{target} from {source} {mean[i, j]:.2f}"
        for i, target in enumerate(explanation.node_kinds)
        for j, source in enumerate(explanation.node_kinds)
    )
    return html.svg(
        figure, f"Graph attention by kind of node, rows to, columns from; in the mean: {said}"
    )


def _windows(explanation: Explanation) -> markupsafe.Markup | None:
    if not explanation.node_kinds:
        return None
    figure = html.new_figure(9.0, 4.4)
    size = explanation.window_attention.shape[-1]
    each = size // len(explanation.node_kinds)
    for layer, axes in enumerate(figure.subplots(1, 2)):
        values = explanation.window_attention[layer]
        axes.imshow(values, cmap=_MAP, vmin=0, vmax=float(values.max()))
        axes.set_title(f"layer {layer + 1}", fontsize=9)
        middles = [each * k + (each - 1) / 2 for k in range(len(explanation.node_kinds))]
        axes.set_xticks(middles, explanation.node_kinds, rotation=40, ha="right")
        axes.set_yticks(middles, explanation.node_kinds)
        html.style_axes(axes)
    return html.svg(figure, "Graph attention by window, rows to, columns from, mean of all heads")


def _temporal(explanation: Explanation) -> markupsafe.Markup | None:
    layers = len(explanation.temporal_attention)
    if not layers:
        return None
    heads = explanation.temporal_attention.shape[1]
    figure = html.new_figure(3.0 * layers * heads, 2.8)
    said = []
    for at, axes in enumerate(np.ravel(figure.subplots(1, layers * heads))):
        layer, head = divmod(at, heads)
        values = explanation.temporal_attention[layer, head]
        title = f"layer {layer + 1}" + (f", head {head + 1}" if heads > 1 else "")
        _heat(axes, values, STAGES, title)
        said += [
            f"{title}, {target} from {source} {values[i, j]:.2f}"
            for i, target in enumerate(STAGES)
            for j, source in enumerate(STAGES)
            if values[i, j] > 0
        ]
    return html.svg(figure, "Temporal attention, rows to, columns from: " + "; ".join(said))


def _effects(result: NewScore, explanation: Explanation) -> list[dict[str, Any]]:
    """Effects in points of score; those on completeness are multiplied by the difficulty."""
    scale = result.difficulty / _per_point(result)
    return [
        {"name": one.name, "mean": scale * one.mean, "spread": scale * one.spread}
        for one in explanation.effects
    ]


def _effects_drawn(result: NewScore, explanation: Explanation) -> markupsafe.Markup:
    effects = _effects(result, explanation)
    figure = html.new_figure(8.6, 0.27 * len(effects) + 0.8)
    axes = figure.subplots()
    for row, one in enumerate(effects):
        axes.barh(row, one["mean"], color=html.MODEL, alpha=0.8)
        axes.plot(
            [one["mean"] - one["spread"], one["mean"] + one["spread"]], [row, row], color=html.INK
        )
    axes.set_yticks(range(len(effects)), [one["name"] for one in effects])
    axes.invert_yaxis()
    axes.axvline(0, color=html.INK, linewidth=1)
    axes.set_xlabel("change of the score, points; line: one deviation over the exemplars")
    html.style_axes(axes)
    said = "; ".join(f"{one['name']} {one['mean']:+.2f}" for one in effects)
    return html.svg(figure, f"What interventions do to the score: {said}")
