"""Where files and folders are: paths of this machine, told from addresses of other stores."""

from __future__ import annotations

import os
import re

from finecausal_jax.runtime.errors import InputError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local(text: str, name: str) -> str:
    """A path with `~` expanded.

    Args:
      text: as somebody gave it; any text that is no address is returned as it is.
      name: of the flag or key, for the error.

    Raises:
      InputError: it is an address, such as gs://bucket/run, which would become a folder of that
        name here; or it holds a character that no path can.
    """
    if _ADDRESS.match(text):
        raise InputError(
            f"{name}={text}: expected a path of this machine, found an address of another store; "
            "mount it as a folder (gcsfuse, mountpoint-s3) or copy it here, and give that path"
        )
    if "\0" in text:
        raise InputError(f"{name}={text!r}: expected a path, found a zero byte in it")
    return os.path.expanduser(text) if text.startswith("~") else text
