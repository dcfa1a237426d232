"""One damaged or hostile input, and what reading it has to come to."""

from __future__ import annotations

import dataclasses
import pathlib
import random
from collections.abc import Callable

ERROR, READ, EITHER = "error", "read", "either"


@dataclasses.dataclass(frozen=True)
class Case:
    """An input and how the project reads it.

    Attributes:
      kind: of file, the class that the table counts it in.
      name: what was done to it.
      read: reads it as a command does; raises InputError to refuse it.
      expected: `ERROR`, `READ`, or `EITHER` where nothing can tell damage from another content.
      ran: a file that appears if something in the input was run.
    """

    kind: str
    name: str
    read: Callable[[], object]
    expected: str = ERROR
    ran: pathlib.Path | None = None


def flip(path: pathlib.Path, rng: random.Random) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: pathlib.Path, rng: random.Random) -> None:
    """Drops the end of a file, at least a byte of it."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def overwrite(path: pathlib.Path, rng: random.Random) -> None:
    """Fills a file with other bytes."""
    path.write_bytes(rng.randbytes(path.stat().st_size))
