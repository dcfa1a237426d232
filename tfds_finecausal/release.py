"""Checked reading of a FineDiving-HM release, real or rendered.

Every dive of the two splits is checked before anything is built: its annotation, the pairing of
frames and masks by file name, and every JPEG, which must decode to its end. All problems of the
whole release are collected; they are raised as one error, or the dives they concern are left out.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm
from PIL import Image, ImageFile

from finecausal_jax.data.dives import SPLITS, DiveInfo
from tfds_finecausal.annotations import (
    Annotations,
    DiveKey,
    Problem,
    ReleaseError,
    read_annotations,
)
from tfds_finecausal.dive_numbers import parse_dive_number

FRAMES, MASKS = "FineDiving", "FineDiving_HM"
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
    """

    info: DiveInfo
    frames: tuple[pathlib.Path, ...]
    masks: tuple[pathlib.Path, ...]
    num_bytes: int


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
      progress: whether to show a progress bar.

    Returns:
      The release.

    Raises:
      ReleaseError: lists every problem of every table, or of every dive unless `skip`. Tables
        cannot be skipped.
      ValueError: the folder is missing, or a split is empty (after skipping).
    """
    root = pathlib.Path(manual_dir)
    if not root.is_dir():
        raise ValueError(
            f"no release in {root}: ask the FineDiving authors for the data and unpack it there, "
            "or render a made release (`launch.py render`)"
        )
    annotations = read_annotations(root)
    keys = [(split, key) for split in SPLITS for key in annotations.splits[split]]
    passed: dict[str, list[ReleaseDive]] = {split: [] for split in SPLITS}
    problems: list[Problem] = []

    def check(job: tuple[str, DiveKey]) -> tuple[str, ReleaseDive | None, list[Problem]]:
        return (job[0], *check_dive(root, job[1], annotations))

    count = workers or os.cpu_count() or 1
    with _strict_decoding(), concurrent.futures.ThreadPoolExecutor(count) as pool:
        results = pool.map(check, keys)
        bar = tqdm.tqdm(results, "check", len(keys), unit="dive", disable=not progress)
        try:
            for split, dive, found in bar:
                problems += found
                if dive is not None:
                    passed[split].append(dive)
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
            raise ValueError(
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

    row = _read_row(key, annotations, problem)
    if pathlib.PurePath(competition).name != competition or competition in ("", ".", ".."):
        problem(f"{FRAMES}/{competition}", "the competition is no plain folder name")
        return None, problems
    places = {kind: f"{kind}/{competition}/{index}" for kind in (FRAMES, MASKS)}
    files = {kind: _list_images(root, place, problem) for kind, place in places.items()}
    frames, masks = files[FRAMES], files[MASKS]
    if frames is None or masks is None:
        return None, problems
    for name in sorted(frames.keys() - masks.keys()):
        problem(f"{places[MASKS]}/{name}", "missing, there is a frame of that name")
    for name in sorted(masks.keys() - frames.keys()):
        problem(f"{places[FRAMES]}/{name}", "missing, there is a mask of that name")
    numbers = sorted(frames.values())
    gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers) - set(masks.values()))
    for number in gaps:
        problem(f"{places[FRAMES]}/{number:05d}.jpg", "missing frame, the numbers skip it")
    labels = row.get("frame_labels")
    if labels is not None and len(labels) != len(numbers):
        what = f"{len(labels)} frame labels for {len(numbers)} frames"
        problem("Annotations/fine-grained_annotation_aqa.pkl", what)
    names = sorted(frames.keys() & masks.keys(), key=lambda name: frames[name])
    num_bytes = _check_images(root, places, names, problem)
    if problems:
        return None, problems
    info = DiveInfo(
        competition=competition,
        index=index,
        frame_numbers=np.array(numbers, np.int64),
        **row,
    )
    paths = {kind: tuple(root / place / name for name in names) for kind, place in places.items()}
    return ReleaseDive(info, paths[FRAMES], paths[MASKS], num_bytes), problems


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


def _read_row(key: DiveKey, annotations: Annotations, problem: Any) -> dict[str, Any]:
    """Returns the annotated fields of `DiveInfo`, those that are sound."""
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
        transits, labels = _integers(transits), _integers(labels)
        if transits is None:
            problem(aqa, "transit frames are no list of integers")
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
    entry = annotations.coarse.get(key)
    marks = _field(entry, "judge_scores", problem, coarse)
    if marks is not None:
        values = [_finite(mark) for mark in np.asarray(marks, object).ravel().tolist()]
        if None in values:
            problem(coarse, f"judge_scores is {marks!r}, expected numbers")
        else:
            row["judge_scores"] = tuple(values)
    names = _field(annotations.fine.get(key), "sub-action_types", problem, fine)
    if names is not None:
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",")]
        names = np.asarray(names, object).ravel().tolist()
        row["sub_action_names"] = tuple(str(annotations.sub_actions.get(x, x)) for x in names)
    return row


def _field(entry: Any, name: str, problem: Any, path: str) -> Any:
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


def _list_images(root: pathlib.Path, place: str, problem: Any) -> dict[str, int] | None:
    """Returns the JPEG files of a dive's folder as {name: number}, None where there is none."""
    folder = root / place
    if not folder.is_dir():
        problem(place, "missing folder")
        return None
    files = {}
    for entry in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(entry)
        if suffix.lower() != ".jpg" or entry.startswith("."):
            continue
        if stem.isdecimal() and stem.isascii():
            files[entry] = int(stem)
        else:
            problem(f"{place}/{entry}", "extra file, expected a frame number as its name")
    if not files:
        problem(place, "no JPEG files")
        return None
    return files


def _check_images(
    root: pathlib.Path, places: dict[str, str], names: list[str], problem: Any
) -> int:
    """Decodes every frame and mask; returns their size in bytes."""
    num_bytes = 0
    expected: tuple[int, int] | None = None
    for name in names:
        sizes = {}
        for kind, place in places.items():
            path = root / place / name
            modes = ("RGB",) if kind == FRAMES else ("L", "RGB")
            try:
                data = path.read_bytes()
                num_bytes += len(data)
                size, mode = _decode(path, data)
            except (OSError, ValueError, SyntaxError) as error:
                problem(f"{place}/{name}", f"does not decode ({str(error) or 'broken'})")
                continue
            sizes[kind] = size
            if mode not in modes:
                what = f"colour mode {mode}, expected {' or '.join(modes)}"
                problem(f"{place}/{name}", what)
        frame, mask = sizes.get(FRAMES), sizes.get(MASKS)
        if frame and expected and frame != expected:
            what = f"{_size(frame)}, the dive's first frame has {_size(expected)}"
            problem(f"{places[FRAMES]}/{name}", what)
        if frame and mask and frame != mask:
            what = f"mask of {_size(mask)}, its frame has {_size(frame)}"
            problem(f"{places[MASKS]}/{name}", what)
        expected = expected or frame
    return num_bytes


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def _decode(path: pathlib.Path, data: bytes) -> tuple[tuple[int, int], str]:
    """Decodes a JPEG to its end; returns its width, height and colour mode."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        size, mode = image.size, image.mode
        # Every coefficient is still read, so a truncated file still fails, but only an eighth of
        # the width and height is computed: twice as fast on frames of 455 x 256.
        image.draft(mode, (1, 1))
        image.load()
    return size, mode


@contextlib.contextmanager
def _strict_decoding() -> Iterator[None]:
    """Makes Pillow refuse truncated images, whatever other code has switched on."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
