"""Checkpoints of a workdir as the converters see them: NumPy arrays in, NumPy arrays out.

The layout is that of training's checkpoints, `DIR/checkpoints/STEP` with named items, so that both
read what the other wrote.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from finecausal_jax.runtime.checkpoints import FOLDER, CheckpointStore, load_undamaged
from finecausal_jax.runtime.checksums import write_checksums
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import temporary_neighbour, write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json
from finecausal_jax.runtime.locks import only_one
from finecausal_jax.runtime.metrics_log import FILE, read_rows

UNUSED = "unused"  # beside training's items: tensors that only the reference holds
ORIGIN_FILE = "conversion.json"


def save_new(
    workdir: str | pathlib.Path, *, step: int, items: Mapping[str, Any], origin: Mapping[str, Any]
) -> pathlib.Path:
    """Writes the first checkpoint of a workdir, all of it or nothing.

    It is written beside its place, which may be a link to another disk, and moved there when
    complete.

    Args:
      workdir: made where missing; may hold other files, such as the run's config.
      step: the checkpoint's number.
      items: name -> tree of arrays.
      origin: where the checkpoint comes from, written as `conversion.json`.

    Returns:
      The checkpoint's folder.

    Raises:
      InputError: there are checkpoints already.
    """
    folder = pathlib.Path(workdir).absolute()
    text = json.dumps(origin, indent=2) + "\n"
    with only_one(folder, "a conversion"):
        refuse_checkpoints(folder)
        target = (folder / FOLDER).resolve()
        stage = temporary_neighbour(target)
        try:
            with _as_they_are():
                ocp.save_checkpointables(stage / str(step), dict(items))
            write_checksums(stage / str(step))
            write_atomically(folder / ORIGIN_FILE, lambda path: path.write_text(text))
            if target.exists():
                target.rmdir()  # empty, see above
            os.replace(stage, target)  # last, since it makes the checkpoint visible
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return folder / FOLDER / str(step)


def refuse_checkpoints(workdir: str | pathlib.Path) -> None:
    """Raises InputError if a workdir has checkpoints, which a new one would hide or mix with."""
    target = pathlib.Path(workdir) / FOLDER
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target} already holds checkpoints; choose a new --workdir")


def find_step(workdir: str | pathlib.Path, which: str) -> int:
    """The step of the "best" or "latest" checkpoint, or of the one with a given number."""
    folder = pathlib.Path(workdir)
    if not (folder / FOLDER).is_dir():
        raise InputError(f"{folder}: no folder {FOLDER} in it; expected a run's --workdir")
    with CheckpointStore(folder) as store:
        return store.find(which)


def load_items(workdir: str | pathlib.Path, step: int, names: Sequence[str]) -> dict[str, Any]:
    """Reads items of a checkpoint as NumPy arrays, wherever and on whatever they were written.

    Args:
      workdir: the run's folder.
      step: number of the checkpoint.
      names: items of arrays, read where present.

    Raises:
      InputError: a file of the checkpoint is damaged.
    """
    folder = pathlib.Path(workdir).absolute() / FOLDER

    def load() -> dict[str, Any]:
        metadata = ocp.checkpointables_metadata(folder / str(step)).metadata
        # Arrays as templates: Orbax then gives arrays of NumPy, not of the devices they were saved
        # on.
        abstract = {
            name: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata[name])
            for name in names
            if name in metadata
        }
        return dict(ocp.load_checkpointables(folder / str(step), abstract))

    return load_undamaged(folder, step, names, load)


def read_origin(workdir: str | pathlib.Path) -> dict[str, Any]:
    """What `save_new` noted about a converted checkpoint; empty for a run that began here."""
    path = pathlib.Path(workdir) / ORIGIN_FILE
    if not path.is_file():
        return {}
    expected, mend = "where a converted checkpoint comes from", "convert again"
    origin = read_json(path, expected, mend)
    if not isinstance(origin, dict):
        raise not_expected(path, expected, type(origin).__name__, mend)
    return origin


def read_metrics(workdir: str | pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Rows of a run's `metrics.jsonl` up to a step; none where it has no such file."""
    return [row for row in read_rows(pathlib.Path(workdir) / FILE) if row["step"] <= step]


def _as_they_are() -> Any:
    """Orbax's settings for writing arrays without copying them first.

    Copies guard against changes during a save in the background, which this is not. Weights shrink
    by 7% only when compressed, which takes a second copy too.
    """
    context = ocp.Context()
    context.array.saving.use_compression = False
    context.memory.deepcopy_host_arrays = False
    return context
