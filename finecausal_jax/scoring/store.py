"""A folder of shards that is filled in any number of runs and knows what it was made with.

Beside the shards lies an index, which names each with its rows and holds a fingerprint: what the
content depends on. A folder with another fingerprint is refused, one with the same is gone on with.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from finecausal_jax.runtime import locks
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json

INDEX = "bank.json"
Shards = dict[str, tuple[str, int, int]]  # file -> its split, first row and number of rows
# What the text of a difference means, where it is a hash.
_HASHED = {
    "weights": " (hashes of the encoders' parameters and statistics: another checkpoint)",
    "dives": " (hashes of the dives, their annotations and image files)",
}


def plan(sizes: Mapping[str, int], shard_dives: int) -> Shards:
    """Cuts splits into shards.

    Args:
      sizes: split -> its number of dives.
      shard_dives: dives a shard.
    """
    return {
        f"{split}-{first // shard_dives:05}.npz": (split, first, min(shard_dives, size - first))
        for split, size in sizes.items()
        for first in range(0, size, shard_dives)
    }


def claim(folder: pathlib.Path, index: dict[str, Any], overwrite: bool) -> Shards:
    """Makes a folder a bank's: empty, or with a part of it.

    Args:
      folder: created where missing.
      index: "fingerprint" and "shards", as it would begin.
      overwrite: remove the shards of a bank that was made with something else.

    Returns:
      The shards to fill: planned by whoever began the bank.

    Raises:
      InputError: another bank or other files are in the folder.
    """
    for path in folder.glob(f".{INDEX}.*"):  # what a build was writing that was killed at once
        path.unlink()
    found = read_index(folder)
    files = folder.iterdir() if folder.is_dir() else []
    present = [path for path in files if path.name not in locks.FILES]
    if found is None and present:
        raise InputError(
            f"{folder} holds {present[0].name} but no {INDEX}: it is no bank; choose an empty "
            "folder with --output"
        )
    if found is not None:
        same = json.loads(json.dumps(index))
        changed = differences(found["fingerprint"], same["fingerprint"], exact=True)
        if not changed:
            # Another batch size plans other shards; those that are there were planned by the first.
            index = {**index, "shards": found["shards"]}
        if changed and not overwrite:
            raise InputError(
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


def read_index(folder: pathlib.Path) -> dict[str, Any] | None:
    """The index of the bank in a folder, None where there is none; raises where it is damaged."""
    path = folder / INDEX
    if not path.is_file():
        return None
    expected, mend = "a bank's index", f"delete {folder} and make the bank again"
    index = read_json(path, expected, mend)
    try:
        fields = index["fingerprint"]
        shards = {
            str(name): (str(split), int(first), int(count))
            for name, (split, first, count) in index["shards"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise not_expected(path, expected, error, mend) from error
    if not isinstance(fields, dict) or any(pathlib.PurePath(n).name != n for n in shards):
        raise not_expected(path, expected, "other fields", mend)
    return {"fingerprint": fields, "shards": shards}


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], exact: bool = False
) -> list[str]:
    """One line a field of a fingerprint that differs; `exact`: also of those not wanted."""
    names = wanted.keys() | (found.keys() if exact else set())
    return [
        f"{name}: the bank has {found.get(name)!r}, expected {wanted.get(name)!r}"
        f"{_HASHED.get(name.partition('.')[0], '')}"
        for name in sorted(names)
        if found.get(name) != wanted.get(name)
    ]
