"""Checksums of a folder's files, kept in a file of it: a flipped bit is told from what was written.

They guard against disks and copies, not against people: whoever can change a file can change its
checksum too.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import zlib
from collections.abc import Collection

from finecausal_jax.runtime.files import write_atomically

FILE = "checksums.json"
_CHUNK_BYTES = 1 << 22
_THREADS = 8  # zlib lets other threads run while it sums up


def write_checksums(folder: str | os.PathLike[str], leave_out: Collection[str] = ()) -> None:
    """Writes size and CRC-32 of each file below a folder into `checksums.json` there.

    Args:
      folder: with files that are complete.
      leave_out: names of files directly in it that may change later.
    """
    folder = pathlib.Path(folder)
    names = [name for name in _files(folder) if name not in {FILE, *leave_out}]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        sums = dict(zip(names, pool.map(lambda name: _sum(folder / name), names), strict=True))
    text = json.dumps({"algorithm": "crc32", "files": sums}, indent=1) + "\n"
    write_atomically(folder / FILE, lambda path: path.write_text(text))


def damaged(
    folder: str | os.PathLike[str],
    below: Collection[str] | None = None,
    most_bytes: int | None = None,
) -> list[str]:
    """One line a file that is missing or not what it was when `write_checksums` saw it.

    Args:
      folder: where `checksums.json` lies; without it nothing is known and nothing told.
      below: names of subfolders to look into, besides files directly in the folder; None is all.
      most_bytes: of larger files only the size is compared; None compares all.
    """
    folder = pathlib.Path(folder)
    try:
        written = (folder / FILE).read_text()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        return [f"{folder / FILE}: cannot be read ({error})"]
    try:
        content = json.loads(written)
        expected = {str(k): (int(size), str(crc)) for k, (size, crc) in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{folder / FILE}: expected checksums, found something else"]
    wanted = [
        name for name in expected if below is None or "/" not in name or name.split("/")[0] in below
    ]

    def problem(name: str) -> str | None:
        try:
            size = (folder / name).stat().st_size
            if most_bytes is not None and size > most_bytes and size == expected[name][0]:
                return None
            found = _sum(folder / name)
        except OSError as error:
            return f"{folder / name}: {(error.strerror or 'cannot be read').lower()}"
        if found[0] != expected[name][0]:
            return f"{folder / name}: expected {expected[name][0]} bytes, found {found[0]}"
        return None if found[1] == expected[name][1] else f"{folder / name}: its bytes have changed"

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return [line for line in pool.map(problem, wanted) if line]


def _files(folder: pathlib.Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _sum(path: pathlib.Path) -> tuple[int, str]:
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, f"{crc:08x}"
