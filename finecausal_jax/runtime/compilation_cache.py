"""JAX's persistent cache of compiled programs, switched on by a command and never by an import."""

import os
import pathlib

import jax

from finecausal_jax.runtime.errors import InputError


def use_compilation_cache(folder: str, workdir: str | os.PathLike[str] | None) -> None:
    """Keeps compiled programs on disk, so that the same command starts quickly the next time.

    A training step at full size compiles for minutes; a resumed run, or an evaluation after the one
    at the end of training, finds its programs here. A folder that JAX was already told to use
    (`JAX_COMPILATION_CACHE_DIR`) is left as it is, and so is `JAX_ENABLE_COMPILATION_CACHE=false`.

    Args:
      folder: `config.train.compilation_cache`; relative paths lie in `workdir`; empty: no cache.
      workdir: the run's folder.

    Raises:
      InputError: the path is a file.
    """
    if not folder or jax.config.jax_compilation_cache_dir:
        return
    path = pathlib.Path(workdir or ".") / folder
    if path.exists() and not path.is_dir():
        raise InputError(
            f"config.train.compilation_cache: {path} is a file, expected a folder or a new name; "
            "empty switches the cache off"
        )
    jax.config.update("jax_compilation_cache_dir", str(path.absolute()))
