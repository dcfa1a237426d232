"""From a checkpoint back to a file: the reference's `.pth`, or safetensors without PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from finecausal_jax.interop import workdirs
from finecausal_jax.interop.adam import adam_to_pytorch, find_moments
from finecausal_jax.interop.checkpoint_files import (
    CHECKSUM,
    CONFIG_FORMAT,
    PROGRESS,
    checksum_of,
    read_config_beside,
)
from finecausal_jax.interop.conversion import flattened
from finecausal_jax.interop.expected import expected_tensors, flat_leaves
from finecausal_jax.interop.order import CAUSAL_MODULES, OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import State, WeightsError, to_pytorch
from finecausal_jax.interop.weights import Weights
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.runtime.checkpoints import ADAM, FOLDER, OPTIMISER, VARIABLES
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically

# What the reference starts with, where neither a converted file nor the run's metrics tell.
_NO_PROGRESS = {"epoch": 0, "epoch_best_aqa": 0, "rho_best": 0, "L2_min": 1000, "RL2_min": 1000}

# The reference's rates, which a resumed run sets anew from its schedule.
_BASE_MODEL_RATE, _RATE = 1e-4, 1e-3


@dataclasses.dataclass
class Export:
    """A checkpoint in the released layout.

    Attributes:
      step: number of the checkpoint.
      state: {module: {key: array}}, every tensor of a released file.
      adam: {"mu", "nu", "count"}, or None.
      progress: epoch and best metrics, as `PROGRESS`: the last whole epoch, counted from 0;
        Spearman; errors not times 100.
      unknown: names in `progress` of which nothing is known; what the reference starts with.
      defaults: unused tensors that the checkpoint did not keep, "module/key", filled with zeros.
      optimizer_groups: whether the optimizer's groups are to be written without moments too.
    """

    step: int
    state: State
    adam: dict[str, Any] | None
    progress: dict[str, int | float]
    unknown: list[str]
    defaults: list[str]
    optimizer_groups: bool


def read_checkpoint(
    workdir: str | pathlib.Path,
    *,
    which: str = "best",
    model: FineCausal | None = None,
    without_causal: bool = False,
) -> Export:
    """Reads a checkpoint into the released layout.

    Args:
      workdir: the folder of a run or of a conversion.
      which: "best", "latest" or a step.
      model: the FineCausal it belongs to; None means the full-size one.
      without_causal: leave out what FineCausal added to FineParser.

    Raises:
      InputError: there is no such checkpoint, or it does not fit the model.
    """
    step = workdirs.find_step(workdir, which)
    items = workdirs.load_items(workdir, step, (VARIABLES, workdirs.UNUSED, ADAM, OPTIMISER))
    variables = items[VARIABLES]
    _check(f"{workdir}, checkpoint {step}", variables, expected_tensors(model))
    unused = flattened(items.get(workdirs.UNUSED, {}))
    adam = items.get(ADAM) or find_moments(items.get(OPTIMISER))
    converted = ADAM in items or OPTIMISER not in items
    if converted:
        known = workdirs.read_origin(workdir).get("progress", {})
    else:
        known = _measured(workdirs.read_metrics(workdir, step), step)
    export = _in_released_layout(variables, unused, model, known, without_causal)
    return dataclasses.replace(export, step=step, adam=adam, optimizer_groups=not converted)


def of_weights(weights: Weights, *, without_causal: bool = False) -> Export:
    """Weights that `weights.load` read, in the released layout; they have no moments."""
    known = weights.config.get("progress", {})
    export = _in_released_layout(
        weights.variables, weights.unused, weights.model, known, without_causal
    )
    return dataclasses.replace(export, step=weights.step or 0)


def _in_released_layout(
    variables: Mapping[str, Any],
    unused: State,
    model: FineCausal | None,
    known: Mapping[str, int | float],
    without_causal: bool,
) -> Export:
    """A network as a released file has it, without moments; `known` of its progress."""
    state = to_pytorch(variables, unused)
    defaults = [
        f"{module}/{key}"
        for (module, key), want in expected_tensors(model).items()
        if want.target is None and key not in unused.get(module, {})
    ]
    if without_causal:
        state = {m: tensors for m, tensors in state.items() if m not in CAUSAL_MODULES}
    return Export(
        step=0,
        state=state,
        adam=None,
        progress={**_NO_PROGRESS, **known},
        unknown=[name for name in PROGRESS if name not in known],
        defaults=defaults,
        optimizer_groups=False,
    )


def write_pytorch(
    export: Export, path: str | pathlib.Path, *, model: FineCausal | None = None
) -> None:
    """Writes a `.pth` that loads strictly into the reference's modules.

    Args:
      export: from `read_checkpoint`.
      path: written whole or not at all.
      model: as for `read_checkpoint`.

    Raises:
      WeightsError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            str(path),
            [
                "writing a .pth needs PyTorch, which is not installed: pip install -e .[torch], or "
                "--format=safetensors"
            ],
        ) from error

    def tensor(value: np.ndarray) -> Any:
        # Leaves that need no transposing are read-only views, which PyTorch warns of: copied.
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))

    blob: dict[str, Any] = {
        module: {key: tensor(value) for key, value in tensors.items()}
        for module, tensors in export.state.items()
    }
    optimizer: dict[str, Any] = {"state": {}, "param_groups": []}
    if export.adam is not None or export.optimizer_groups:
        states, groups = adam_to_pytorch(export.adam, expected_tensors(model), list(export.state))
        modules = [module for module in OPTIMIZER_GROUPS if module in export.state]
        optimizer["state"] = {
            number: {name: tensor(value) for name, value in state.items()}
            for number, state in states.items()
        }
        optimizer["param_groups"] = [
            _group(torch, _BASE_MODEL_RATE if module == "base_model" else _RATE, numbers)
            for module, numbers in zip(modules, groups, strict=True)
        ]
    blob["optimizer"] = optimizer
    # Released files hold NumPy scalars here, which `torch.load` refuses unless told otherwise.
    # Python's numbers serve the reference as well and load everywhere.
    blob |= {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in export.progress.items()
    }
    # The reference saves the segmenter last.
    blob["segmenter"] = blob.pop("segmenter")

    def save(partial: pathlib.Path) -> None:
        with partial.open("wb") as file:  # given a path, PyTorch would write its name into the file
            torch.save(blob, file)

    write_atomically(path, save)


