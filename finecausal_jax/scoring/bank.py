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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from finecausal_jax.data.dives import DATASET_NAME, IMAGES_VERSION, SPLITS
from finecausal_jax.data.sources import Dives
from finecausal_jax.models.outputs import Features
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import check_folder, write_atomically
from finecausal_jax.runtime.locks import only_one
from finecausal_jax.scoring import store
from finecausal_jax.scoring.features import Encoding, Key
from finecausal_jax.scoring.metrics import MaskCounts
from finecausal_jax.scoring.scorer import Scorer

FORMAT = 1
SHARD_DIVES = 64  # 17 MB at full size: little is lost when a build is cut short
# Paths of the modules that features depend on; `video_encoder` reduces frames in comparisons, too.
ENCODERS = (("base_model",), ("segmenter",), ("video_encoder", "backbone"))
_FEATURES = ("video_feature", "mask_feature", "frame_feature")

Fingerprint = dict[str, Any]


def make_fingerprint(scorer: Scorer, sources: Mapping[str, Dives]) -> Fingerprint:
    """What the features of some dives depend on, as plain values for JSON.

    Args:
      scorer: what makes them.
      sources: split -> its dives.

    Returns:
      "format", "dtype" of what is stored, "data" (the data set's name and version), "weights" (a
      hash of the encoders' parameters and statistics), `Scorer.made_with`, "products" (how matrix
      products round, see `_products`), "preprocessing.NAME", "mask_threshold", and "dives.SPLIT" (a
      hash of its keys and annotations, and of `Dives.fingerprint`, which covers the image files).
      Weights and settings that only comparisons read are left out: they change no feature.
    """
    weights = {
        collection: {"/".join(path): _module(tree, path) for path in ENCODERS}
        for collection, tree in scorer.variables.items()
        if collection in ("params", "batch_stats")
    }
    sizes = dataclasses.asdict(scorer.preprocessing)
    return {
        "format": FORMAT,
        "dtype": "float32",  # whatever the compute dtype: the encoders' outputs are float32
        "data": f"{DATASET_NAME} {IMAGES_VERSION}",
        "weights": _hash_of_tree(weights),
        **scorer.made_with,
        "products": _products(scorer.layout.platform),
        **{f"preprocessing.{name}": value for name, value in sizes.items()},
        "mask_threshold": float(scorer.mask_threshold),
        **{f"dives.{split}": _hash_of_dives(source) for split, source in sources.items()},
    }


