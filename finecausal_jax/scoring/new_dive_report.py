"""A new dive's result for people and programs."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from finecausal_jax.models.finecausal import STAGES
from finecausal_jax.runtime.console import add_columns, make_console
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.scoring.new_dive import NewScore
from finecausal_jax.scoring.report import new_table, plain


def warnings_of(result: NewScore) -> list[str]:
    """Sentences about what makes the score doubtful."""
    found = []
    if not result.is_own_number:
        numbers = sorted({info.dive_number for info in result.exemplars})
        found.append(
            f"There are no exemplars of dive number {result.dive_number}: compared with the "
            f"nearest, {', '.join(numbers)}."
        )
    if result.is_far:
        found.append(
            f"The video is unlike every dive of the bank ({result.distance:.1f} times the distance "
            "that is unusual there): the score may mean nothing."
        )
    return found


def to_json(
    result: NewScore,
    video: str,
    times: Sequence[float] | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Returns the result in plain Python values.

    Args:
      result: the score.
      video: the file or folder.
      times: when each frame of the clip is shown, seconds; None where that is not known.
      warnings: what makes the score doubtful.

    Returns:
      Points, frames of the video and seconds; "stages" have their first and last frame.
    """

    def span(first: int, last: int) -> dict[str, Any]:
        seconds = {} if times is None else {"seconds": [times[first], times[last]]}
        return {"frames": [first, last], **seconds}

    return plain(
        {
            "video": str(video),
            "warnings": list(warnings),
            "dive_number": result.dive_number,
            "difficulty": result.difficulty,
            "score": result.score,
            "completeness": result.completeness,
            "spread": result.spread,
            **_interval(result),
            "stages": {
                stage: {**span(*ends), "part": result.stage_parts[place]}
                for place, (stage, ends) in enumerate(zip(STAGES, result.stages, strict=True))
            },
            "exemplars": [
                {
                    "competition": info.competition,
                    "index": info.index,
                    "dive_number": info.dive_number,
                    "completeness": info.completeness,
                    "vote": vote,
                }
                for info, vote in zip(result.exemplars, result.votes, strict=True)
            ],
            "is_own_dive_number": result.is_own_number,
            "distance": result.distance,
        }
    )


def _interval(result: NewScore) -> dict[str, Any]:
    if result.interval is None:
        return {}
    low, high, level = result.interval
    return {"interval": {"ends": [low, high], "level": level, "claimed_for_own_videos": False}}


def write_json(report: dict[str, Any], path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `to_json`, whole or not at all; returns the path."""
    text = json.dumps(report, indent=1, allow_nan=False)
    return write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def print_score(report: dict[str, Any], console: Console | None = None) -> None:
    """Prints `to_json` for people."""
    table = new_table(
        f"{report['score']:.2f} points: dive {report['dive_number']}, difficulty "
        f"{report['difficulty']:.1f} (both as announced)"
    )
    add_columns(table, ["stage"])
    add_columns(table, ("frames", "seconds", "part, points of completeness"), justify="right")
    for stage, one in report["stages"].items():
        seconds = one.get("seconds")
        table.add_row(
            stage,
            "{} to {}".format(*one["frames"]),
            "{:.2f} to {:.2f}".format(*seconds) if seconds else "unknown",
            f"{one['part']:+.2f}",
        )
    note = Text(
        f"completeness {report['completeness']:.2f} from {len(report['exemplars'])} exemplars, "
        f"whose votes have a deviation of {report['spread']:.2f}",
        style="dim",
    )
    interval = report.get("interval")
    if interval:
        note.append(
            f"; interval of {100 * interval['level']:g}% {interval['ends'][0]:.1f} to "
            f"{interval['ends'][1]:.1f}, which is not claimed for own videos"
        )
    warnings = [Text(one.upper(), style="bold red") for one in report["warnings"]]
    (console or make_console()).print(Group(*warnings, table, note))
