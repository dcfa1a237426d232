"""JSON files that a process left for another one, read with an error that says which and why."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from finecausal_jax.runtime.errors import InputError

# The largest that is written here is the table of a data set, a kilobyte a dive.
LARGEST_BYTES = 256 * 2**20


def read_json(path: str | os.PathLike[str], expected: str, mend: str) -> Any:
    """What a JSON file holds.

    Args:
      path: of the file.
      expected: what it should hold, for the error: "the config of a run".
      mend: what to do about a file that holds something else.

    Raises:
      InputError: it is missing, empty, no JSON, too deeply nested, or larger than `LARGEST_BYTES`.
    """
    path = pathlib.Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            found = f"{size} bytes, more than {LARGEST_BYTES}"
        elif not (text := path.read_bytes().decode()).strip():
            found = "an empty file"
        else:
            return json.loads(text)
    except OSError as error:
        found = (error.strerror or "a file that cannot be read").lower()
    except (ValueError, RecursionError) as error:  # of UTF-8 too
        found = f"no JSON ({str(error) or type(error).__name__})"
    raise InputError(f"{path}: expected {expected}, found {found}; {mend}")


def not_expected(
    path: str | os.PathLike[str], expected: str, found: object, mend: str
) -> InputError:
    """The error for JSON that is whole but holds something else."""
    return InputError(f"{path}: expected {expected}, found something else ({found}); {mend}")
