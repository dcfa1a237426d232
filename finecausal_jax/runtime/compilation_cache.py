"""JAX's persistent cache of compiled programs, switched on by a command and never by an import."""

import hashlib
import os
import pathlib
import platform

import jax

from finecausal_jax.runtime.errors import InputError

# The value of `config.train.compilation_cache` that means the user's own folder.
OF_USER = "user"
# A full-size training step takes some tens of megabytes; what was not used for longest goes first.
LARGEST_BYTES = 2 * 1024**3
CPU_INFO = pathlib.Path("/proc/cpuinfo")


def use_compilation_cache(folder: str, workdir: str | os.PathLike[str] | None) -> None:
    """Keeps compiled programs on disk, so that what was compiled once starts quickly.

    A training step at full size compiles for minutes; a resumed run, an evaluation after the one
    at the end of training, or another run of the same sizes finds its programs here. A folder that
    JAX was already told to use (`JAX_COMPILATION_CACHE_DIR`) is left as it is, and so is
    `JAX_ENABLE_COMPILATION_CACHE=false`.

    Args:
      folder: `config.train.compilation_cache`: "user", one folder for all runs of this user, of
        `LARGEST_BYTES` at most; empty: no cache; else a folder, relative ones in `workdir`.
      workdir: the run's folder.

    Raises:
      InputError: the path is a file.
    """
    if not folder or jax.config.jax_compilation_cache_dir:
        return
    of_user = folder == OF_USER
    path = user_folder() if of_user else pathlib.Path(workdir or ".") / folder
    if path.exists() and not path.is_dir():
        raise InputError(
            f"config.train.compilation_cache: {path} is a file, expected a folder or a new name; "
            "empty switches the cache off"
        )
    if of_user:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a user without a home that can be written compiles each time
        jax.config.update("jax_compilation_cache_max_size", LARGEST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(path.absolute()))


def user_folder(cpu_info: pathlib.Path = CPU_INFO) -> pathlib.Path:
    """The user's folder for programs compiled for this kind of CPU.

    Computers that share a home may differ in what their CPUs can do, which JAX's keys do not tell
    apart: code compiled for one could end a process on another.

    Args:
      cpu_info: the kernel's description of the CPUs, where there is one.
    """
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "finecausal_jax" / "compiled" / _kind_of_cpu(cpu_info)


def _kind_of_cpu(cpu_info: pathlib.Path) -> str:
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        lines = []
    # "flags" on x86, "Features" on Arm: what instructions there are.
    told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    text = "\n".join(told) or platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