def build_bank(
    folder: str | os.PathLike[str],
    fingerprint: Fingerprint,
    scorer: Scorer,
    sources: Mapping[str, Dives],
    *,
    shard_dives: int = SHARD_DIVES,
    overwrite: bool = False,
) -> int:
    """Encodes every dive of some splits into a bank, or what is missing of it.

    Args:
      folder: the bank's own folder; created where missing.
      fingerprint: from `make_fingerprint`, of the same scorer and sources.
      scorer: what encodes.
      sources: split -> its dives.
      shard_dives: dives a file.
      overwrite: replace a bank that was made with something else; one that fits is kept.

    Returns:
      How many dives were encoded; the others were there already.

    Raises:
      InputError: another bank or other files are in the folder, or a dive cannot be decoded.
    """
    folder = pathlib.Path(folder)
    # Whole batches a shard: a build that goes on then forms the batches of an unbroken one, and
    # ends with the same bits.
    batch = scorer.video_batch
    sizes = {split: len(source.infos) for split, source in sources.items()}
    shards = store.plan(sizes, -(-shard_dives // batch) * batch)
    index = {"fingerprint": fingerprint, "shards": shards}
    check_folder(folder, "--output")
    encoded = 0
    with only_one(folder, "a bank"):
        shards = store.claim(folder, index, overwrite)
        for split, source in sources.items():
            missing = {
                name: range(first, first + count)
                for name, (of_split, first, count) in shards.items()
                if of_split == split and not (folder / name).exists()
            }
            rows = list(itertools.chain(*missing.values()))
            encodings = scorer.encode(source, rows, f"{split} dives")
            with contextlib.closing(encodings):
                for name, share in missing.items():
                    part = list(itertools.islice(encodings, len(share)))
                    write_atomically(folder / name, functools.partial(_write_shard, part=part))
                    encoded += len(part)
                next(encodings, None)  # to its end, or progress would say that it was stopped there
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
      InputError: there is no bank, it was made with something else, what is asked for is not
        finished, or a shard cannot be read.
    """
    folder = pathlib.Path(folder)
    index = store.read_index(folder)
    if index is None:
        raise InputError(f"no exemplar bank in {folder}; `launch.py bank` makes one")
    held = {split for split, _, _ in index["shards"].values()}
    absent = {f"dives.{split}" for split in SPLITS if split not in held}
    wanted = {name: value for name, value in fingerprint.items() if name not in absent}
    changed = store.differences(index["fingerprint"], wanted)
    if changed:
        raise InputError(
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
        raise InputError(
            f"the bank in {folder} is not finished: {len(missing)} of {len(counts)} "
            f"shards are missing, the first being {missing[0]}; the `launch.py bank` command that "
            "began it goes on"
        )
    encodings: dict[Key, Encoding] = {}
    first = None
    for name, count in counts.items():
        shard = _read_shard(folder / name, count)
        shapes = {tuple(x.shape for x in jax.tree.leaves(one)) for one in shard.values()}
        first = first or shapes
        if shapes != first:
            raise InputError(
                f"{folder / name} holds features of other shapes than the shards before it; delete "
                "it and run the `launch.py bank` command again"
            )
        encodings |= shard
    return encodings


def _write_shard(path: pathlib.Path, part: Sequence[tuple[Key, Encoding]]) -> None:
    keys, values = zip(*part, strict=True)
    arrays = {
        "competition": np.array([key[0] for key in keys]),
        "index": np.array([key[1] for key in keys], np.int64),
        "transitions": np.stack([one.transitions for one in values]),
    }
    for name in _FEATURES:
        arrays[name] = np.stack([getattr(one.features, name) for one in values])
    for name in MaskCounts._fields:
        # Counts of no frame stand for a dive without a mask.
        counts = [one.counts or MaskCounts(*[0] * len(MaskCounts._fields)) for one in values]
        arrays[f"counts.{name}"] = np.stack([np.asarray(getattr(one, name)) for one in counts])
    with path.open("wb") as file:  # an open file: NumPy would add a suffix to a path
        np.savez(file, **arrays)


def _read_shard(path: pathlib.Path, count: int) -> dict[Key, Encoding]:
    try:
        # NumPy leaves a file open that it opened itself and cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        keys = zip(arrays["competition"].tolist(), arrays["index"].tolist(), strict=True)
        _check_arrays(arrays, count)
        encodings = {
            key: Encoding(
                Features(**{name: arrays[name][i] for name in _FEATURES}),
                _counts(arrays, i),
                arrays["transitions"][i],
            )
            for i, key in enumerate(keys)
        }
    except Exception as error:  # damaged archives make zipfile and NumPy raise nearly anything
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it and run the "
            "`launch.py bank` command again, which makes missing shards"
        ) from error
    if len(encodings) != count:
        raise InputError(
            f"{path} holds {len(encodings)} dives, expected {count}; delete it and run the "
            "`launch.py bank` command again"
        )
    return encodings


def _counts(arrays: Mapping[str, np.ndarray], row: int) -> MaskCounts | None:
    counts = MaskCounts(*(arrays[f"counts.{name}"][row] for name in MaskCounts._fields))
    return counts if counts.frames else None


def _check_arrays(arrays: Mapping[str, np.ndarray], count: int) -> None:
    """Raises ValueError where a shard's arrays are not of so many dives, or hold no numbers."""
    for name, array in arrays.items():
        if array.shape[:1] != (count,):
            raise ValueError(f"{name} has shape {array.shape}, expected {count} dives")
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are infinite or no numbers")


def _hash_of_tree(tree: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _hash_of_dives(source: Dives) -> str:
    rows = [info.to_json() for info in source.infos]
    return hashlib.sha256(
        json.dumps([source.fingerprint, rows], sort_keys=True).encode()
    ).hexdigest()


def _products(platform: str) -> str:
    """How matrix products round their float32 factors.

    A bank made where they are whole serves on every platform: another order of sums changes the
    last bits alone, as another batch size does. GPUs and TPUs shorten factors unless told otherwise
    (JAX_DEFAULT_MATMUL_PRECISION=highest), each in its own way, to 8 or 11 significant bits.
    """
    precision = jax.config.jax_default_matmul_precision
    if platform == "cpu" or precision in ("highest", "float32"):
        return "float32"
    return f"{precision or 'default'} of {platform}"


def _module(tree: Any, path: Sequence[str]) -> Any:
    return functools.reduce(lambda tree, name: tree.get(name, {}), path, tree)
