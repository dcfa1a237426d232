"""Predictions of any model, as a table: what an evaluation needs of a network, and no more.

A file is CSV with a header or NPZ with an array a column (nothing in it is unpickled):

    competition, index      the dive's key
    completeness or score   the prediction, points: one of the two, or both where they agree
    spread                  if known, how far the exemplars' votes lie apart: their standard
                            deviation, points of completeness
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.scoring.features import Key
from finecausal_jax.scoring.protocol import DiveScore

COLUMNS = ("competition", "index", "completeness", "score", "spread")
_MOST_BYTES = 64 * 2**20  # of a file: a million dives
_MOST_DIVES = 1_000_000
_AGREE = 1e-3  # relative difference up to which score and completeness say the same


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of some dives.

    Attributes:
      name: of the model, for people.
      infos: what is known of n dives.
      completeness: float64 [n], predicted score over difficulty, points.
      spread: float64 [n], standard deviation of the exemplars' votes, points of completeness; None
        where the model has no exemplars, or did not say.
    """

    name: str
    infos: tuple[DiveInfo, ...]
    completeness: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, " n"] | None = None

    @property
    def difficulty(self) -> Float[np.ndarray, " n"]:
        """Degree of difficulty of each dive."""
        return np.array([info.difficulty for info in self.infos], np.float64)

    @property
    def true_completeness(self) -> Float[np.ndarray, " n"]:
        """True score over difficulty of each dive, points."""
        return np.array([info.completeness for info in self.infos], np.float64)

    @property
    def true_score(self) -> Float[np.ndarray, " n"]:
        """True score of each dive, points."""
        return np.array([info.score for info in self.infos], np.float64)

    @property
    def score(self) -> Float[np.ndarray, " n"]:
        """Predicted score of each dive, points."""
        return self.completeness * self.difficulty

    def joined(self, other: Predictions) -> Predictions:
        """These and those of other dives; with a spread where both have one."""
        both = self.spread is not None and other.spread is not None
        return Predictions(
            self.name,
            (*self.infos, *other.infos),
            np.concatenate([self.completeness, other.completeness]),
            np.concatenate([self.spread, other.spread]) if both else None,
        )


def from_dives(name: str, dives: Sequence[DiveScore], infos: Sequence[DiveInfo]) -> Predictions:
    """The predictions of scored dives.

    Args:
      name: of the model.
      dives: results of `protocol.score_dives`.
      infos: what is known of the same dives, in their order.
    """
    # Votes are of the target: a score is brought to completeness by the difficulty.
    per_point = [dive.difficulty if dive.target == "score" else 1.0 for dive in dives]
    spread = [np.std(dive.votes) / one for dive, one in zip(dives, per_point, strict=True)]
    return Predictions(
        name,
        tuple(infos),
        np.array([dive.predicted_completeness for dive in dives], np.float64),
        np.array(spread, np.float64),
    )


def write(predictions: Predictions, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes a CSV file that `read` reads, whole or not at all; returns the path."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    spread = predictions.spread
    table.writerow(COLUMNS if spread is not None else COLUMNS[:-1])
    for row, info in enumerate(predictions.infos):
        numbers = [predictions.completeness[row], predictions.score[row]]
        numbers += [] if spread is None else [spread[row]]
        table.writerow([*info.key, *(repr(float(one)) for one in numbers)])
    return write_atomically(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))


def read(
    path: str | os.PathLike[str], infos: Sequence[DiveInfo], others: Sequence[DiveInfo] = ()
) -> Predictions:
    """Reads the predictions of some dives, every one of them.

    Args:
      path: a `.csv` or `.npz` file with the columns above.
      infos: the dives; the predictions come in their order.
      others: dives that the file may hold as well; any other is refused.

    Raises:
      InputError: the file cannot be read, a column is missing or unknown, a value is no finite
        number, a dive is missing, there twice or unknown, or score and completeness disagree.
    """
    path = pathlib.Path(path)
    columns = _columns(path)
    missing = [name for name in COLUMNS[:2] if name not in columns]
    missing += [] if {"completeness", "score"} & columns.keys() else ["completeness or score"]
    unknown = sorted(columns.keys() - set(COLUMNS))
    if missing or unknown:
        found = ", ".join(columns) or "none"
        raise InputError(
            f"{path}: expected the columns competition, index, completeness or score, and if known "
            f"spread; {'missing: ' + ', '.join(missing) if missing else ''}"
            f"{'; ' if missing and unknown else ''}"
            f"{'unknown: ' + ', '.join(unknown) if unknown else ''} (found {found})"
        )
    keys = [
        (str(competition), _index(path, line, index))
        for line, (competition, index) in enumerate(
            zip(columns["competition"], columns["index"], strict=True), start=1
        )
    ]
    rows = _rows(path, keys, infos, others)
    numbers = {
        name: np.array([_number(path, keys[row], name, columns[name][row]) for row in rows])
        for name in COLUMNS[2:]
        if name in columns
    }
    difficulty = np.array([info.difficulty for info in infos])
    score, completeness = numbers.get("score"), numbers.get("completeness")
    if completeness is None:
        assert score is not None
        completeness = score / difficulty
    elif score is not None:
        off = np.abs(score - completeness * difficulty)
        wrong = np.flatnonzero(off > _AGREE * np.maximum(np.abs(score), 1.0))
        if wrong.size:
            row = int(wrong[0])
            raise InputError(
                f"{path}: dive {infos[row].key} has the score {score[row]:g} and the completeness "
                f"{completeness[row]:g}, which times its difficulty {difficulty[row]:g} is "
                f"{completeness[row] * difficulty[row]:g}: expected the same, or one of the two "
                "columns alone"
            )
    spread = numbers.get("spread")
    if spread is not None and (spread < 0).any():
        row = int(np.flatnonzero(spread < 0)[0])
        raise InputError(
            f"{path}: the spread of dive {infos[row].key} is {spread[row]:g}, expected a standard "
            "deviation, 0 or more"
        )
    return Predictions(str(path), tuple(infos), completeness, spread)


