"""The Python packages that a machine without a network needs beside its own: fetched, installed.

python -m benchmarks.gpu.wheels download FOLDER     # where there is a network
python -m benchmarks.gpu.wheels install FOLDER SITE # there; SITE goes onto PYTHONPATH
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from finecausal_jax.runtime.errors import InputError

# What the measurements import, and what that needs; JAX, Flax, Optax, Orbax, NumPy and PyTorch, and
# what those need, are the machine's own. Where it has more, those wheels are left alone.
PACKAGES = (
    "absl-py>=2.5",
    "array_record>=0.8",
    "attrs",
    "cloudpickle",
    "etils",
    "filelock",
    "grain>=0.2.18,<0.3",
    "importlib_resources>=7.1",
    "jaxtyping>=0.3.11",
    "jraph==0.0.6.dev0",
    "ml_collections>=1.1",
    "pillow>=13.0",
    "portpicker",
    "protobuf",
    "psutil",
    "PyYAML",
    "safetensors>=0.8",
    "six",
    "tqdm>=4.70",
    "typing_extensions",
    "wadler_lindig",
)
LIMIT = 60_000_000  # bytes: what such a machine takes in one copy is little
_PYTHON = "3.12"
# pip takes each tag for exactly what it says.
_PLATFORMS = tuple(
    f"manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "_2_12")
)


def download(folder: pathlib.Path, run: Callable[..., object] = subprocess.run) -> int:
    """Fetches the wheels for Linux on x86-64; returns their size in bytes.

    Raises:
      InputError: they are larger than `LIMIT`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):  # of two versions neither could be installed
        old.unlink()
    tags = [option for tag in _PLATFORMS for option in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    kind = ["--only-binary=:all:", "--implementation", "cp", "--python-version", _PYTHON]
    # Without dependencies: those of most lead to JAX, which alone is too large.
    run([*pip, "--no-deps", *kind, *tags, "--dest", str(folder), *PACKAGES], check=True)
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    if size > LIMIT:
        raise InputError(
            f"{folder} holds {size / 1e6:.1f} MB of wheels, expected at most {LIMIT / 1e6:.0f}: "
            "take the largest out of PACKAGES in benchmarks/gpu/wheels.py"
        )
    return size


def missing(folder: pathlib.Path) -> list[pathlib.Path]:
    """The wheels of packages that this Python does not have."""
    return [path for path in sorted(folder.glob("*.whl")) if not _has(path.name.partition("-")[0])]


def install(
    folder: pathlib.Path, site: pathlib.Path, run: Callable[..., object] = subprocess.run
) -> list[str]:
    """Installs what is missing from the folder alone; returns the names of the wheels.

    Into a folder and no virtual environment: where Python itself is of one, a new one would not see
    its packages.
    """
    wheels = [str(path) for path in missing(folder)]
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        only = ["--no-index", "--find-links", str(folder), "--no-deps", "--no-compile"]
        run([*pip, *only, "--upgrade", "--target", str(site), *wheels], check=True)
    return [pathlib.Path(path).name for path in wheels]


def main(arguments: Sequence[str]) -> int:
    """Does what the command line says; returns the exit code."""
    match arguments:
        case ["download", folder]:
            try:
                size = download(pathlib.Path(folder))
            except ValueError as error:
                print(error, file=sys.stderr)
                return 1
            count = len(list(pathlib.Path(folder).glob("*.whl")))
            print(f"{count} wheels in {folder}, {size / 1e6:.1f} MB of at most {LIMIT / 1e6:.0f}")
        case ["install", folder, site]:
            names = install(pathlib.Path(folder), pathlib.Path(site))
            print(
                f"installed {len(names)} wheels into {site}: {', '.join(names) or 'none missing'}"
            )
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def _has(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
