"""A benchmark for people and programs: terminal tables, a JSON file and a plot."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finecausal_jax.runtime.console import add_columns, make_console
from finecausal_jax.runtime.files import write_atomically

_TITLES = {
    "forward": "forward",
    "train": "training step",
    "score_dive": "query, pair by pair",
    "encode": "encode a video",
    "compare": "compare a query",
    "test_protocol": "query of the protocol",
    "new_dive": "new dive, stored bank",
    "pairs_a_second_release": "pairs a second, release",
    "pairs_a_second_resized": "pairs a second, resized",
}

_SPREAD = ("median", "min", "max")
_COMPILED = "PyTorch compiled"
_CORES_NOTE = "Pairs a second: of one thread, and so of each core"


def print_tables(whole: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what `results.summarize` returned.

    Args:
      whole: the results.
      console: where to print; None is standard output.
    """
    console = console or make_console()
    times = _table("Seconds a run", ("what", "worker"), (*_SPREAD, "compile", "GB", "of peak"))
    rates = _table("Pairs a second", ("what",), (*_SPREAD, "GB"))
    notes = []
    for section, result in whole["sections"].items():
        for worker, quantities in result["summary"].items():
            entry = result["workers"][worker]
            memory = _number(entry["peak_bytes"] / 1e9 if "peak_bytes" in entry else None)
            for quantity, row in quantities.items():
                title = _TITLES.get(quantity, quantity)
                numbers = [_number(row[name]) for name in _SPREAD]
                if section == "pipeline":
                    rates.add_row(title, *numbers, memory)
                    continue
                share = row.get("share_of_matmul_peak")
                times.add_row(
                    title,
                    worker,
                    *numbers,
                    _number(_compiling(worker, entry)),
                    memory,
                    "-" if share is None else f"{100 * share:.0f} %",
                )
        notes += [f"{section} failed: {text}" for text in result["failures"].values()]
        if "skipped" in result:
            notes.append(f"{section} skipped: {result['skipped']}")
    for table in (times, rates):
        if table.row_count:
            console.print(table)
    if whole["targets"]:
        console.print(_targets(whole))
    sizes = whole["config"]["benchmark"]
    if "evaluation" in whole["sections"]:
        notes.append(
            f"A query of the test protocol: its share of {sizes['test_dives']} + "
            f"{sizes['train_dives']} encodings, each video once, and one comparison with "
            f"{whole['config']['evaluate']['exemplars']} exemplars"
        )
    if "pipeline" in whole["sections"]:
        workers = whole["config"]["data"]["workers"]
        notes.append(f"Pairs a second: of {workers} worker processes" if workers else _CORES_NOTE)
    notes.append(
        f"{whole['machine']['processor']}, {whole['threads']} cores, device {whole['device']}, "
        f"batches of {sizes['batch_size']}, {whole['config']['model']['dtype']}"
    )
    notes.append(
        "compile: seconds, of the whole section; of compiled PyTorch its first run. GB: peak "
        "memory after warm-up. Of peak: operations a second, convolutions counted as written "
        "(Winograd's algorithm computes fewer), in those of the fastest matrix product of the run"
    )
    for note in notes:
        console.print(Text(note, style="dim"))


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    add_columns(table, texts)
    add_columns(table, numbers, justify="right")
    return table


def _targets(whole: Mapping[str, Any]) -> Table:
    headings = ("XLA", "PyTorch", "ratio", "of rounds", "target", "met")
    table = _table("How many times as fast", ("what", "against"), headings)
    for row in whole["targets"]:
        ratio, target = f"{row['ratio']:.2f} x", f"{row['at_least']:g} x"
        if "memory_at_most" in row:
            ratio += f"\nmemory {_number(row['memory_ratio'])}"
            target += f"\n<= {row['memory_at_most']:g}"
        rounds = [f"{row[key]:.2f}" for key in ("ratio_min", "ratio_max") if key in row]
        table.add_row(
            row["what"],
            row["against"] if row["setting"] == row["against"] else row["setting"] + " (best)",
            _number(row["xla_seconds"]),
            _number(row["torch_seconds"]),
            ratio,
            " - ".join(rounds),
            target,
            {True: "yes", False: "no", None: "-"}[row["met"]],
        )
    return table


def write_json(whole: Mapping[str, Any], path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes what `results.summarize` returned, whole or not at all, and returns the path."""
    text = json.dumps(whole, indent=1, allow_nan=False)
    return write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def write_plot(whole: Mapping[str, Any], path: str | os.PathLike[str]) -> pathlib.Path:
    """Draws medians as bars with a line from minimum to maximum, one panel a section.

    Args:
      whole: from `results.summarize`.
      path: where the PNG goes; it appears whole or not at all.

    Returns:
      `path`.
    """
    panels = [
        (section, rows)
        for section, result in whole["sections"].items()
        if (rows := _bars(result["summary"]))
    ]
    figure = Figure(
        figsize=(8, 0.8 + sum(0.6 + 0.35 * len(rows) for _, rows in panels)),
        dpi=150,
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(figure)  # bound to this figure alone: no window, no global state
    heights = [1 + len(rows) for _, rows in panels] or [1]
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    if not panels:
        axes[0].text(0.5, 0.5, "nothing was measured", ha="center")
    for panel, (section, rows) in zip(axes, panels, strict=False):
        for place, (_, worker, row) in enumerate(rows):
            low, high = row["median"] - row["min"], row["max"] - row["median"]
            panel.barh(
                place,
                row["median"],
                xerr=[[low], [high]],
                color="tab:blue" if worker == "XLA" else "0.7",
                error_kw={"elinewidth": 1, "capsize": 3},
            )
        panel.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=8)
        panel.invert_yaxis()
        panel.set_xlim(left=0)
        panel.set_title(section, loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("pairs a second" if section == "pipeline" else "seconds", fontsize=8)
        panel.tick_params(axis="x", labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{whole['machine']['processor']}, {whole['threads']} cores, {whole['device']}: median, "
        "least and largest",
        fontsize=9,
        color="0.3",
    )
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _bars(summary: Mapping[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    return [
        (f"{_TITLES.get(quantity, quantity)}, {worker}", worker, row)
        for worker, quantities in summary.items()
        for quantity, row in quantities.items()
    ]


def _compiling(worker: str, entry: Mapping[str, Any]) -> float | None:
    """Seconds, of all operations; `torch.compile` does it in its first run, the eager never."""
    if worker == _COMPILED:
        return sum(entry["first_seconds"].values())
    return sum(entry["compile_seconds"].values()) or None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
