"""One dive's annotations, checked field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfds_finecausal.annotations import FILES, Annotations, DiveKey
from tfds_finecausal.dive_numbers import parse_dive_number

Report = Callable[[str, str], None]  # takes the offending path and what is wrong with it


@dataclasses.dataclass(frozen=True)
class Limits:
    """What values can be; outside lie mistakes. The real release's are in brackets.

    Attributes:
      score: least and most, points (0.0 to 114.8).
      difficulty: least and most (1.5 to 4.1).
      mark: least and most of a judge's mark, points. More than `usual_mark` is a warning, since the
        real release holds 45.0 and 55.5.
      usual_mark: the most that a judge gives.
      marks: least and most number of marks (3, 5 or 7).
    """

    score: tuple[float, float] = (0.0, 300.0)
    difficulty: tuple[float, float] = (1.0, 10.0)
    mark: tuple[float, float] = (0.0, 100.0)
    usual_mark: float = 10.0
    marks: tuple[int, int] = (1, 15)


LIMITS = Limits()


def read_row(
    key: DiveKey, annotations: Annotations, problem: Report, warning: Report = lambda *_: None
) -> dict[str, Any]:
    """Checks what the tables say about a dive.

    Args:
      key: the dive's (competition, index).
      annotations: the tables.
      problem: takes what is wrong.
      warning: takes what is unusual, and kept.

    Returns:
      The annotated fields of `DiveInfo`, those that are sound.
    """
    row: dict[str, Any] = {}
    aqa, coarse, fine = (
        f"{annotations.folder}/{FILES[table]}" for table in ("aqa", "coarse", "fine")
    )
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
            problem(aqa, f"unknown dive number: {str(error)[:200]}")
        for name, value in (("score", score), ("difficulty", difficulty)):
            least, most = getattr(LIMITS, name)
            number = _finite(value)
            if number is None or not least <= number <= most:
                problem(aqa, f"{name} is {_shown(value)}, expected a number from {least} to {most}")
            else:
                row[name] = number
        transits, labels = _integers(transits, whole=True), _integers(labels)
        if transits is None:
            problem(aqa, "transit frames are no list of whole numbers")
        else:
            row["transit_frames"] = tuple(transits.tolist())
        if labels is None:
            problem(aqa, "frame labels are no list of whole numbers")
        else:
            row["frame_labels"] = labels
            unknown = sorted(set(labels.tolist()) - set(annotations.sub_actions))
            if unknown:
                problem(aqa, f"labels {unknown[:10]} are not in {FILES['sub_actions']}")
            if len(set(labels.tolist())) < 2:
                problem(aqa, "fewer than two distinct frame labels, so no transition")
    marks = _field(annotations.coarse.get(key), "judge_scores", problem, coarse)
    if marks is not None:
        values = _marks(marks)
        if values is None:
            least, most = LIMITS.mark
            what = f"expected some numbers from {least} to {most}"
            problem(coarse, f"judge_scores is {_shown(marks)}, {what}")
        else:
            row["judge_scores"] = values
            if max(values) > LIMITS.usual_mark:
                what = f"no judge gives more than {LIMITS.usual_mark}"
                warning(coarse, f"judge_scores is {_shown(list(values))}, {what}")
    own = _field(annotations.fine.get(key), "sub-action_types", problem, fine)
    if own is not None and "frame_labels" in row:
        names = {**annotations.sub_actions, **(own if isinstance(own, dict) else {})}
        runs = np.flatnonzero(np.diff(row["frame_labels"], prepend=-1))
        # By segment, so that a sub-action that comes back is named again.
        segments = row["frame_labels"][runs].tolist()
        row["sub_action_names"] = tuple(str(names.get(label, label))[:100] for label in segments)
    return row


def frame_span(key: DiveKey, annotations: Annotations) -> tuple[int, int] | None:
    """The first and last frame number of a dive by the coarse table; None where it has none."""
    entry = annotations.coarse.get(key)
    entry = entry if isinstance(entry, dict) else {}
    span = _integers([entry.get(name) for name in ("start_frame", "end_frame")], whole=True)
    return None if span is None else (int(span[0]), int(span[1]))


def _field(entry: Any, name: str, problem: Report, path: str) -> Any:
    if entry is None:
        problem(path, "no annotation of this dive, which a split lists")
    elif not isinstance(entry, dict) or entry.get(name) is None:
        problem(path, f"the annotation has no {name!r}")
    else:
        return entry[name]
    return None


def _finite(value: Any) -> float | None:
    if isinstance(value, str | bytes | bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def _marks(value: Any) -> tuple[float, ...] | None:
    """The judges' marks, or None where they are none."""
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    if not isinstance(value, list | tuple):
        value = [value]
    marks = [_finite(mark) for mark in value]
    if not LIMITS.marks[0] <= len(marks) <= LIMITS.marks[1]:
        return None
    least, most = LIMITS.mark
    if any(mark is None or not least <= mark <= most for mark in marks):
        return None
    return tuple(mark for mark in marks if mark is not None)


def _integers(value: Any, whole: bool = False) -> np.ndarray | None:
    """Returns a list or array of integers as int64 [n], or None where it is none.

    Args:
      value: the list or array.
      whole: whether floating-point numbers without a fraction are taken, too.
    """
    try:
        array = np.asarray(value)
        if array.ndim != 1:
            return None
        if whole and np.issubdtype(array.dtype, np.floating):
            array = array[np.isfinite(array) & (np.abs(array) < 2**53)]
            if array.size != np.size(value) or np.any(array != np.rint(array)):
                return None
            return array.astype(np.int64)
        if array.size and not np.issubdtype(array.dtype, np.integer):
            return None
        integers = array.astype(np.int64)
    except (ValueError, TypeError, OverflowError):
        return None
    return integers if np.array_equal(integers, array) else None


def _shown(value: Any) -> str:
    """A value for an error, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
