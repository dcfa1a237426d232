"""Files that appear whole or not at all."""

import os
import pathlib
import stat
import uuid
from collections.abc import Callable
from typing import Any


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[pathlib.Path], Any]
) -> pathlib.Path:
    """Writes through a temporary neighbour, so that `path` is never half written.

    Args:
      path: where the file goes; its folder is made where missing, a file there is replaced.
      write: fills the temporary file, whose path it is given, or puts another one in its place.

    Returns:
      `path`, with the mode of any new file: 0666 less the umask.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    # Not mkstemp, whose private file would keep a web server or colleague out. A umask can only be
    # read by changing it, for all threads; the new file shows what it makes of the mode.
    temporary.touch(mode=0o666, exist_ok=False)
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        os.chmod(temporary, mode)  # safetensors renames a private file of its own
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
