"""Checked reading of a FineDiving-HM release, real or rendered.

Every dive of the two splits is checked before anything is built: its annotation, the pairing of
frames and masks by file name, and every JPEG, which must decode to its end. All problems of the
whole release are collected; they are raised as one error, or the dives they concern are left out.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from finecausal_jax.data.dives import SPLITS, DiveInfo
from finecausal_jax.runtime import progress as bars
from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.annotations import (
    FILES,
    FOLDERS,
    Annotations,
    DiveKey,
    Folders,
    Problem,
    ReleaseError,
    grouped,
    read_annotations,
)
from tfds_finecausal.release_images import (
    FOREGROUND,
    FRAMES,
    MASKS,
    check_images,
    list_images,
    strict_decoding,
)
from tfds_finecausal.release_rows import frame_span, read_row

SKIPPED, WARNINGS = "skipped.json", "warnings.json"  # beside the files of a data set
_LONGEST = 10_000  # frames; a misnamed file would otherwise list every number in between
_SKIP_ADVICE = (
    "Put the files right, or build with --skip_bad to leave these dives out and have them listed "
    "in skipped.json."
)


@dataclasses.dataclass(frozen=True, eq=False)
class ReleaseDive:
    """One dive that passed every check.

    Attributes:
      info: its annotation and frame numbers.
      frames: its frame files, in the order of `info.frame_numbers`.
      masks: its mask files, same names in the same order.
      num_bytes: size of all of them together.
      images_hash: hash of what they hold.
      foreground: whether any mask has foreground.
    """

    info: DiveInfo
    frames: tuple[pathlib.Path, ...]
    masks: tuple[pathlib.Path, ...]
    num_bytes: int
    images_hash: str
    foreground: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Release:
    """A checked release.

    Attributes:
      manual_dir: its folder.
      splits: the dives of `train` and `test`, in the order of the split pickles.
      skipped: what was wrong with the dives that were left out.
      warnings: what is unusual about dives that are kept.
    """

    manual_dir: pathlib.Path
    splits: dict[str, tuple[ReleaseDive, ...]]
    skipped: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def read_release(
    manual_dir: str | os.PathLike[str],
    *,
    skip: bool = False,
    workers: int | None = None,
    progress: bool = False,
    folders: Folders = FOLDERS,
) -> Release:
    """Reads and checks a release.

    Args:
      manual_dir: folder with `FineDiving/`, `FineDiving_HM/` and `Annotations/`.
      folders: what these three are called.
      skip: leave dives with problems out, instead of stopping.
      workers: threads that decode images; None takes one a core.
      progress: whether to show how far it is.

    Returns:
      The release.

    Raises:
      ReleaseError: lists every problem of every table, or of every dive unless `skip`. Tables
        cannot be skipped.
      InputError: the folder is missing, or a split is empty (after skipping).
    """
    root = pathlib.Path(manual_dir)
    if not root.is_dir():
        raise InputError(
            f"no release in {root}: ask the FineDiving authors for the data and unpack it there, "
            "or render a synthetic one (`launch.py render`)"
        )
    _check_folders(root, folders)
    annotations = read_annotations(root, folders.annotations)
    keys = [(split, key) for split in SPLITS for key in annotations.splits[split]]
    passed: dict[str, list[ReleaseDive]] = {split: [] for split in SPLITS}
    problems: list[Problem] = []
    warnings: list[Problem] = []

    def check(job: tuple[str, DiveKey]) -> tuple[str, Checked]:
        return job[0], check_dive(root, job[1], annotations, folders)

    count = workers or os.cpu_count() or 1
    shown = bars.progress(len(keys), "checking", "dives", show=progress)
    with strict_decoding(), concurrent.futures.ThreadPoolExecutor(count) as pool, shown as bar:
        try:
            for split, found in pool.map(check, keys):
                problems += found.problems
                warnings += found.warnings
                if found.dive is not None:
                    passed[split].append(found.dive)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    # Without one training dive of its number, a test dive has nothing to be compared with.
    known = {_annotated_number(annotations, key) for key in annotations.splits["train"]}
    usable = {dive.info.dive_number for dive in passed["train"]}
    kept = []
    for dive in passed["test"]:
        number = dive.info.dive_number
        if number not in known:
            problems.append(_number_problem(dive.info, "occurs in no training dive"))
        elif number not in usable and skip:
            problems.append(_number_problem(dive.info, "has lost all its training dives"))
        else:
            kept.append(dive)
    passed["test"] = kept
    dives = [*passed["train"], *passed["test"]]
    if dives and not any(dive.foreground for dive in dives):
        problems.append(
            Problem(
                "masks",
                folders.masks,
                f"no mask of any dive has foreground, expected pixels from {FOREGROUND} to 255; "
                "masks of the values 0 and 1 are to be multiplied by 255",
            )
        )
        raise ReleaseError(root, problems, "No network learns from them: put the masks right.")
    if problems and not skip:
        raise ReleaseError(root, problems, _SKIP_ADVICE)
    for split in SPLITS:
        if not passed[split]:
            lost = len(annotations.splits[split])
            raise InputError(
                f"the {split} split of the release in {root} is empty: expected at least one dive "
                f"in {FILES[split]}, which lists {lost}"
                + (f", all skipped:\n{grouped(problems)}" if lost else "")
            )
    splits = {split: tuple(dives) for split, dives in passed.items()}
    return Release(root, splits, tuple(problems), tuple(warnings))


@dataclasses.dataclass(frozen=True)
class Checked:
    """What came of a dive: the dive, or None where anything is wrong with it; all that is wrong;
    and what is unusual."""

    dive: ReleaseDive | None
    problems: list[Problem]
    warnings: list[Problem]


def check_dive(
    root: pathlib.Path, key: DiveKey, annotations: Annotations, folders: Folders = FOLDERS
) -> Checked:
    """Checks one dive.

    Args:
      root: the release's folder.
      key: the dive's (competition, index).
      annotations: the tables.
      folders: what the release's parts are called.
    """
    competition, index = key
    result = Checked(None, [], [])
    problems = result.problems

    def problem(path: str, what: str) -> None:
        problems.append(Problem(f"{competition}/{index}", path, what))

    def warning(path: str, what: str) -> None:
        result.warnings.append(Problem(f"{competition}/{index}", path, what))

    row = read_row(key, annotations, problem, warning)
    plain = pathlib.PurePath(competition).name == competition
    if not plain or competition in ("", ".", "..") or "\0" in competition or index < 0:
        problem(f"{folders.frames}/{competition}", "the competition is no plain folder name")
        return result
    places = {
        kind: f"{folder}/{competition}/{index}"
        for kind, folder in ((FRAMES, folders.frames), (MASKS, folders.masks))
    }
    files = {kind: list_images(root, place, problem) for kind, place in places.items()}
    frames, masks = files[FRAMES], files[MASKS]
    if frames is None or masks is None:
        return result
    for name in sorted(frames.keys() - masks.keys()):
        problem(f"{places[MASKS]}/{name}", "missing, there is a frame of that name")
    for name in sorted(masks.keys() - frames.keys()):
        problem(f"{places[FRAMES]}/{name}", "missing, there is a mask of that name")
    numbers = sorted(frames.values())
    if numbers[-1] - numbers[0] > _LONGEST:
        problem(places[FRAMES], f"frames {numbers[0]} to {numbers[-1]} are no one dive")
        return result
    skipped = set(range(numbers[0], numbers[-1] + 1)) - set(numbers) - set(masks.values())
    for number in sorted(skipped):
        problem(f"{places[FRAMES]}/{number:05d}.jpg", "missing frame, the numbers skip it")
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        problem(places[FRAMES], f"two files are named frame {number}")
    labels = row.get("frame_labels")
    if labels is not None and len(labels) != len(numbers):
        what = f"{len(labels)} frame labels for {len(numbers)} frames"
        problem(f"{folders.annotations}/{FILES['aqa']}", what)
    names = sorted(frames.keys() & masks.keys(), key=lambda name: frames[name])
    num_bytes, images_hash, foreground = check_images(root, places, names, problem)
    if problems:
        return result
    span = frame_span(key, annotations)
    if span is not None and span != (numbers[0], numbers[-1]):
        warning(
            places[FRAMES],
            f"frames {numbers[0]} to {numbers[-1]}, by {FILES['coarse']} {span[0]} to {span[1]}: "
            "another dive's folder?",
        )
    if not foreground:
        warning(places[MASKS], f"no mask has foreground, pixels from {FOREGROUND} to 255")
    info = DiveInfo(
        competition=competition,
        index=index,
        frame_numbers=np.array(numbers, np.int64),
        **row,
    )
    paths = {kind: tuple(root / place / name for name in names) for kind, place in places.items()}
    dive = ReleaseDive(
        info, paths[FRAMES], paths[MASKS], num_bytes, images_hash, foreground=foreground
    )
    return dataclasses.replace(result, dive=dive)


def write_problems(problems: Iterable[Problem], path: str | os.PathLike[str]) -> None:
    """Writes what is wrong or unusual as a JSON list of {where, path, what}."""
    rows = [dataclasses.asdict(problem) for problem in problems]
    pathlib.Path(path).write_text(json.dumps(rows, indent=1) + "\n")


def _check_folders(root: pathlib.Path, folders: Folders) -> None:
    """Raises InputError where a part of the release is missing, with what is there instead."""
    missing = {
        field.name: name
        for field in dataclasses.fields(folders)
        if not (root / (name := getattr(folders, field.name))).is_dir()
    }
    if not missing:
        return
    found = sorted(path.name for path in root.iterdir() if path.is_dir())
    lines = []
    for part, name in missing.items():
        guess = next((other for other in _COPIES[part] if (root / other).is_dir()), None)
        mend = f": --config.data.{part}_folder={guess}" if guess else ""
        lines.append(f"  no folder {name} of {part}{mend}")
    raise InputError(
        f"the release in {root} has another layout than expected. Found are "
        f"{', '.join(found[:10]) or 'no folders'}{', ...' if len(found) > 10 else ''}:\n"
        + "\n".join(lines)
        + "\nRename the folders, or name them by config.data.frames_folder, masks_folder and "
        "annotations_folder, relative to config.data.manual_dir"
    )


# What copies of the release call its parts.
_COPIES = {
    "frames": ("FINADiving_MTL_256s", "Dataset/FineDiving", "FineDiving/FINADiving_MTL_256s"),
    "masks": ("diving_mask_annotation", "Dataset/FineDiving_HM", "FineDiving-HM", "FineDiving_HM"),
    "annotations": ("FineDiving/Annotations", "Dataset/Annotations", "annotations"),
}


def _number_problem(info: DiveInfo, what: str) -> Problem:
    where = f"{info.competition}/{info.index}"
    return Problem(where, FILES["test"], f"dive number {info.dive_number} {what}")


def _annotated_number(annotations: Annotations, key: DiveKey) -> Any:
    entry = annotations.aqa.get(key)
    number = entry[0] if isinstance(entry, list | tuple) and entry else None
    return number if isinstance(number, str) else None
