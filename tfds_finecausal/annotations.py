"""The release's six annotation pickles, read without running anything they ask for."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.pickled_arrays import PLAIN
from finecausal_jax.runtime.unpickling import load, read_bytes

DiveKey = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the parts of a release are called in its folder; copies differ.

    Attributes:
      frames: of frames, `COMPETITION/INDEX/NUMBER.jpg`, or of videos, `COMPETITION/INDEX.mkv`.
      masks: of masks, of the frames' names; JPEG or PNG files.
      annotations: of the six tables.
      masked: which dives have masks: "all", "some" or "none".
    """

    frames: str = "FineDiving"
    masks: str = "FineDiving_HM"
    annotations: str = "Annotations"
    masked: str = "all"


FOLDERS = Folders()


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong with a release, or only unusual.

    Attributes:
      where: the dive (`competition/index`) or the annotation file it concerns.
      path: the offending file or folder, relative to the release.
      what: what was expected there and what was found.
    """

    where: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.what}"

    @property
    def kind(self) -> str:
        """What is wrong, without numbers and names: the same for all of its kind."""
        return _DETAIL.sub("…", self.what)


_DETAIL = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)|-?\d[\w.+-]*")
_SHOWN = 5


def grouped(problems: Iterable[Problem]) -> str:
    """Problems by kind, the commonest first, the first five of each, a line each."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    lines = []
    for _, some in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines += [f"  {problem}" for problem in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"  ... and {len(some) - _SHOWN} more of this kind")
    return "\n".join(lines)


class ReleaseError(InputError):
    """A release that cannot be built as it is.

    Attributes:
      problems: every problem found, of which the text shows the first of each kind.
    """

    def __init__(self, manual_dir: os.PathLike[str], problems: Iterable[Problem], advice: str):
        self.problems = tuple(problems)
        places = len({problem.where for problem in self.problems})
        super().__init__(
            f"{len(self.problems)} problems in {places} dives or tables of the release in "
            f"{manual_dir}:\n{grouped(self.problems)}\n{advice}"
        )


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The release's tables, with keys as (str, int) and contents as they were stored.

    Attributes:
      splits: the dives of `train` and `test`, in the order of the pickles.
      aqa: key -> [dive number, score, difficulty, transit frames, frame labels].
      coarse: key -> dict with `judge_scores` and more.
      fine: key -> dict with `sub-action_types` and more.
      sub_actions: label -> sub-action name.
      folder: what the tables' folder is called.
    """

    splits: dict[str, tuple[DiveKey, ...]]
    aqa: Mapping[DiveKey, Any]
    coarse: Mapping[DiveKey, Any]
    fine: Mapping[DiveKey, Any]
    sub_actions: Mapping[int, str]
    folder: str = FOLDERS.annotations


FILES = {
    "train": "train_split.pkl",
    "test": "test_split.pkl",
    "aqa": "fine-grained_annotation_aqa.pkl",
    "coarse": "FineDiving_coarse_annotation.pkl",
    "fine": "FineDiving_fine-grained_annotation.pkl",
    "sub_actions": "Sub_action_Types_Table.pkl",
}


def read_annotations(
    manual_dir: str | os.PathLike[str], folder: str = FOLDERS.annotations
) -> Annotations:
    """Reads all six tables.

    Args:
      manual_dir: the release's folder.
      folder: of the tables in it.

    Returns:
      The tables.

    Raises:
      ReleaseError: a file is missing, is no pickle, asks for anything but NumPy arrays and
        scalars, or does not hold what it should; lists every such file.
    """
    root = pathlib.Path(manual_dir)
    contents: dict[str, Any] = {}
    problems = []
    readers = {"train": _split, "test": _split, "sub_actions": _names}
    for table, name in FILES.items():
        try:
            contents[table] = readers.get(table, _by_dive)(load_pickle(root / folder / name))
        except ValueError as error:
            problems.append(Problem("table", f"{folder}/{name}", str(error)))
    if not problems:
        twice = sorted(set(contents["train"]) & set(contents["test"]))
        problems += [
            Problem(f"{key[0]}/{key[1]}", f"{folder}/{FILES['test']}", "also in train_split.pkl")
            for key in twice
        ]
    if problems:
        raise ReleaseError(
            manual_dir,
            problems,
            "The tables cannot be mended or skipped here: ask for the release again or put its "
            f"{folder} folder back.",
        )
    splits = {"train": contents.pop("train"), "test": contents.pop("test")}
    return Annotations(splits=splits, **contents, folder=folder)


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Loads a pickle of plain Python containers with NumPy arrays and scalars.

    Args:
      path: the file.

    Returns:
      Its content.

    Raises:
      ValueError: the file is missing, damaged or too large, or names anything that plain
        containers, arrays and scalars do not need. Nothing it names is imported or called.
    """
    try:
        return load(read_bytes(path), PLAIN)[0]
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def _key(value: Any) -> DiveKey:
    """Returns a dive's key as (str, int), which NumPy scalars and lists are turned into."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        competition, index = value
        if isinstance(competition, str) and isinstance(index, int | np.integer):
            return str(competition), int(index)
    raise ValueError(f"has {value!r} where a (competition, index) pair was expected")


def _split(content: Any) -> tuple[DiveKey, ...]:
    if not isinstance(content, list | tuple):
        raise ValueError(f"holds {type(content).__name__}, expected a list of (competition, index)")
    keys = tuple(_key(value) for value in content)
    repeated = sorted({key for key in keys if keys.count(key) > 1}) if _repeats(keys) else []
    if repeated:
        raise ValueError(f"lists more than once: {', '.join(f'{c}/{i}' for c, i in repeated)}")
    return keys


def _repeats(keys: tuple[DiveKey, ...]) -> bool:
    return len(set(keys)) < len(keys)


def _by_dive(content: Any) -> dict[DiveKey, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"holds {type(content).__name__}, expected a dict by (competition, index)")
    return {_key(key): value for key, value in content.items()}


def _names(content: Any) -> dict[int, str]:
    if not isinstance(content, dict) or not all(
        isinstance(label, int | np.integer) and isinstance(name, str)
        for label, name in content.items()
    ):
        raise ValueError("is no dict of sub-action names by integer label")
    return {int(label): str(name) for label, name in content.items()}
