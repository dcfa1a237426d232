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
from typing import Any

import numpy as np

from finecausal_jax.data.dives import SPLITS, DiveInfo
from finecausal_jax.runtime import progress as bars
from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.annotations import (
    Annotations,
    DiveKey,
    Problem,
    ReleaseError,
    read_annotations,
)
from tfds_finecausal.release_images import (
    FRAMES,
    MASKS,
    check_images,
    list_images,
    strict_decoding,
)
from tfds_finecausal.release_rows import read_row

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
    """

    info: DiveInfo
    frames: tuple[pathlib.Path, ...]
    masks: tuple[pathlib.Path, ...]
    num_bytes: int
    images_hash: str


@dataclasses.dataclass(frozen=True, eq=False)
class Release:
    """A checked release.

    Attributes:
      manual_dir: its folder.
      splits: the dives of `train` and `test`, in the order of the split pickles.
      skipped: what was wrong with the dives that were left out.
    """

    manual_dir: pathlib.Path
    splits: dict[str, tuple[ReleaseDive, ...]]
    skipped: tuple[Problem, ...] = ()


def read_release(
    manual_dir: str | os.PathLike[str],
    *,
    skip: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Release:
    """Reads and checks a release.

    Args:
      manual_dir: folder with `FineDiving/`, `FineDiving_HM/` and `Annotations/`.
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
    annotations = read_annotations(root)
    keys = [(split, key) for split in SPLITS for key in annotations.splits[split]]
    passed: dict[str, list[ReleaseDive]] = {split: [] for split in SPLITS}
    problems: list[Problem] = []

    def check(job: tuple[str, DiveKey]) -> tuple[str, ReleaseDive | None, list[Problem]]:
        return (job[0], *check_dive(root, job[1], annotations))

    count = workers or os.cpu_count() or 1
    shown = bars.progress(len(keys), "checking", "dives", show=progress)
    with strict_decoding(), concurrent.futures.ThreadPoolExecutor(count) as pool, shown as bar:
        try:
            for split, dive, found in pool.map(check, keys):
                problems += found
                if dive is not None:
                    passed[split].append(dive)
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
    if problems and not skip:
        raise ReleaseError(root, problems, _SKIP_ADVICE)
    for split in SPLITS:
        if not passed[split]:
            lost = len(annotations.splits[split])
            raise InputError(
                f"the {split} split of the release in {root} is empty: expected at least one dive "
                f"in Annotations/{split}_split.pkl, which lists {lost}"
                + (f", all skipped:\n{_lines(problems)}" if lost else "")
            )
    splits = {split: tuple(dives) for split, dives in passed.items()}
    return Release(root, splits, tuple(problems))


def check_dive(
    root: pathlib.Path, key: DiveKey, annotations: Annotations
) -> tuple[ReleaseDive | None, list[Problem]]:
    """Checks one dive.

    Args:
      root: the release's folder.
      key: the dive's (competition, index).
      annotations: the tables.

    Returns:
      The dive, or None where anything is wrong with it, and every problem found.
    """
    competition, index = key
    problems: list[Problem] = []

    def problem(path: str, what: str) -> None:
        problems.append(Problem(f"{competition}/{index}", path, what))

    row = read_row(key, annotations, problem)
    if pathlib.PurePath(competition).name != competition or competition in ("", ".", ".."):
        problem(f"{FRAMES}/{competition}", "the competition is no plain folder name")
        return None, problems
    places = {kind: f"{kind}/{competition}/{index}" for kind in (FRAMES, MASKS)}
    files = {kind: list_images(root, place, problem) for kind, place in places.items()}
    frames, masks = files[FRAMES], files[MASKS]
    if frames is None or masks is None:
        return None, problems
    for name in sorted(frames.keys() - masks.keys()):
        problem(f"{places[MASKS]}/{name}", "missing, there is a frame of that name")
    for name in sorted(masks.keys() - frames.keys()):
        problem(f"{places[FRAMES]}/{name}", "missing, there is a mask of that name")
    numbers = sorted(frames.values())
    if numbers[-1] - numbers[0] > _LONGEST:
        problem(places[FRAMES], f"frames {numbers[0]} to {numbers[-1]} are no one dive")
        return None, problems
    skipped = set(range(numbers[0], numbers[-1] + 1)) - set(numbers) - set(masks.values())
    for number in sorted(skipped):
        problem(f"{places[FRAMES]}/{number:05d}.jpg", "missing frame, the numbers skip it")
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        problem(places[FRAMES], f"two files are named frame {number}")
    labels = row.get("frame_labels")
    if labels is not None and len(labels) != len(numbers):
        what = f"{len(labels)} frame labels for {len(numbers)} frames"
        problem("Annotations/fine-grained_annotation_aqa.pkl", what)
    names = sorted(frames.keys() & masks.keys(), key=lambda name: frames[name])
    num_bytes, images_hash = check_images(root, places, names, problem)
    if problems:
        return None, problems
    info = DiveInfo(
        competition=competition,
        index=index,
        frame_numbers=np.array(numbers, np.int64),
        **row,
    )
    paths = {kind: tuple(root / place / name for name in names) for kind, place in places.items()}
    return ReleaseDive(info, paths[FRAMES], paths[MASKS], num_bytes, images_hash), problems


def write_skipped(release: Release, path: str | os.PathLike[str]) -> None:
    """Writes what was left out, and why, as a JSON list of {where, path, what}."""
    rows = [dataclasses.asdict(problem) for problem in release.skipped]
    pathlib.Path(path).write_text(json.dumps(rows, indent=1) + "\n")


def _lines(problems: list[Problem]) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


def _number_problem(info: DiveInfo, what: str) -> Problem:
    where = f"{info.competition}/{info.index}"
    return Problem(where, "Annotations/test_split.pkl", f"dive number {info.dive_number} {what}")


def _annotated_number(annotations: Annotations, key: DiveKey) -> Any:
    entry = annotations.aqa.get(key)
    return entry[0] if isinstance(entry, list | tuple) and entry else None
