"""Workdirs and banks whose files were cut, changed, emptied, taken away or written by others."""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import pathlib
import random
import shutil
import zipfile
from collections.abc import Iterator

import numpy as np

from finecausal_jax.compilation import report
from finecausal_jax.data.dives import SPLITS
from finecausal_jax.interop import workdirs as conversions
from finecausal_jax.models.outputs import Features
from finecausal_jax.runtime import metrics_log
from finecausal_jax.runtime.checkpoints import CheckpointStore
from finecausal_jax.scoring import bank, store
from finecausal_jax.scoring.features import Encoding
from finecausal_jax.scoring.metrics import MaskCounts
from finecausal_jax.settings import config as configs
from finecausal_jax.settings import schema, workdirs
from finecausal_jax.training import replay
from tests.reliability.case import EITHER, ERROR, READ, Case, cut, flip, overwrite

ITEMS = ("variables", "optimiser")
FINGERPRINT = {"weights": "0", "products": "float32", "dives.train": "1", "dives.test": "2"}
SEEDS_OF_OLD = 24
# What people, editors and other programs leave in a JSON file.
NO_JSON = ("", " \n", "\0", "{", "[" * 100_000, '{"a": 1,}', "\xff\xfe", '{"a": 1}{"b": 2}')
OTHER_JSON = ("[]", "3", "null", '"text"', '{"step": [], "fingerprint": 3, "files": 1}', "1" * 9000)


def cases(folder: pathlib.Path, seed: int) -> Iterator[Case]:
    """Makes the inputs one after the other.

    Args:
      folder: empty; each case gets a folder of its own in it.
      seed: fixes what is damaged and where.
    """
    rng = random.Random(seed)
    yield from _checkpoints(folder, rng)
    yield from _banks(folder, rng)
    yield from _json_files(folder, rng)


def _checkpoints(folder: pathlib.Path, rng: random.Random) -> Iterator[Case]:
    whole = folder / "whole"
    # Apart, so that what Orbax starts does not run in the process that the readers are forked from.
    writer = multiprocessing.get_context("fork").Process(
        target=_write_checkpoints, args=(whole, rng.randrange(2**32))
    )
    writer.start()
    writer.join()
    if writer.exitcode:
        raise RuntimeError("the checkpoints to damage could not be written")
    read = _load_checkpoint
    names = sorted(
        path.relative_to(whole)
        for path in (whole / "checkpoints" / "8").rglob("*")
        if path.is_file() and path.name != "evaluation.json"
    )
    yield Case("checkpoint", "whole", functools.partial(read, whole), READ)
    damages = {"flipped": flip, "cut": cut, "emptied": _empty, "gone": _remove, "other": overwrite}
    for number, (name, (what, damage)) in enumerate(
        (name, damage) for name in names for damage in damages.items()
    ):
        if not (whole / name).stat().st_size and what in ("flipped", "cut", "emptied", "other"):
            continue
        copy = folder / f"checkpoint-{number}"
        shutil.copytree(whole, copy)
        damage(copy / name, rng)
        # The file that holds the checksums is small and read first; without it nothing is known.
        told = READ if (name.name, what) == ("checksums.json", "gone") else ERROR
        told = EITHER if (name.name, what) == ("checksums.json", "flipped") else told
        yield Case("checkpoint", f"{name} {what}", functools.partial(read, copy), told)
    for number in range(SEEDS_OF_OLD):  # as earlier versions wrote them
        copy = folder / f"old-{number}"
        shutil.copytree(whole, copy)
        (copy / "checkpoints" / "8" / "checksums.json").unlink()
        name = rng.choice([name for name in names if (whole / name).stat().st_size])
        if name.name != "checksums.json":
            what, damage = rng.choice(list(damages.items()))
            damage(copy / name, rng)
            yield Case(
                "checkpoint without checksums",
                f"{name} {what}",
                functools.partial(read, copy),
                EITHER,
            )


