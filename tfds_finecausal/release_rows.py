"""One dive's annotations, checked field by field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfds_finecausal.annotations import Annotations, DiveKey
from tfds_finecausal.dive_numbers import parse_dive_number

Report = Callable[[str, str], None]  # takes the offending path and what is wrong with it


def read_row(key: DiveKey, annotations: Annotations, problem: Report) -> dict[str, Any]:
    """Checks what the tables say about a dive.

    Args:
      key: the dive's (competition, index).
      annotations: the tables.
      problem: takes what is wrong.

    Returns:
      The annotated fields of `DiveInfo`, those that are sound.
    """
    row: dict[str, Any] = {}
    aqa = "Annotations/fine-grained_annotation_aqa.pkl"
    coarse = "Annotations/FineDiving_coarse_annotation.pkl"
    fine = "Annotations/FineDiving_fine-grained_annotation.pkl"
    entry = annotations.aqa.get(key)
    if entry is None:
        problem(aqa, "no annotation of this dive, which a split lists")
    elif not isinstance(entry, list | tuple) or len(entry) != 5:
        problem(aqa, "no list [dive number, score, difficulty, transit frames, frame labels]")
    else:
        number, score, difficulty, transits, labels = entry
        try:
            row["dive_number"] = parse_dive_number(number).text
        except ValueError as error:
            problem(aqa, f"unknown dive number: {error}")
        for name, value, least in (("score", score, 0.0), ("difficulty", difficulty, 1e-6)):
            number = _finite(value)
            if number is None or number < least:
                problem(aqa, f"{name} is {value!r}, expected a finite number from {least:g}")
            else:
                row[name] = number
        transits, labels = _whole(transits), _integers(labels)
        if transits is None:
            problem(aqa, "transit frames are no list of frame numbers")
        else:
            row["transit_frames"] = tuple(transits.tolist())
        if labels is None:
            problem(aqa, "frame labels are no list of integers")
        else:
            row["frame_labels"] = labels
            unknown = sorted(set(labels.tolist()) - set(annotations.sub_actions))
            if unknown:
                problem(aqa, f"labels {unknown} are not in Sub_action_Types_Table.pkl")
            if len(set(labels.tolist())) < 2:
                problem(aqa, "fewer than two distinct frame labels, so no transition")
    marks = _field(annotations.coarse.get(key), "judge_scores", problem, coarse)
    if marks is not None:
        values = [_finite(mark) for mark in np.asarray(marks, object).ravel().tolist()]
        if None in values:
            problem(coarse, f"judge_scores is {marks!r}, expected numbers")
        else:
            row["judge_scores"] = tuple(values)
    own = _field(annotations.fine.get(key), "sub-action_types", problem, fine)
    if own is not None and "frame_labels" in row:
        names = {**annotations.sub_actions, **(own if isinstance(own, dict) else {})}
        runs = np.flatnonzero(np.diff(row["frame_labels"], prepend=-1))
        # By segment, so that a sub-action that comes back is named again.
        segments = row["frame_labels"][runs].tolist()
        row["sub_action_names"] = tuple(str(names.get(label, label)) for label in segments)
    return row


def _field(entry: Any, name: str, problem: Report, path: str) -> Any:
    if entry is None:
        problem(path, "no annotation of this dive, which a split lists")
    elif not isinstance(entry, dict) or entry.get(name) is None:
        problem(path, f"the annotation has no {name!r}")
    else:
        return entry[name]
    return None


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _integers(value: Any) -> np.ndarray | None:
    """Returns a list or array of integers as int64 [n], or None where it is none."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        return None
    return array.astype(np.int64)


def _whole(value: Any) -> np.ndarray | None:
    """Returns frame numbers, which the release keeps as floats, as int64 [n], or None."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    if array.ndim != 1 or not np.isfinite(array).all():
        return None
    return np.rint(array).astype(np.int64)
