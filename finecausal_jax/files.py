"""Files that appear whole or not at all."""

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[pathlib.Path], Any]
) -> pathlib.Path:
    """Writes through a temporary neighbour, so that `path` is never half written.

    Args:
      path: where the file goes; its folder is made where missing, a file there is replaced.
      write: fills the temporary file, whose path it is given.

    Returns:
      `path`.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a web server or colleague out
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
