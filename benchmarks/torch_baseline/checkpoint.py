"""Reads released checkpoints into the PyTorch baseline."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.torch_baseline.model import FineCausal

_PREFIX = "module."  # which a multi-GPU run leaves on every key


def load_checkpoint(model: FineCausal, path: str | os.PathLike[str]) -> None:
    """Fills a model from a `best.pth`, without executing anything that is pickled in it.

    Args:
        model: is changed in place.
        path: a file of state dicts by module.

    Raises:
        ValueError: where a module or a tensor is missing, unknown or of another shape, or where
            the file holds other objects.
    """
    # The best metrics are NumPy scalars, which must be allowed by name.
    scalar = np._core.multiarray.scalar
    allowed: list[Any] = [np.dtype, type(np.dtype(np.float64)), scalar]
    # Files written with NumPy 1 name the same function by its old place.
    allowed.append((scalar, "numpy.core.multiarray.scalar"))
    with torch.serialization.safe_globals(allowed):
        try:
            blob = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"Checkpoint {os.fspath(path)}: expected state dicts and NumPy scalars, got"
                f" something else, which is not loaded because it could run code; {error}"
            ) from error
    names = [name for name, _ in model.named_children()]
    load_state(model, {name: blob[name] for name in names if name in blob})


def load_state(model: FineCausal, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Fills a model from state dicts, each with strict key matching.

    Args:
        model: is changed in place.
        state: {module: {key: array or tensor}}, PyTorch layouts.

    Raises:
        ValueError: where a module or a tensor is missing, unknown or of another shape.
    """
    modules = dict(model.named_children())
    if modules.keys() != state.keys():
        raise ValueError(
            f"Modules of the checkpoint: expected {sorted(modules)}, missing"
            f" {sorted(modules.keys() - state.keys())}, unknown"
            f" {sorted(state.keys() - modules.keys())}; give a whole FineCausal checkpoint."
        )
    for name, module in modules.items():
        tensors = {key.removeprefix(_PREFIX): _tensor(value) for key, value in state[name].items()}
        try:
            module.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"Tensors of the checkpoint's {name}: expected the model's keys and shapes; {error}"
            ) from error


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