def write_safetensors(
    export: Export,
    path: str | pathlib.Path,
    *,
    model_arguments: Mapping[str, Any],
    besides: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> None:
    """Writes safetensors, names "module/key" in PyTorch's layouts, and `config.json` beside it.

    Adam's moments are not written. `config.json` belongs to this one file, which it names: settings
    that change no shape could not be told to be another network's.

    Args:
      export: from `read_checkpoint`.
      path: written whole or not at all; `config.json` goes to the same folder.
      model_arguments: FineCausal's keyword arguments, for `config.json`.
      besides: its entries "preprocessing" and "settings", where they are known.
      dtype: of what has a fraction: "float32", or "bfloat16" for half the size, rounded.

    Raises:
      InputError: the folder is a workdir, or has a `config.json` of something else.
    """
    from safetensors.numpy import save_file

    path = pathlib.Path(path)
    refuse_foreign_config(path)
    tensors = {
        f"{module}/{key}": _stored(np.asarray(value), dtype)
        for module, state in export.state.items()
        for key, value in state.items()
    }
    config = {
        "format": CONFIG_FORMAT,
        "file": path.name,
        "layout": "PyTorch; names are module/key",
        "step": export.step,
        "model": dict(model_arguments),
        **(besides or {}),
        "progress": {name: export.progress[name] for name in PROGRESS},
    }
    text = json.dumps(config, indent=2) + "\n"

    def save(partial: pathlib.Path) -> None:
        save_file(tensors, partial, metadata={CHECKSUM: checksum_of(tensors)})
        # Here, so that the two files are replaced one right after the other, when both are written.
        write_atomically(path.with_name("config.json"), lambda other: other.write_text(text))

    write_atomically(path, save)


def _stored(value: np.ndarray, dtype: str) -> np.ndarray:
    wanted = jnp.dtype(dtype) if value.dtype == np.float32 else value.dtype
    return np.asarray(value, wanted, order="C")


def refuse_foreign_config(path: pathlib.Path) -> None:
    """Raises InputError where an export to `path` would put its `config.json` over another one."""
    if (path.parent / FOLDER).exists() or (path.parent / workdirs.ORIGIN_FILE).exists():
        raise InputError(
            f"{path.parent} is a workdir, whose config.json is the run's own; choose another "
            f"folder for {path.name} and its config.json"
        )
    beside = path.with_name("config.json")
    if not beside.exists():
        return
    config: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # it is not even JSON
        config = read_config_beside(path)
    if not config:
        raise InputError(
            f"{beside} is not an export's and would be replaced; choose another folder"
        )
    # One without "file" is from before it was noted: anybody's here.
    others = [other.name for other in path.parent.glob("*.safetensors") if other.name != path.name]
    owners = [config["file"]] if "file" in config else others
    if owners and owners != [path.name]:
        raise InputError(
            f"{beside} belongs to {', '.join(sorted(owners))} and would be replaced by the one of "
            f"{path.name}: choose another folder, or the same name to replace both files"
        )


def _measured(rows: Sequence[Mapping[str, Any]], step: int) -> dict[str, int | float]:
    """What the reference notes of its training, as far as a run's metrics tell.

    Args:
      rows: of `metrics.jsonl`, up to the step.
      step: micro-batches done.
    """
    known: dict[str, int | float] = {}
    epochs = [row["step"] / row["train/epoch"] for row in rows if row.get("train/epoch")]
    best = max(
        (row for row in rows if row.get("test/spearman") is not None),
        key=lambda row: row["test/spearman"],
        default=None,
    )
    if best is not None:
        known["rho_best"] = best["test/spearman"]
    if epochs:
        # The reference goes on with the epoch after the one that it notes, and counts from 0.
        per_epoch = round(epochs[-1])
        known["epoch"] = step // per_epoch - 1
        if best is not None:
            known["epoch_best_aqa"] = best["step"] // per_epoch - 1
    errors = [row["test/r_l2_x100"] for row in rows if row.get("test/r_l2_x100") is not None]
    if errors:
        known["RL2_min"] = min(errors) / 100
    return known


def _check(where: str, variables: Mapping[str, Any], expected: Mapping[Any, Any]) -> None:
    """Raises if a checkpoint is not of this model, or holds values that no network has."""
    found = {"/".join(path): leaf.shape for path, leaf in flat_leaves(variables)}
    wanted = {}
    for want in expected.values():
        if want.target is not None:
            axes = want.target.layout
            order = None if axes.axes is None else axes.extra + axes.axes
            shape = want.shape if order is None else tuple(want.shape[i] for i in order)
            wanted[want.target.name] = shape[len(axes.extra) :]
    problems = [f"{name}: missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name}: not in this model" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name}: expected {list(wanted[name])}, found {list(found[name])}"
        for name in wanted.keys() & found.keys()
        if tuple(wanted[name]) != tuple(found[name])
    ]
    if problems:
        problems.append("(give the run's own --config)")
        raise WeightsError(where, sorted(problems))
    for path, leaf in flat_leaves(variables):
        if bad := np.count_nonzero(~np.isfinite(leaf)):
            problems.append(
                f"{'/'.join(path)}: {bad} of {np.size(leaf)} values are NaN or infinite"
            )
        elif path[-1] == "var" and (bad := np.count_nonzero(np.asarray(leaf) < 0)):
            problems.append(f"{'/'.join(path)}: {bad} of {np.size(leaf)} variances are negative")
    if problems:
        raise WeightsError(where, problems)


def _group(torch: Any, rate: float, numbers: list[int]) -> dict[str, Any]:
    """A group with PyTorch's own defaults for Adam, whatever its version calls them."""
    group = torch.optim.Adam([torch.zeros(1)], lr=rate).state_dict()["param_groups"][0]
    return group | {"params": numbers}
