"""The exemplar bank: the features of every dive of a data set, computed once and kept on disk.

Features depend on one video and on the encoders' weights, so an evaluation need not run the trunks
for every pair, nor a new dive for its exemplars. A bank is a folder of shards (.npz, read without
pickle) and `bank.json`, which says what the features were made with; a bank of other weights,
settings or dives is refused. A build that was cut short goes on with the shards that are missing.

A bank holds videos as an evaluation cuts them. Training shifts, flips and crops at random, so it
has no use for one, not even with `freeze_base`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finecausal_jax.data import pipeline
from finecausal_jax.data.dives import DATASET_NAME, DATASET_VERSION, SPLITS
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.models.finecausal import Features
from finecausal_jax.runtime.files import check_folder, write_atomically
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.encoding import Encoding, Key, iterate_encodings
from finecausal_jax.scoring.metrics import MaskCounts

FORMAT = 1
INDEX = "bank.json"
SHARD_DIVES = 64  # 17 MB at full size: little is lost when a build is cut short
# Paths of the modules that features depend on; `video_encoder` reduces frames in comparisons, too.
ENCODERS = (("base_model",), ("segmenter",), ("video_encoder", "backbone"))
# Settings of the network that features depend on; the others only matter to comparisons.
ENCODER_SETTINGS = (
    "frames",
    "windows",
    "window_frames",
    "window_stride",
    "width",
    "frame_width",
    "dtype",
)
# What the text of a difference means, where it is a hash.
_HASHED = {
    "weights": " (hashes of the encoders' parameters and statistics: another checkpoint)",
    "dives": " (hashes of the dives, their annotations and image files)",
}
_FEATURES = ("video_feature", "mask_feature", "frame_feature")

Fingerprint = dict[str, Any]


def make_fingerprint(
    model: Any,
    variables: Mapping[str, Any],
    settings: Preprocessing,
    sources: Mapping[str, pipeline.Dives],
) -> Fingerprint:
    """What the features of some dives depend on, as plain values for JSON.

    Args:
      model: a `FineCausal`.
      variables: {"params": ..., "batch_stats": ...}.
      settings: sizes of a video.
      sources: split -> its dives.

    Returns:
      "format", "dtype" of what is stored, "data" (the data set's name and version), "weights" (a
      hash of the encoders' parameters and statistics), "model.NAME", "products" (how matrix
      products round, see `_products`), "preprocessing.NAME", "mask_threshold", and "dives.SPLIT" (a
      hash of its keys and annotations, and of `DiveSource.fingerprint`, which covers the image
      files, where the source has one). Weights and settings that only comparisons read are left
      out: they change no feature.
    """
    weights = {
        collection: {"/".join(path): _module(tree, path) for path in ENCODERS}
        for collection, tree in variables.items()
        if collection in ("params", "batch_stats")
    }
    chosen = {name: getattr(model, name) for name in ENCODER_SETTINGS if hasattr(model, name)}
    if "dtype" in chosen:
        chosen["dtype"] = jnp.dtype(chosen["dtype"]).name
    return {
        "format": FORMAT,
        "dtype": "float32",  # whatever the compute dtype: the encoders' outputs are float32
        "data": f"{DATASET_NAME} {DATASET_VERSION}",
        "weights": _hash_of_tree(weights),
        **{f"model.{name}": value for name, value in chosen.items()},
        "products": _products(),
        **{f"preprocessing.{k}": v for k, v in dataclasses.asdict(settings).items()},
        "mask_threshold": float(metrics.LOGIT_THRESHOLD),
        **{f"dives.{split}": _hash_of_dives(source) for split, source in sources.items()},
    }


def build_bank(
    folder: str | os.PathLike[str],
    fingerprint: Fingerprint,
    model: Any,
    variables: Any,
    settings: Preprocessing,
    sources: Mapping[str, pipeline.Dives],
    *,
    batch_size: int,
    workers: int = 0,
    shard_dives: int = SHARD_DIVES,
    sharding: jax.sharding.Sharding | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Encodes every dive of some splits into a bank, or what is missing of it.

    Args:
      folder: the bank's own folder; created where missing.
      fingerprint: from `make_fingerprint`, of the same arguments.
      model, variables, settings: as there.
      sources: split -> its dives.
      batch_size, workers, sharding, progress: as for `encoding.encode_videos`.
      shard_dives: dives a file.
      overwrite: replace a bank that was made with something else; one that fits is kept.

    Returns:
      How many dives were encoded; the others were there already.

    Raises:
      ValueError: another bank or other files are in the folder, or a dive cannot be decoded.
    """
    folder = pathlib.Path(folder)
    # Whole batches a shard: a build that goes on then forms the batches of an unbroken one, and
    # ends with the same bits.
    shards = _plan(sources, -(-shard_dives // batch_size) * batch_size)
    index = {"fingerprint": fingerprint, "shards": shards}
    shards = _claim(folder, index, overwrite)
    encoded = 0
    for split, source in sources.items():
        missing = {
            name: range(first, first + count)
            for name, (of_split, first, count) in shards.items()
            if of_split == split and not (folder / name).exists()
        }
        rows = list(itertools.chain(*missing.values()))
        encodings = iterate_encodings(
            model,
            variables,
            source,
            settings,
            rows,
            batch_size=batch_size,
            workers=workers,
            sharding=sharding,
            progress=progress,
            label=f"{split} dives",
        )
        with contextlib.closing(encodings):
            for name, share in missing.items():
                part = list(itertools.islice(encodings, len(share)))
                write_atomically(folder / name, lambda path, part=part: _write_shard(path, part))
                encoded += len(part)
    return encoded


def load_bank(folder: str | os.PathLike[str], fingerprint: Fingerprint) -> dict[Key, Encoding]:
    """Reads a bank.

    Args:
      folder: where `build_bank` put it.
      fingerprint: what the features are to have been made with. A split that is left out there is
        not read, since nothing says whether it fits; one that the bank lacks is passed over.

    Returns:
      The encoding of each dive of the fingerprint's splits by its key, as `score_dives` takes them.

    Raises:
      ValueError: there is no bank, it was made with something else, what is asked for is not
        finished, or a shard cannot be read.
    """
    folder = pathlib.Path(folder)
    index = _read_index(folder)
    if index is None:
        raise ValueError(f"no exemplar bank in {folder}; `launch.py bank` makes one")
    held = {split for split, _, _ in index["shards"].values()}
    absent = {f"dives.{split}" for split in SPLITS if split not in held}
    wanted = {name: value for name, value in fingerprint.items() if name not in absent}
    changed = _differences(index["fingerprint"], wanted)
    if changed:
        raise ValueError(
            f"the bank in {folder} was made with something else, its features would be wrong; make "
            "another with `launch.py bank --output=DIR`, or replace it with --overwrite:\n  "
            + "\n  ".join(changed)
        )
    counts = {
        name: count
        for name, (split, _, count) in index["shards"].items()
        if f"dives.{split}" in fingerprint
    }
    missing = [name for name in counts if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"the bank in {folder} is not finished: {len(missing)} of {len(counts)} "
            f"shards are missing, the first being {missing[0]}; the `launch.py bank` command that "
            "began it goes on"
        )
    encodings: dict[Key, Encoding] = {}
    for name, count in counts.items():
        encodings |= _read_shard(folder / name, count)
    return encodings


def _plan(
    sources: Mapping[str, pipeline.Dives], shard_dives: int
) -> dict[str, tuple[str, int, int]]:
    """File -> its split, first row and number of rows."""
    return {
        f"{split}-{first // shard_dives:05}.npz": (
            split,
            first,
            min(shard_dives, len(source.infos) - first),
        )
        for split, source in sources.items()
        for first in range(0, len(source.infos), shard_dives)
    }


def _claim(
    folder: pathlib.Path, index: dict[str, Any], overwrite: bool
) -> dict[str, tuple[str, int, int]]:
    """Makes the folder this bank's: empty, or with a part of it; returns its shards."""
    check_folder(folder, "--output")
    for path in folder.glob(f".{INDEX}.*"):  # what a build was writing that was killed at once
        path.unlink()
    found = _read_index(folder)
    present = [path for path in folder.iterdir()] if folder.is_dir() else []
    if found is None and present:
        raise ValueError(
            f"{folder} holds {present[0].name} but no {INDEX}: it is no bank; choose an empty "
            "folder with --output"
        )
    if found is not None:
        same = json.loads(json.dumps(index))
        changed = _differences(found["fingerprint"], same["fingerprint"], exact=True)
        if not changed:
            # Another batch size plans other shards; those that are there were planned by the first.
            index = {**index, "shards": found["shards"]}
        if changed and not overwrite:
            raise ValueError(
                f"the bank in {folder} was made with something else; choose another --output, or "
                "replace it with --overwrite:\n  " + "\n  ".join(changed)
            )
        if changed:
            for name in found["shards"]:
                (folder / name).unlink(missing_ok=True)
            (folder / INDEX).unlink()  # last: until then the folder is a bank's, if stopped here
        for path in folder.glob(".*.npz.*"):  # what a killed build was writing
            path.unlink()
    text = json.dumps(index, indent=1) + "\n"
    write_atomically(folder / INDEX, lambda path: path.write_text(text))
    return index["shards"]


def _read_index(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / INDEX
    if not path.is_file():
        return None
    mend = f"delete {folder} and make the bank again"
    try:
        index = json.loads(path.read_text())
        fields = index["fingerprint"]
        shards = {
            str(name): (str(split), int(first), int(count))
            for name, (split, first, count) in index["shards"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no bank's index ({error}); {mend}") from error
    if not isinstance(fields, dict) or any(pathlib.PurePath(n).name != n for n in shards):
        raise ValueError(f"{path} is no bank's index; {mend}")
    return {"fingerprint": fields, "shards": shards}


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], exact: bool = False) -> list:
    names = wanted.keys() | (found.keys() if exact else set())
    return [
        f"{name}: the bank has {found.get(name)!r}, expected {wanted.get(name)!r}"
        f"{_HASHED.get(name.partition('.')[0], '')}"
        for name in sorted(names)
        if found.get(name) != wanted.get(name)
    ]


def _write_shard(path: pathlib.Path, encodings: Sequence[tuple[Key, Encoding]]) -> None:
    keys, values = zip(*encodings, strict=True)
    arrays = {
        "competition": np.array([key[0] for key in keys]),
        "index": np.array([key[1] for key in keys], np.int64),
        "transitions": np.stack([one.transitions for one in values]),
    }
    for name in _FEATURES:
        arrays[name] = np.stack([getattr(one.features, name) for one in values])
    for name in MaskCounts._fields:
        arrays[f"counts.{name}"] = np.stack([getattr(one.counts, name) for one in values])
    with path.open("wb") as file:  # an open file: NumPy would add a suffix to a path
        np.savez(file, **arrays)


def _read_shard(path: pathlib.Path, count: int) -> dict[Key, Encoding]:
    try:
        # NumPy leaves a file open that it opened itself and cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        keys = zip(arrays["competition"].tolist(), arrays["index"].tolist(), strict=True)
        encodings = {
            key: Encoding(
                Features(**{name: arrays[name][i] for name in _FEATURES}),
                MaskCounts(*(arrays[f"counts.{name}"][i] for name in MaskCounts._fields)),
                arrays["transitions"][i],
            )
            for i, key in enumerate(keys)
        }
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it and run the "
            "`launch.py bank` command again, which makes missing shards"
        ) from error
    if len(encodings) != count:
        raise ValueError(
            f"{path} holds {len(encodings)} dives, expected {count}; delete it and run the "
            "`launch.py bank` command again"
        )
    return encodings


def _hash_of_tree(tree: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _hash_of_dives(source: pipeline.Dives) -> str:
    rows = [info.to_json() for info in source.infos]
    release = getattr(source, "fingerprint", "")
    return hashlib.sha256(json.dumps([release, rows], sort_keys=True).encode()).hexdigest()


def _products() -> str:
    """How matrix products round their float32 factors.

    A bank made where they are whole serves on every platform: another order of sums changes the
    last bits alone, as another batch size does. GPUs and TPUs shorten factors unless told otherwise
    (JAX_DEFAULT_MATMUL_PRECISION=highest), each in its own way, to 8 or 11 significant bits.
    """
    platform, precision = jax.default_backend(), jax.config.jax_default_matmul_precision
    if platform == "cpu" or precision in ("highest", "float32"):
        return "float32"
    return f"{precision or 'default'} of {platform}"


def _module(tree: Any, path: Sequence[str]) -> Any:
    return functools.reduce(lambda tree, name: tree.get(name, {}), path, tree)
