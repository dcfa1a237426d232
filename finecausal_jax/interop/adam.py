"""Adam's moments between PyTorch's optimizer state and trees like the parameters.

PyTorch numbers parameters in the order of the optimizer's groups and keeps moments by number. The
reference makes one group a module, in `order.OPTIMIZER_GROUPS`; an optimizer built in the order of
the file's modules is recognised too. Which of the two a file has shows in the shapes, each of
which must fit; an order that fits neither is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finecausal_jax.interop.expected import Expected
from finecausal_jax.interop.order import MODULES, OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import convert_state, rename_to_pytorch

# What the moments mean depends on these, which are PyTorch's and optax's defaults alike.
SETTINGS = {
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0,
    "amsgrad": False,
    "maximize": False,
}
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

Names = list[tuple[str, str]]
MOST_STEPS = 10**9  # a few hundred thousand are usual; Adam's count here ends at 2**31


def adam_from_pytorch(
    optimizer: Any,
    modules: Sequence[str],
    expected: Mapping[tuple[str, str], Expected],
) -> tuple[dict[str, Any] | None, list[str]]:
    """Trees of moments, from the optimizer's state dict.

    Args:
      optimizer: {"state": {number: {"step", "exp_avg", "exp_avg_sq"}}, "param_groups": [...]}, with
        NumPy arrays; a file's content, so anything else may stand there.
      modules: the modules that the file has.
      expected: every tensor of a complete checkpoint.

    Returns:
      {"mu": tree, "nu": tree, "count": int32 []}, or None where no step was taken yet; and what is
      wrong, one line each. Parameters without moments (frozen ones, which PyTorch skips, and those
      of modules that the file does not have) get zeros; moments of parameters that the model does
      not hold are left out.
    """
    problems = _form_problems(optimizer)
    if problems:
        return None, problems
    states = optimizer["state"]
    if not states:
        return None, []
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    problems = _settings_problems(optimizer["param_groups"])
    ordered, more = _parameter_order(numbers, states, modules, expected)
    problems += more
    if problems:
        return None, problems

    steps = {str(np.asarray(state["step"]).item()) for state in states.values()}
    count = _whole(next(iter(steps)))
    if len(steps) > 1 or count is None:
        taken = ", ".join(sorted(step.removesuffix(".0") for step in steps)[:5])
        return None, [
            f"optimizer: expected one number of steps for all parameters, at most {MOST_STEPS}, "
            f"found {taken[:200]}"
        ]
    number_of = {name: number for number, name in zip(numbers, ordered, strict=True)}
    trees = []
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors: dict[str, dict[str, Any]] = {}
        for (module, key), want in expected.items():
            if want.target is not None and want.target.collection == "params":
                given = states.get(number_of.get((module, key), -1))
                value = np.zeros(want.shape, np.float32) if given is None else given[moment]
                tensors.setdefault(module, {})[key] = value
        result = convert_state(tensors, expected, collections=("params",))
        problems += [f"optimizer, {moment} of {line}" for line in result.problems]
        if moment == "exp_avg_sq":
            problems += [
                f"optimizer, {moment} of {module}/{key}: {negative} values are negative"
                for module, values in tensors.items()
                for key, value in values.items()
                if (negative := np.count_nonzero(np.asarray(value) < 0))
            ]
        trees.append(result.variables["params"])
    if problems:
        return None, problems
    return {"mu": trees[0], "nu": trees[1], "count": np.array(count, np.int32)}, []


def adam_to_pytorch(
    adam: Mapping[str, Any] | None,
    expected: Mapping[tuple[str, str], Expected],
    modules: Sequence[str],
) -> tuple[dict[int, dict[str, np.ndarray]], list[list[int]]]:
    """The optimizer's state by number, in the reference's groups.

    Args:
      adam: {"mu", "nu", "count"} as above; None gives groups without moments.
      expected: every tensor of a complete checkpoint.
      modules: the modules to number.

    Returns:
      {number: {"step", "exp_avg", "exp_avg_sq"}} with NumPy arrays in PyTorch's layouts, and each
      group's numbers.
    """
    moments = {
        name: rename_to_pytorch({"params": adam[tree]}) if adam else {}
        for name, tree in (("exp_avg", "mu"), ("exp_avg_sq", "nu"))
    }
    states: dict[int, dict[str, np.ndarray]] = {}
    groups, number = [], 0
    for group in OPTIMIZER_GROUPS:
        if group not in modules:
            continue
        names = _parameters([group], expected)
        for position, (module, key) in enumerate(names, start=number):
            if key in moments["exp_avg"].get(module, {}):
                # PyTorch counts in float32.
                states[position] = {"step": np.asarray(adam["count"], np.float32)} | {
                    name: tensors[module][key] for name, tensors in moments.items()
                }
        groups.append(list(range(number, number + len(names))))
        number += len(names)
    return states, groups


def find_moments(opt_state: Any) -> dict[str, Any] | None:
    """Adam's moments in an optax state as Orbax gives it back, nested dicts and lists.

    Args:
      opt_state: the state's content.

    Returns:
      {"mu", "nu", "count"}, trees like the parameters; None where there are none.
    """
    if isinstance(opt_state, Mapping):
        if {"mu", "nu", "count"} <= opt_state.keys():
            return {name: opt_state[name] for name in ("mu", "nu", "count")}
        children = list(opt_state.values())
    elif isinstance(opt_state, (list, tuple)):
        children = list(opt_state)
    else:
        return None
    found = (find_moments(child) for child in children)
    return next((adam for adam in found if adam), None)


def _parameter_order(
    numbers: Sequence[int],
    states: Mapping[int, Mapping[str, Any]],
    modules: Sequence[str],
    expected: Mapping[tuple[str, str], Expected],
) -> tuple[Names, list[str]]:
    """Which parameter each number is, or what speaks against every known order."""
    problems = []
    for what, order in (("reference's groups", OPTIMIZER_GROUPS), ("file's modules", MODULES)):
        names = _parameters([module for module in order if module in modules], expected)
        if len(names) != len(numbers):
            problems = [
                f"optimizer: numbers {len(numbers)} parameters, but the file's modules have "
                f"{len(names)}"
            ]
            break
        misfits = [
            f"optimizer, number {number}: moments of shape {list(found)}, but in the order of the "
            f"{what} it is {'/'.join(name)} of shape {list(expected[name].shape)}"
            for number, name in zip(numbers, names, strict=True)
            if number in states
            for found in (np.shape(states[number].get("exp_avg")),)
            if found != expected[name].shape
        ]
        if not misfits:
            return names, []
        problems += misfits[:3] + ([f"... and {len(misfits) - 3} more"] if len(misfits) > 3 else [])
    return [], problems


def _parameters(modules: Sequence[str], expected: Mapping[tuple[str, str], Expected]) -> Names:
    """Parameters of modules as PyTorch registers them: all tensors but BatchNorm's buffers."""
    by_module: dict[str, Names] = {module: [] for module in modules}
    for module, key in expected:
        if module in by_module and not key.endswith(_BUFFERS):
            by_module[module].append((module, key))
    return [name for names in by_module.values() for name in names]


