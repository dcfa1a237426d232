"""Weights between the released PyTorch layout and the Flax tree, bit for bit in both directions.

A released checkpoint is `{module: {key: array}}` with PyTorch's names and layouts; the model takes
`{"params": ..., "batch_stats": ...}`. Names and layouts are related by the table in `names`.
Nothing is cast or computed, only renamed and transposed, so a round trip gives the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from finecausal_jax.interop import names
from finecausal_jax.interop.expected import (
    Expected,
    expected_tensors,
    flat_leaves,
    unused_tensors,
)
from finecausal_jax.interop.order import state_order
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.runtime.errors import InputError

State = dict[str, dict[str, np.ndarray]]


class WeightsError(InputError):
    """Weights that do not fit: the message lists every offending tensor, one a line.

    Attributes:
      problems: those lines.
    """

    def __init__(self, where: str, problems: Sequence[str]):
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{where}: {count}\n" + "\n".join(f"  {line}" for line in problems))


@dataclasses.dataclass
class Conversion:
    """What became of every tensor of a PyTorch state.

    Attributes:
      variables: {"params": ..., "batch_stats": ...}, nested dicts of NumPy arrays in Flax layouts.
      sources: PyTorch (module, key) -> name of the Flax leaf that it fills.
      dropped: PyTorch (module, key) -> reason.
      unused: the dropped tensors that belong to a released checkpoint, {module: {key: array}}.
      missing: Flax leaf names that nothing fills.
      problems: what is wrong, one line each; empty when the state fits.
    """

    variables: dict[str, Any]
    sources: dict[tuple[str, str], str]
    dropped: dict[tuple[str, str], str]
    unused: State
    missing: list[str]
    problems: list[str]


def from_pytorch(
    state: Mapping[str, Mapping[str, Any]], *, model: FineCausal | None = None, where: str = "state"
) -> dict[str, Any]:
    """Flax variables with the weights of a released checkpoint.

    Args:
      state: {module: {key: array}}, float32 arrays (int64 BatchNorm counts) under the names and
        in the layouts of a released `best.pth`; a `module.` prefix, as multi-GPU runs leave it,
        may stand before every key.
      model: the FineCausal that the weights are for; None means the full-size one.
      where: what to call the state in an error, such as its file's path.

    Returns:
      {"params": ..., "batch_stats": ...}: float32 NumPy arrays, every leaf of the model filled
      once. Tensors that the model does not use (`names.DROPPED`) are left out.

    Raises:
      WeightsError: unknown or doubled keys, leaves that nothing fills, and tensors of another
        shape or dtype or with a value that is not finite; all of them in one message.
    """
    conversion = convert_state(state, expected_tensors(model))
    if conversion.problems:
        raise WeightsError(where, conversion.problems)
    return conversion.variables


def to_pytorch(
    variables: Mapping[str, Any], unused: Mapping[str, Mapping[str, Any]] | None = None
) -> State:
    """The state dicts of a released checkpoint, from Flax variables.

    Args:
      variables: {"params": ..., "batch_stats": ...}, nested dicts of arrays.
      unused: tensors that the model does not hold (`Conversion.unused`); those it lacks get
        stated defaults, since the reference's modules refuse to load without them: zeros for
        `regressor_delta3` and ResNet's classifier (both never called), 0 for BatchNorm's counts
        (never read).

    Returns:
      {module: {key: array}} in PyTorch's layouts; modules and keys in the order of a released file.

    Raises:
      WeightsError: leaves that no tensor of a released checkpoint corresponds to.
    """
    state = rename_to_pytorch(variables)
    shapes = {
        module: {key: value.shape for key, value in tensors.items()}
        for module, tensors in state.items()
    }
    for module, key, shape, dtype in unused_tensors(shapes):
        given = (unused or {}).get(module, {}).get(key)
        value = np.zeros(shape, dtype) if given is None else np.asarray(given)
        state.setdefault(module, {})[key] = value
    return in_released_order(state)


def rename_to_pytorch(variables: Mapping[str, Any]) -> State:
    """As `to_pytorch`, for any part of the tree (gradients, moments), unused tensors left out."""
    state: State = {}
    problems = []
    for collection, tree in variables.items():
        for path, value in flat_leaves(tree):
            source = names.to_pytorch(collection, path)
            if source is None:
                problems.append(
                    f"{'/'.join((collection, *path))}: no PyTorch tensor corresponds to this leaf"
                )
                continue
            state.setdefault(source.module, {})[source.key] = _to_torch_layout(
                np.asarray(value), source.layout
            )
    if problems:
        raise WeightsError("variables", problems)
    return in_released_order(state)


def convert_state(
    state: Mapping[str, Mapping[str, Any]],
    expected: Mapping[tuple[str, str], Expected],
    *,
    may_lack: Callable[[str, str], bool] = lambda module, key: False,
    collections: Collection[str] = ("params", "batch_stats"),
) -> Conversion:
    """Maps every tensor of `state` and compares with what is expected; reports instead of raising.

    Args:
      state: {module: {key: array}} in PyTorch's names and layouts.
      expected: what a complete state holds (`expected_tensors`).
      may_lack: says of (module, key) whether the state may be without it.
      collections: the Flax collections that must be filled; Adam's moments have "params" only.
    """
    result = Conversion({name: {} for name in collections}, {}, {}, {}, [], [])
    filled: dict[str, tuple[str, str]] = {}
    for module, tensors in state.items():
        if prefix := _foreign_prefix(module, tensors, expected):
            result.problems.append(
                f"{module}: all its {len(tensors)} keys begin with {prefix!r}: save them without it"
            )
            filled |= {
                want.target.name: (module, "")
                for (owner, _), want in expected.items()
                if owner == module and want.target is not None
            }
            continue
        for raw_key, raw_value in tensors.items():
            key = names.plain_key(raw_key)
            name, value = f"{module}/{raw_key}", np.asarray(raw_value)
            want, target = expected.get((module, key)), names.to_flax(module, key)
            reason = names.drop_reason(module, key)
            if reason is None and (target is None or want is None):
                result.problems.append(
                    f"{name}: unknown tensor {list(value.shape)}, no rule maps or drops it"
                )
                continue
            found = _differences(value, want)
            if key.endswith("running_var") and (negative := np.count_nonzero(value < 0)):
                found.append(f"{negative} of {value.size} variances are negative")
            if target is not None and target.collection not in collections:
                found = [f"no tensor of {', '.join(collections)}"]
            taken = filled.get(f"{module}/{key}" if target is None else target.name)
            if taken is not None:
                found.append(f"{'/'.join(taken)} already gave this tensor")
            if found:
                result.problems.append(f"{name}: {'; '.join(found)}")
            # A tensor that is there but wrong is reported once, not as missing too.
            filled[f"{module}/{key}" if target is None else target.name] = (module, raw_key)
            if reason is not None:
                result.dropped[module, key] = reason
                if want is not None:
                    result.unused.setdefault(module, {})[key] = value
            elif not found:
                result.sources[module, key] = target.name
                _put(result.variables, target, value)
    for (module, key), want in expected.items():
        if want.target is None or want.target.collection not in collections:
            continue
        if want.target.name not in filled:
            result.missing.append(want.target.name)
            if not may_lack(module, key):
                result.problems.append(
                    f"{module}/{key}: missing, {want.target.name} {list(want.shape)} stays unfilled"
                )
    return result


def in_released_order(state: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same state with modules and keys in the order in which PyTorch saves them."""
    flat = [(module, key) for module, tensors in state.items() for key in tensors]
    ordered: dict[str, dict[str, Any]] = {}
    for module, key in sorted(flat, key=lambda name: state_order(*name)):
        ordered.setdefault(module, {})[key] = state[module][key]
    return ordered


