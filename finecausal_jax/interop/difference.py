"""Differences between two sets of weights, for people who debug a conversion."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from finecausal_jax.interop import names, workdirs
from finecausal_jax.interop.checkpoint_files import read_weights
from finecausal_jax.interop.conversion import flattened
from finecausal_jax.interop.pytorch import State, WeightsError, rename_to_pytorch
from finecausal_jax.runtime.checkpoints import VARIABLES


@dataclasses.dataclass(frozen=True)
class Difference:
    """One tensor that differs.

    Attributes:
      name: "module/key" as in a released file.
      leaf: name of the Flax leaf, or "" for a tensor that the model does not hold.
      absolute: largest absolute difference; infinite where shapes differ or only one is a number.
      relative: the same as a share of the largest value of the second tensor.
      note: shapes or dtypes, where they differ.
    """

    name: str
    leaf: str
    absolute: float
    relative: float
    note: str = ""

    def __str__(self) -> str:
        tail = f"  {self.note}" if self.note else ""
        return (
            f"abs {self.absolute:9.2e}  rel {self.relative:9.2e}  {self.name}"
            f"{f'  ({self.leaf})' if self.leaf else ''}{tail}"
        )


def read_any(where: str) -> tuple[State, str]:
    """The weights of a workdir or of a file.

    Args:
      where: "DIR" for the best checkpoint of a workdir, "DIR:WHICH" for its best or latest one or
        that of a step; or a file.

    Returns:
      {module: {key: array}} under the names and in the layouts of a released file; and what was
      read, in words.

    Raises:
      InputError: there is nothing of the kind; the text names it.
    """
    folder, which = pathlib.Path(where), "best"
    if not folder.is_dir() and ":" in where:
        path, _, which = where.rpartition(":")
        folder = pathlib.Path(path)
    if folder.is_dir():
        step = workdirs.find_step(folder, which)
        items = workdirs.load_items(folder, step, (VARIABLES, workdirs.UNUSED))
        state = rename_to_pytorch(items[VARIABLES])
        for module, tensors in flattened(items.get(workdirs.UNUSED, {})).items():
            state.setdefault(module, {}).update(tensors)
        return state, f"{folder}, checkpoint of step {step}"
    source = read_weights(where)
    if source.problems:
        raise WeightsError(where, source.problems)
    state = {
        module: {names.plain_key(key): value for key, value in tensors.items()}
        for module, tensors in source.state.items()
    }
    return state, f"{where}, {source.kind}"


def differences(
    first: Mapping[str, Mapping[str, np.ndarray]], second: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[list[Difference], list[str], list[str], int]:
    """Compares two states tensor by tensor.

    Args:
      first, second: {module: {key: array}} in PyTorch's names and layouts.

    Returns:
      What differs, largest absolute difference first; names that only the first has; names that
      only the second has; the number of tensors that are equal bit for bit.
    """
    one = {(m, k): value for m, tensors in first.items() for k, value in tensors.items()}
    two = {(m, k): value for m, tensors in second.items() for k, value in tensors.items()}
    rows, equal = [], 0
    for module, key in one.keys() & two.keys():
        a, b = one[module, key], two[module, key]
        if a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes():
            equal += 1
        else:
            rows.append(_difference(module, key, a, b))
    rows.sort(key=lambda row: (-row.absolute, row.name))
    only_one = sorted("/".join(name) for name in one.keys() - two.keys())
    only_two = sorted("/".join(name) for name in two.keys() - one.keys())
    return rows, only_one, only_two, equal


def _difference(module: str, key: str, a: np.ndarray, b: np.ndarray) -> Difference:
    target = names.to_flax(module, key)
    name, leaf = f"{module}/{key}", target.name if target else ""
    if a.shape != b.shape:
        note = f"shapes {list(a.shape)} and {list(b.shape)}"
        return Difference(name, leaf, math.inf, math.inf, note)
    note = "" if a.dtype == b.dtype else f"dtypes {a.dtype} and {b.dtype}"
    off = np.abs(a.astype(np.float64) - b.astype(np.float64))
    # NaN on one side only is as far apart as can be; on both sides it is no difference.
    off = np.where(np.isnan(a) & np.isnan(b), 0.0, np.nan_to_num(off, nan=math.inf))
    absolute = float(np.max(off, initial=0.0))
    largest = float(np.max(np.abs(b.astype(np.float64)), initial=0.0))
    relative = absolute / largest if largest > 0 else (math.inf if absolute else 0.0)
    return Difference(name, leaf, absolute, relative, note)