def _form_problems(optimizer: Any) -> list[str]:
    """What keeps an entry of a file from being the state dict of an Adam."""
    if not isinstance(optimizer, Mapping) or not {"state", "param_groups"} <= optimizer.keys():
        return ["optimizer: expected a dict with state and param_groups"]
    states, groups = optimizer["state"], optimizer["param_groups"]
    if not isinstance(states, Mapping) or not isinstance(groups, list):
        return ["optimizer: expected state to be a dict and param_groups a list"]
    problems = [
        f"optimizer, group {index}: expected a dict with params, a list of numbers"
        for index, group in enumerate(groups)
        if not isinstance(group, Mapping)
        or not isinstance(group.get("params"), list)
        or not all(isinstance(number, int) for number in group["params"])
    ]
    for number, state in states.items():
        state = state if isinstance(state, Mapping) else {}
        lacking = [name for name in ("exp_avg", "exp_avg_sq") if not _is_array(state.get(name))]
        # Older versions of PyTorch count in plain integers.
        step = state.get("step")
        if not isinstance(step, (int, float)) and not (_is_array(step) and np.size(step) == 1):
            lacking.insert(0, "step")
        if lacking:
            problems.append(f"optimizer, number {number}: no {', '.join(lacking)} as Adam has")
    return problems


def _whole(step: str) -> int | None:
    """A number of steps, which newer versions of PyTorch count in floating-point numbers."""
    try:
        number = float(step)
    except (ValueError, OverflowError):
        return None
    return int(number) if 0 <= number <= MOST_STEPS and number.is_integer() else None


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic))


def _settings_problems(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    problems = []
    for index, group in enumerate(groups):
        for name, want in SETTINGS.items():
            found = group.get(name, want)
            found = list(found) if isinstance(found, (list, tuple)) else found
            if found != want:
                problems.append(
                    f"optimizer, group {index}: {name} {found}, expected {want} as in the reference"
                )
    return problems