def _foreign_prefix(
    module: str, tensors: Mapping[str, Any], expected: Mapping[tuple[str, str], Expected]
) -> str:
    """What stands before the known keys in all keys of a module; empty where that is not so."""
    keys = [names.plain_key(key) for key in tensors]
    prefix = keys[0].partition(".")[0] + "." if keys else ""
    if not all(key.startswith(prefix) and (module, key) not in expected for key in keys):
        return ""
    return prefix if any((module, key[len(prefix) :]) in expected for key in keys) else ""


def _differences(value: np.ndarray, want: Expected | None) -> list[str]:
    if want is None:  # dropped by rule and of no known shape, such as the Kinetics classifier
        return [] if np.all(np.isfinite(value)) else [_not_finite(value)]
    found = []
    if value.shape != want.shape:
        found.append(f"shape: expected {list(want.shape)}, found {list(value.shape)}")
    if value.dtype != want.dtype:
        found.append(f"dtype: expected {want.dtype}, found {value.dtype}")
    if value.dtype.kind == "f" and not np.all(np.isfinite(value)):
        found.append(_not_finite(value))
    return found


def _not_finite(value: np.ndarray) -> str:
    bad = int(np.count_nonzero(~np.isfinite(value)))
    return f"{bad} of {value.size} values are NaN or infinite"


def _put(variables: dict[str, Any], target: names.Target, value: np.ndarray) -> None:
    node = variables[target.collection]
    for part in target.path[:-1]:
        node = node.setdefault(part, {})
    node[target.path[-1]] = _to_flax_layout(value, target.layout)


def _to_flax_layout(value: np.ndarray, layout: names.Layout) -> np.ndarray:
    if layout.axes is None:
        return value
    moved = value.transpose(layout.extra + layout.axes)
    return np.ascontiguousarray(moved.reshape(moved.shape[len(layout.extra) :]))


def _to_torch_layout(value: np.ndarray, layout: names.Layout) -> np.ndarray:
    if layout.axes is None:
        return value
    order = layout.extra + layout.axes
    whole = value.reshape((1,) * len(layout.extra) + value.shape)
    return np.ascontiguousarray(whole.transpose(np.argsort(order)))
