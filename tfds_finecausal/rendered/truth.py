"""What is known of every rendered dive and of no real one: `RENDERED.json`, beside the release.

It has the settings, the aspects of execution with their shares of the mark, and of each dive its
aspects, the points that each stage's faults cost, where stages lie, and what its venue tells. The
mask of every frame is in the release itself, as in the real one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from finecausal_jax.runtime.json_files import not_expected, read_json
from tfds_finecausal.rendered.judging import ASPECTS, SPREAD, Execution
from tfds_finecausal.rendered.plan import DivePlan, Settings

RENDERER_VERSION = 3  # raise it when the same settings give other bytes
MARKER = "RENDERED.json"  # only a folder with this file is ever replaced


@dataclasses.dataclass(frozen=True)
class DiveTruth:
    """What is known of one dive.

    Attributes:
      split: `train` or `test`.
      dive_number, difficulty, marks, score: as annotated.
      execution: quality of each aspect, in 0..1.
      points_lost: points out of 10 that the faults of each stage cost.
      stages: first frame of each stage, and the frame after its last, from the dive's first frame.
      touch: frame at which the hands touch the water.
      cue: what the confounded parts of the venue tell, in 0..1.
    """

    split: str
    dive_number: str
    difficulty: float
    marks: tuple[float, ...]
    score: float
    execution: Execution
    points_lost: dict[str, float]
    stages: dict[str, tuple[int, int]]
    touch: int
    cue: float


def stamp(settings: Settings) -> dict[str, Any]:
    """What tells whether two releases have the same bytes."""
    plain = {**dataclasses.asdict(settings), "frames": list(settings.frames)}
    return {"version": RENDERER_VERSION, "settings": plain}


def truth(settings: Settings, dives: Sequence[DivePlan]) -> str:
    """Returns the text of `RENDERED.json`."""
    aspects = {name: aspect._asdict() for name, aspect in ASPECTS.items()}
    content = {
        "notice": "Rendered data, not FineDiving: see RENDERED.md.",
        **stamp(settings),
        "aspects": aspects,
        "spread": SPREAD,
        "confounders": list(settings.tied),
    }
    rows = [json.dumps(_row(dive)) for dive in dives]
    head = json.dumps(content, indent=1).removesuffix("\n}")
    return head + ',\n "dives": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def read_stamp(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what `stamp` gave for a release; of an older version's, what there is.

    Raises:
      InputError: the file is damaged.
    """
    content = _read(folder)
    return {"version": content.get("version"), "settings": content.get("settings")}


def read_truth(folder: str | os.PathLike[str]) -> dict[tuple[str, int], DiveTruth]:
    """Returns what is known of every dive of a rendered release, by competition and index.

    Args:
      folder: the release's.

    Raises:
      InputError: there is no `RENDERED.json`, as in a real release, it is damaged, or an older
        version wrote it.
    """
    content = _read(folder)
    try:
        return {(row["competition"], row["index"]): _dive(row) for row in content["dives"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_expected(
            pathlib.Path(folder) / MARKER,
            "the truth of each dive, as version 3 of the renderer writes it",
            f"{type(error).__name__}: {error}",
            "render the release again",
        ) from error


def _read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    path = pathlib.Path(folder) / MARKER
    mend = "name the folder of a rendered release, or render one"
    content = read_json(path, "settings and truth of a rendered release", mend)
    if not isinstance(content, dict):
        raise not_expected(path, "an object", type(content).__name__, mend)
    return content


def _row(dive: DivePlan) -> dict[str, Any]:
    return {
        "competition": dive.competition,
        "index": dive.index,
        "split": dive.split,
        "dive_number": dive.dive_number,
        "difficulty": dive.difficulty,
        "marks": dive.marks,
        "score": dive.score,
        "execution": dataclasses.asdict(dive.execution),
        "points_lost": dive.execution.points_lost,
        "stages": dive.timeline.stages,
        "touch": dive.timeline.touch,
        "cue": dive.cue,
    }


def _dive(row: dict[str, Any]) -> DiveTruth:
    own = {field.name: row[field.name] for field in dataclasses.fields(DiveTruth)}
    own["marks"] = tuple(own["marks"])
    own["execution"] = Execution(**own["execution"])
    own["stages"] = {name: (first, last) for name, (first, last) in own["stages"].items()}
    return DiveTruth(**own)
