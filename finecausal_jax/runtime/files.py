"""Files that appear whole or not at all, in folders that can hold them."""

import glob
import itertools
import os
import pathlib
import platform
import shutil
import stat
import uuid
from collections.abc import Callable
from typing import Any

from finecausal_jax.runtime import hosts
from finecausal_jax.runtime.errors import InputError


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[pathlib.Path], Any],
    leads: Callable[[], bool] = hosts.leads,
) -> pathlib.Path:
    """Writes through a temporary neighbour, so that `path` is never half written.

    Args:
      path: where the file goes; its folder is made where missing, a file there is replaced.
      write: fills the temporary file, whose path it is given, or puts another one in its place.
      leads: whether this process writes: of several, which may share the folder, one does.

    Returns:
      `path`, with the mode of any new file: 0666 less the umask.
    """
    path = pathlib.Path(path)
    if not leads():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_neighbour(path)
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


def temporary_neighbour(path: pathlib.Path) -> pathlib.Path:
    """A free name beside a file or folder, for what takes its place once it is complete.

    Whatever is left there under such names by processes that were killed is removed.
    """
    for stray in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        host, _, process = stray.name[len(path.name) + 2 :].rsplit(".", 2)[0].rpartition("-")
        if host == platform.node() and process.isdecimal() and not _runs(int(process)):
            if stray.is_dir():
                shutil.rmtree(stray, ignore_errors=True)
            else:
                stray.unlink(missing_ok=True)
    owner = f"{platform.node()}-{os.getpid()}"
    return path.with_name(f".{path.name}.{owner}.{uuid.uuid4().hex[:8]}.partial")


def check_folder(path: str | os.PathLike[str], name: str, *, writable: bool = True) -> None:
    """Raises InputError where files cannot be put into a folder that is there or would be made.

    Before long work: its result is not to be lost for want of a place.

    Args:
      path: the folder.
      name: of the flag or field that names it.
      writable: whether something will be written into it.
    """
    path = pathlib.Path(path).absolute()
    # Orbax takes brackets for a pattern and a backslash for a slash, and writes what it cannot find
    # again; array_record ends a name at a line break.
    bad = sorted({one for one in str(path) if one in "[]\\" or ord(one) < 32})
    if bad:
        raise InputError(
            f"{name}={str(path)!r}: the path holds {', '.join(map(repr, bad))}, which libraries "
            "that write there cannot have in one: rename the folder or choose another"
        )
    found = next(one for one in (path, *path.parents) if one.exists() or one.is_symlink())
    if not found.is_dir():
        raise InputError(
            f"{name}={path}: expected a folder, {found} is none; move it away or choose another"
        )
    if writable and not os.access(found, os.W_OK | os.X_OK):
        raise InputError(
            f"{name}={path}: nothing can be written into {found}; change its permissions or choose "
            "another"
        )


def keep_earlier(*paths: pathlib.Path) -> list[pathlib.Path]:
    """Renames results that are in the way of new ones: `name.json` to `name.1.json`, and so on.

    Args:
      paths: files that belong together and get the same number, the first that is free.

    Returns:
      The new paths of those that were there.
    """
    present = [path for path in paths if path.exists()]
    for number in itertools.count(1):
        kept = [path.with_suffix(f".{number}{path.suffix}") for path in present]
        if not any(path.exists() for path in kept):
            break
    for path, new in zip(present, kept, strict=True):
        path.rename(new)
    return kept


def _runs(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
