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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finecausal_jax.data.dives import SPLITS, DiveInfo
from finecausal_jax.data.resizing import Resize
from finecausal_jax.data.video_files import read_video
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
    MASK_SUFFIXES,
    MASKS,
    GreyMask,
    Report,
    VideoFrames,
    check_images,
    find_video,
    list_images,
    strict_decoding,
)
from tfds_finecausal.release_rows import frame_span, read_row

SKIPPED, WARNINGS = "skipped.json", "warnings.json"  # beside the files of a data set
_GLANCE = Resize(None, 8)  # of a video that is only looked at
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
      frames: its frame files, in the order of `info.frame_numbers`; none where it is a video.
      masks: its mask files, in the same order; none where it has none.
      num_bytes: size of all of them together; of a video, what its frames take about.
      images_hash: hash of what they hold.
      foreground: whether any mask has foreground.
      mask_scale: what the masks' values are multiplied by, 255 of those of 0 and 1.
      video: the video that its frames are in.
    """

    info: DiveInfo
    frames: tuple[pathlib.Path, ...]
    masks: tuple[pathlib.Path, ...]
    num_bytes: int
    images_hash: str
    foreground: bool = True
    mask_scale: int = 1
    video: pathlib.Path | None = None

    def stored(self, kind: str) -> list[Any]:
        """What the data set stores of the frames or the masks: each a path, or to be `read`."""
        if kind == MASKS:
            return [GreyMask(path, self.mask_scale) for path in self.masks]
        if self.video is not None:
            return list(VideoFrames(self.video, len(self.info.frame_numbers)))
        return list(self.frames)


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
    masked = [dive for dive in dives if dive.info.has_masks]
    if masked and not any(dive.foreground for dive in masked):
        problems.append(
            Problem(
                "masks",
                folders.masks,
                f"no mask of any dive has foreground, expected pixels from {FOREGROUND} to 255; "
                "masks of the values 0 and 1 are to be PNG files, or multiplied by 255",
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
    frames = _find_frames(root, places[FRAMES], frame_span(key, annotations), problem)
    masks = _find_masks(root, places[MASKS], folders.masked, problem)
    if frames is None or masks is None:
        return result
    numbers = sorted(frames.numbers.values()) if frames.video is None else frames.in_order
    if numbers[-1] - numbers[0] > _LONGEST:
        problem(places[FRAMES], f"frames {numbers[0]} to {numbers[-1]} are no one dive")
        return result
    if frames.video is None:
        skipped = set(range(numbers[0], numbers[-1] + 1)) - set(numbers) - set(masks.values())
        for number in sorted(skipped):
            problem(f"{places[FRAMES]}/{number:05d}.jpg", "missing frame, the numbers skip it")
        for number in sorted({number for number in numbers if numbers.count(number) > 1}):
            problem(places[FRAMES], f"two files are named frame {number}")
    labels = row.get("frame_labels")
    if labels is not None and len(labels) != len(numbers):
        what = f"{len(labels)} frame labels for {len(numbers)} frames"
        problem(f"{folders.annotations}/{FILES['aqa']}", what)
    files = _pair(frames, masks, places, problem)
    checked = check_images(root, files, problem, frames.video, frames.size)
    if problems:
        return result
    span = frame_span(key, annotations)
    if span is not None and span != (numbers[0], numbers[-1]):
        warning(
            places[FRAMES],
            f"frames {numbers[0]} to {numbers[-1]}, by {FILES['coarse']} {span[0]} to {span[1]}: "
            "another dive's folder?",
        )
    if masks and not checked.foreground:
        warning(places[MASKS], f"no mask has foreground, pixels from {FOREGROUND} to 255")
    info = DiveInfo(
        competition=competition,
        index=index,
        frame_numbers=np.array(numbers, np.int64),
        has_masks=bool(masks),
        **row,
    )
    decoded = 0 if frames.size is None else len(numbers) * frames.size[0] * frames.size[1]
    dive = ReleaseDive(
        info,
        tuple(root / name for name in files[FRAMES]),
        tuple(root / name for name in files[MASKS]),
        checked.num_bytes + 2 * decoded,
        checked.images_hash,
        checked.foreground,
        checked.mask_scale,
        None if frames.video is None else root / frames.video,
    )
    return dataclasses.replace(result, dive=dive)


@dataclasses.dataclass(frozen=True)
class _Frames:
    """A dive's frames: files by name with their numbers, or a video with the numbers in order."""

    numbers: Mapping[str, int]
    video: str | None = None
    in_order: Sequence[int] = ()
    size: tuple[int, int] | None = None


