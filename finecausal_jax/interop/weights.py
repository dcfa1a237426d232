"""Weights to score with, straight from a file: no workdir, no conversion beforehand."""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import pathlib
from typing import Any

from finecausal_jax.interop import conversion
from finecausal_jax.interop.checkpoint_files import read_config_beside
from finecausal_jax.interop.pytorch import State
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.runtime.errors import InputError

SHIPPED = "weights"  # the package's folder of weights that come with it, a folder each
_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """A trained network.

    Attributes:
      path: the file.
      model: the network.
      variables: {"params", "batch_stats"}, NumPy arrays, float32.
      unused: tensors of the file that the network does not hold, {module: {key: array}}.
      config: what its `config.json` says, see `checkpoint_files.read_config_beside`; empty where
        there is none.
    """

    path: pathlib.Path
    model: FineCausal
    variables: dict[str, Any]
    unused: State
    config: dict[str, Any]

    @property
    def step(self) -> int | None:
        """Micro-batches of its training; None where nobody noted them."""
        return self.config.get("step")


def shipped() -> dict[str, pathlib.Path]:
    """The folders of the weights that come with this package, by name."""
    folder = pathlib.Path(str(importlib.resources.files("finecausal_jax"))) / SHIPPED
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/*{_SUFFIX}"))}


def find(place: str | os.PathLike[str]) -> pathlib.Path:
    """The file that is meant.

    Args:
      place: a file, a folder with one `.safetensors` file, or the name of weights that come with
        this package, such as "rendered".

    Raises:
      InputError: it is none of these.
    """
    path = pathlib.Path(place)
    if path.is_file():
        return path
    known = shipped()
    folder = path if path.is_dir() else known.get(str(place))
    expected = (
        "expected a file (.safetensors or .pth), a folder with one .safetensors file in it, or "
        f"the name of weights that come with this package ({', '.join(known) or 'there are none'})"
    )
    if folder is None:
        raise InputError(f"weights {place}: {expected}, found no such file or name")
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    if len(files) != 1:
        raise InputError(f"weights {place}: {expected}, found a folder with {len(files)} of them")
    return files[0]


def describe(place: str | os.PathLike[str]) -> dict[str, Any]:
    """What the `config.json` of weights says of them, as `Weights.config`, before they are read.

    Raises:
      InputError: as `find`, or the file cannot be read.
    """
    path = find(place)
    config = read_config_beside(path) if path.suffix == _SUFFIX else {}
    return config if config.get("file", path.name) == path.name else {}


def load(place: str | os.PathLike[str], model: FineCausal | None = None) -> Weights:
    """Reads a whole network.

    Args:
      place: as for `find`. A `.pth` is read without running anything in it.
      model: the network it is for; None takes the one that the file's `config.json` describes, else
        the full-size one.

    Raises:
      InputError: there is no such file, it cannot be read, or is not the whole of this network.
    """
    path = find(place)
    read = conversion.convert_file(path, model=model, drop_optimizer=True, complete=True)
    return Weights(path, read.model, read.variables, read.unused, read.source.config)
