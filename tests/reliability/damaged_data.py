"""Built data sets whose files were damaged, and releases whose tables hold what they should not."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pathlib
import pickle
import random
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from finecausal_jax.data.dives import DiveSource, dataset_folder
from tests.reliability.case import EITHER, ERROR, READ, Case, cut, flip, overwrite
from tests.reliability.damaged_runs import NO_JSON, OTHER_JSON
from tfds_finecausal.annotations import FILES
from tfds_finecausal.building import build_dataset
from tfds_finecausal.release import read_release
from tfds_finecausal.rendered import render_release

JSON = ("dataset_info.json", "features.json", "metadata.json", "record_checksums.json")
FLIPS = 10
WRONG = (
    *(None, True, "text", b"bytes", [], {}, [[1.0]], float("nan"), float("inf"), -1.0, 1e300),
    *(
        10**400,
        2**63,
        [10**400],
        ["a"],
        np.array(["a", "b"]),
        np.zeros((2, 2)),
        (1, 2, 3),
        -(2**70),
    ),
)


def cases(folder: pathlib.Path, seed: int) -> Iterator[Case]:
    """Makes the inputs; see `damaged_runs.cases`."""
    rng = random.Random(seed)
    # Apart, so that no thread of TFDS's runs in the process that the readers are forked from.
    builder = multiprocessing.get_context("fork").Process(target=_build, args=(folder,))
    builder.start()
    builder.join()
    if builder.exitcode:
        raise RuntimeError("the data set to damage could not be built")
    yield from _data_sets(folder, rng)
    yield from _releases(folder, rng)


def _data_sets(folder: pathlib.Path, rng: random.Random) -> Iterator[Case]:
    yield Case("array_record", "whole", functools.partial(_read, folder / "data"), READ)
    (name,) = (path.name for path in dataset_folder(folder / "data", "release").glob("*train*"))
    inputs = [("array_record", name, f"flipped {n}", flip) for n in range(FLIPS)]
    inputs += [("array_record", name, f"cut {n}", cut) for n in range(4)]
    inputs += [("array_record", name, what, damage) for what, damage in _DAMAGES.items()]
    for file in JSON:
        inputs += [("JSON of a data set", file, what, damage) for what, damage in _DAMAGES.items()]
        inputs += [("JSON of a data set", file, "flipped", flip)] * 2
        for text in (*NO_JSON, *OTHER_JSON):
            write = functools.partial(_write, text=text)
            inputs.append(("JSON of a data set", file, repr(text[:20]), write))
    for number, (kind, file, what, damage) in enumerate(inputs):
        data = folder / f"data-{number}"
        shutil.copytree(folder / "data", data)
        damage(dataset_folder(data, "release") / file, rng)
        yield Case(kind, f"{file} {what}", functools.partial(_read, data))
    # As it was before there were checksums: what says nothing of itself cannot be told.
    for number in range(FLIPS):
        data = folder / f"old-{number}"
        shutil.copytree(folder / "data", data)
        for file in ("checksums.json", "record_checksums.json"):
            (dataset_folder(data, "release") / file).unlink()
        flip(dataset_folder(data, "release") / (name if number % 2 else "metadata.json"), rng)
        yield Case("data set without checksums", "flipped", functools.partial(_read, data), EITHER)


def _releases(folder: pathlib.Path, rng: random.Random) -> Iterator[Case]:
    del rng
    places: list[tuple[str, Any]] = [("aqa", n) for n in range(5)]
    places += [("coarse", "judge_scores"), ("fine", "sub-action_types")]
    places += [("aqa", None), ("coarse", None), ("fine", None)]
    for number, (table, place, value) in enumerate(
        (table, place, value) for table, place in places for value in WRONG
    ):
        copy = folder / f"release-{number}"
        _link(folder / "release", copy)
        path = copy / "Annotations" / FILES[table]
        content = pickle.loads(path.read_bytes())
        key = next(iter(content))
        if place is None:
            content[key] = value
        else:
            content[key][place] = value
        path.unlink()
        path.write_bytes(pickle.dumps(content, protocol=4))
        told = EITHER if _may_be_right(place, value) else ERROR
        read = functools.partial(read_release, copy, workers=1)
        yield Case("table of a release", f"{table} {place} {type(value).__name__}", read, told)


def _may_be_right(place: Any, value: Any) -> bool:
    """Whether a value is unusual at most: names of sub-actions are nobody's concern, transit frames
    may be any positions, and marks any numbers in their bounds."""
    return place in ("sub-action_types", 3) or (
        place == "judge_scores" and isinstance(value, (tuple, np.ndarray))
    )


def _build(folder: pathlib.Path) -> None:
    release = render_release(
        folder / "release",
        train_dives=4,
        test_dives=1,
        dive_numbers=1,
        frames=(20, 22),
        width=64,
        height=36,
        workers=0,
        progress=False,
    )
    build_dataset(release, folder / "data")


def _read(data_dir: pathlib.Path) -> None:
    for split in ("train", "test"):
        for dive in DiveSource(data_dir, split):
            dive.clip.decode(0, "frame")


def _link(release: pathlib.Path, copy: pathlib.Path) -> None:
    """A copy that shares the images."""
    shutil.copytree(release, copy, copy_function=os.link)


def _write(path: pathlib.Path, rng: random.Random, text: str) -> None:
    path.write_text(text, encoding="latin-1")


def _empty(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _remove(path: pathlib.Path, rng: random.Random) -> None:
    path.unlink()


_DAMAGES = {"cut": cut, "emptied": _empty, "gone": _remove, "other": overwrite}