def _find_frames(
    root: pathlib.Path, place: str, span: tuple[int, int] | None, problem: Report
) -> _Frames | None:
    """The frames of a dive, None where there are none; a video is decoded to count them."""
    video = find_video(root, place, problem)
    if video is None:
        numbers = list_images(root, place, problem)
        return None if numbers is None else _Frames(numbers)
    try:
        found = read_video(root / video, resize=_GLANCE)
    except InputError as error:
        problem(video, str(error).removeprefix(f"{root / video} "))
        return None
    count = len(found.times)
    # The annotated numbers where they fit: frames are sampled by them.
    first = span[0] if span is not None and span[1] - span[0] == count - 1 else 0
    return _Frames({}, video, range(first, first + count), (found.width, found.height))


def _find_masks(
    root: pathlib.Path, place: str, masked: str, problem: Report
) -> dict[str, int] | None:
    """The mask files of a dive by name; none where it may have none, None where it may not."""
    if masked == "none" or (masked == "some" and not (root / place).is_dir()):
        return {}
    return list_images(root, place, problem, MASK_SUFFIXES)


def _pair(
    frames: _Frames, masks: Mapping[str, int], places: Mapping[str, str], problem: Report
) -> dict[str, list[str]]:
    """The files of frames and masks, relative to the release, in the order of the frames."""
    by_stem = {os.path.splitext(name)[0]: name for name in masks}
    if frames.video is not None:
        if masks and len(masks) != len(frames.in_order):
            problem(places[MASKS], f"{len(masks)} masks for {len(frames.in_order)} frames")
            return {FRAMES: [], MASKS: []}
        ordered = sorted(masks, key=lambda name: masks[name])
        return {FRAMES: [], MASKS: [f"{places[MASKS]}/{name}" for name in ordered]}
    stems = {os.path.splitext(name)[0]: name for name in frames.numbers}
    if masks:
        for stem in sorted(stems.keys() - by_stem.keys()):
            problem(f"{places[MASKS]}/{stems[stem]}", "missing, there is a frame of that name")
        for stem in sorted(by_stem.keys() - stems.keys()):
            what = "missing, there is a mask of that name"
            problem(f"{places[FRAMES]}/{stem}.jpg", what)
    both = [stem for stem in stems if not masks or stem in by_stem]
    both.sort(key=lambda stem: frames.numbers[stems[stem]])
    return {
        FRAMES: [f"{places[FRAMES]}/{stems[stem]}" for stem in both],
        MASKS: [f"{places[MASKS]}/{by_stem[stem]}" for stem in both] if masks else [],
    }


def write_problems(problems: Iterable[Problem], path: str | os.PathLike[str]) -> None:
    """Writes what is wrong or unusual as a JSON list of {where, path, what}."""
    rows = [dataclasses.asdict(problem) for problem in problems]
    pathlib.Path(path).write_text(json.dumps(rows, indent=1) + "\n")


def _check_folders(root: pathlib.Path, folders: Folders) -> None:
    """Raises InputError where a part of the release is missing, with what is there instead."""
    missing = {
        field.name: name
        for field in dataclasses.fields(folders)
        if field.name != "masked" and not (root / (name := getattr(folders, field.name))).is_dir()
    }
    if folders.masked == "none":
        missing.pop("masks", None)
    if not missing:
        return
    found = sorted(path.name for path in root.iterdir() if path.is_dir())
    lines = []
    for part, name in missing.items():
        guess = next((other for other in _COPIES[part] if (root / other).is_dir()), None)
        mend = f": --config.data.{part}_folder={guess}" if guess else ""
        if part == "masks" and not guess:
            mend = "; if there are none, --config.data.masks=none"
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
