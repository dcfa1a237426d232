"""Which code made a result."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from importlib import metadata

_LIBRARIES = ("jax", "jaxlib", "libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt")


def commit() -> str | None:
    """The commit of this checkout, with "-dirty" where files have changed; None outside of one."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, maybe into somebody else's checkout
        return None
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40")
    try:
        run = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def compiled_with() -> dict[str, str | None]:
    """What a compiled program depends on beside the config: "commit", "XLA_FLAGS" and the versions
    of JAX and of the compilers that are installed."""
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"commit": commit(), "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), **versions}