def _columns(path: pathlib.Path) -> Mapping[str, Sequence[Any]]:
    """The columns of a file by name, all of one length."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of predictions (.csv or .npz)")
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(
            f"{path} has {path.stat().st_size / 1e6:.0f} MB, expected a table of at most "
            f"{_MOST_BYTES / 1e6:.0f} MB: competition, index and a number a dive"
        )
    if path.suffix == ".npz":
        columns = _npz(path)
    elif path.suffix == ".csv":
        columns = _csv(path)
    else:
        raise InputError(f"{path}: expected a file of predictions that ends in .csv or .npz")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: expected columns of one length, found {lengths}")
    return columns


def _csv(path: pathlib.Path) -> Mapping[str, Sequence[Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV in UTF-8 ({error})") from error
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path} is empty, expected a header and a line a dive")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header):
        raise InputError(f"{path}: a column is there twice: {', '.join(header)}")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise InputError(
                f"{path}: dive {number} has {len(line)} values, expected {len(header)}: "
                f"{', '.join(header)}"
            )
    return {name: [line[at].strip() for line in lines[1:]] for at, name in enumerate(header)}


def _npz(path: pathlib.Path) -> Mapping[str, Sequence[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(one.file_size for one in archive.infolist())
        if unpacked > 4 * _MOST_BYTES:
            raise InputError(
                f"{path} holds {unpacked / 1e6:.0f} MB when unpacked, expected at most "
                f"{4 * _MOST_BYTES / 1e6:.0f} MB"
            )
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except Exception as error:  # damaged archives make numpy raise nearly anything
        raise InputError(
            f"{path} cannot be read as NPZ ({type(error).__name__}: {error}): expected an array "
            "without objects for each column"
        ) from error
    for name, values in columns.items():
        if values.ndim != 1 or len(values) > _MOST_DIVES:
            raise InputError(
                f"{path}: the array {name} has the shape {values.shape}, expected [n], a value for "
                f"each of at most {_MOST_DIVES:,} dives"
            )
    return {name: values.tolist() for name, values in columns.items()}


def _rows(
    path: pathlib.Path, keys: Sequence[Key], infos: Sequence[DiveInfo], others: Sequence[DiveInfo]
) -> list[int]:
    """The row of each of `infos` in the file."""
    place: dict[Key, int] = {}
    twice = []
    for row, key in enumerate(keys):
        if place.setdefault(key, row) != row:
            twice.append(key)
    known = {info.key for info in (*infos, *others)}
    problems = {
        "there twice": twice,
        "that are not asked for": [key for key in place if key not in known],
        "missing": [key for key in (info.key for info in infos) if key not in place],
    }
    told = [
        f"{len(wrong)} {what}, the first being {wrong[0]}"
        for what, wrong in problems.items()
        if wrong
    ]
    if told:
        raise InputError(
            f"{path}: expected one prediction for each of {len(infos)} dives, by "
            f"competition and index; {'; '.join(told)}"
        )
    return [place[info.key] for info in infos]


def _index(path: pathlib.Path, line: int, value: Any) -> int:
    try:
        number = float(value)
        if number != int(number):
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{path}: the index of dive {line} is {value!r}, expected a whole number"
        ) from None


def _number(path: pathlib.Path, key: Key, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise InputError(f"{path}: the {name} of dive {key} is {value!r}, expected a finite number")
    return number