def _banks(folder: pathlib.Path, rng: random.Random) -> Iterator[Case]:
    whole = folder / "bank"
    names = _write_bank(whole)

    def read(copy: pathlib.Path) -> object:
        return bank.load_bank(copy, FINGERPRINT)

    yield Case("bank", "whole", functools.partial(read, whole), READ)
    damages = [("flipped", flip)] * 8 + [("cut", cut)] * 4 + [("emptied", _empty)]
    damages += [("gone", _remove), ("other", overwrite)]
    for number, (name, (what, damage)) in enumerate(
        (name, damage) for name in names for damage in damages
    ):
        copy = folder / f"bank-{number}"
        shutil.copytree(whole, copy)
        damage(copy / name, rng)
        # Some bytes of a zip file say nothing, such as the time of its entries.
        told = EITHER if what == "flipped" else ERROR
        yield Case("bank", f"{name} {what}", functools.partial(read, copy), told)
    pickled = folder / "bank-pickled"
    shutil.copytree(whole, pickled)
    ran = folder / "bank-ran"
    with (pickled / names[0]).open("wb") as file:
        np.savez(file, competition=np.array([_Runs(ran), _Runs(ran)], object))
    yield Case("bank", "arrays of objects", functools.partial(read, pickled), ERROR, ran)
    vast = folder / "bank-vast"
    shutil.copytree(whole, vast)
    _write_vast(vast / names[0])
    yield Case("bank", "an array of 10**12 values by its header", functools.partial(read, vast))
    for number, text in enumerate((*NO_JSON, *OTHER_JSON, _outside())):
        copy = folder / f"bank-index-{number}"
        shutil.copytree(whole, copy)
        (copy / store.INDEX).write_text(text, encoding="latin-1")
        yield Case("bank", f"index {text[:30]!r}", functools.partial(read, copy))


def _json_files(folder: pathlib.Path, rng: random.Random) -> Iterator[Case]:
    del rng
    (folder / "json").mkdir()
    config = configs.to_json(schema.Settings())
    readers = {
        "config.json": lambda path: workdirs.saved_settings(path.parent),
        "conversion.json": lambda path: conversions.read_origin(path.parent),
        "replay-3.json": replay.read_replay,
        "compile.json": lambda path: report.earlier_estimates(
            path, lambda saved: [], {"commit": None}
        ),
        "metrics.jsonl": metrics_log.read_rows,
    }
    texts = [*NO_JSON, *OTHER_JSON, config.replace("32", '"many"'), config[:-20]]
    for name, read in readers.items():
        for number, text in enumerate(texts):
            path = folder / "json" / f"{name}-{number}" / name
            path.parent.mkdir()
            path.write_text(text, encoding="latin-1")
            told = ERROR
            if name == "metrics.jsonl":
                told = READ  # lines that are no rows are left out, with a warning
            if name == "conversion.json" and text.startswith("{") and text not in NO_JSON:
                told = EITHER  # any object
            yield Case(
                "JSON of a workdir", f"{name} {text[:30]!r}", functools.partial(read, path), told
            )


def _write_checkpoints(workdir: pathlib.Path, seed: int) -> None:
    values = np.random.default_rng(seed)
    tree = {
        "params": {f"layer{i}": values.normal(size=(3, 40)).astype(np.float32) for i in range(3)},
        "batch_stats": {"mean": values.normal(size=(7,)).astype(np.float32)},
    }
    with CheckpointStore(workdir) as checkpoints:
        for step in (4, 8):
            optimiser = {"step": np.array(step, np.int32), "moments": tree["params"]}
            checkpoints.save(step, {"variables": tree, "optimiser": optimiser})
            checkpoints.evaluated(step, {"spearman": step / 10})


def _load_checkpoint(workdir: pathlib.Path) -> object:
    return conversions.load_items(workdir, conversions.find_step(workdir, "8"), ITEMS)


def _write_bank(folder: pathlib.Path) -> list[str]:
    """Writes a whole bank of four dives in two files; returns their names."""
    folder.mkdir()
    shards = store.plan(dict.fromkeys(SPLITS, 2), 2)
    index = {"fingerprint": FINGERPRINT, "shards": shards}
    (folder / store.INDEX).write_text(json.dumps(index))
    for name, (_, first, count) in shards.items():
        values = np.random.default_rng(first)
        part = [
            (
                ("competition", first + i),
                Encoding(
                    Features(*values.normal(size=(3, 4, 5)).astype(np.float32)),
                    MaskCounts(*map(np.float32, range(6))),
                    np.array([2, 3], np.int32),
                ),
            )
            for i in range(count)
        ]
        bank._write_shard(folder / name, part)
    return sorted(shards)


def _write_vast(path: pathlib.Path) -> None:
    """Writes a shard whose arrays say that they are vast, and are not."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("competition", "index", "transitions"):
            header = io.BytesIO()
            shape = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
            np.lib.format.write_array_header_1_0(header, shape)
            archive.writestr(f"{name}.npy", header.getvalue())


def _outside() -> str:
    """The index of a bank that names a file outside of it."""
    return json.dumps({"fingerprint": FINGERPRINT, "shards": {"../x.npz": ["train", 0, 2]}})


class _Runs:
    """Makes a file where it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def _empty(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _remove(path: pathlib.Path, rng: random.Random) -> None:
    path.unlink()
