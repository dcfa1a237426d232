"""One process at a time on a folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import time
from collections.abc import Iterator

from absl import logging

from finecausal_jax.runtime import hosts
from finecausal_jax.runtime.errors import InputError

FILE = ".lock"
_HOLDER = ".lock.holder"  # says who has the lock; the lock itself is the kernel's
FILES = (FILE, _HOLDER)


@contextlib.contextmanager
def only_one(folder: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Holds a folder's lock; of several processes of one run the leading one does.

    The kernel gives the lock back when the process ends, however it ends, on network file systems
    too where they have locks at all; where not, a warning says so.

    Args:
      folder: created where missing; gone again at the end if nothing was put into it.
      what: the work, for whoever comes second: "a training".

    Raises:
      InputError: another process holds the lock.
    """
    import filelock

    if not hosts.leads():
        yield
        return
    folder = pathlib.Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / FILE, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        holder = _holder(folder) or "another process"
        raise InputError(
            f"{folder} is in use by {holder}: wait until that has ended, stop it, or choose "
            f"another folder for {what}"
        ) from None
    except (NotImplementedError, OSError) as error:
        logging.warning(
            "%s: this file system has no locks (%s); see to it that only one process writes there",
            folder,
            error,
        )
        yield
        return
    try:
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        (folder / _HOLDER).write_text(
            f"{what}, process {os.getpid()} on {platform.node()} since {began}\n"
        )
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may have been taken away
            (folder / _HOLDER).unlink()
            # Safe while it is held: filelock gives up a lock on a file that is gone.
            (folder / FILE).unlink()
            if made:
                folder.rmdir()  # refused where there is anything in it
        lock.release()


def _holder(folder: pathlib.Path) -> str:
    try:
        return (folder / _HOLDER).read_text(errors="replace").strip()[:200]
    except OSError:
        return ""
