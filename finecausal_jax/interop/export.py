"""From a checkpoint back to a file: the reference's `.pth`, or safetensors without PyTorch."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from finecausal_jax.interop import workdirs
from finecausal_jax.interop.adam import adam_to_pytorch, find_moments
from finecausal_jax.interop.checkpoint_files import CONFIG_FORMAT, PROGRESS
from finecausal_jax.interop.conversion import flattened, model_from_json
from finecausal_jax.interop.expected import expected_tensors, flat_leaves, full_size
from finecausal_jax.interop.order import CAUSAL_MODULES, OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import State, WeightsError, to_pytorch
from finecausal_jax.models.finecausal import FineCausal

# What the reference starts with, for a run that never saw its training loop.
_NO_PROGRESS = {"epoch": 0, "epoch_best_aqa": 0, "rho_best": 0, "L2_min": 1000, "RL2_min": 1000}

# The reference's rates, which a resumed run sets anew from its schedule.
_BASE_MODEL_RATE, _RATE = 1e-4, 1e-3


@dataclasses.dataclass
class Export:
    """A checkpoint in the released layout.

    Attributes:
      state: {module: {key: array}}, every tensor of a released file.
      adam: {"mu", "nu", "count"}, or None.
      progress: epoch and best metrics.
      defaults: unused tensors that the checkpoint did not keep, "module/key", filled with zeros.
      optimizer_groups: whether the optimizer's groups are to be written without moments too.
    """

    state: State
    adam: dict[str, Any] | None
    progress: dict[str, int | float]
    defaults: list[str]
    optimizer_groups: bool


def model_of(
    workdir: str | pathlib.Path, config: ml_collections.ConfigDict | None = None
) -> FineCausal:
    """The FineCausal of a workdir.

    Args:
      workdir: the folder of a run or of a conversion.
      config: the run's config; None takes the one that the run left in its workdir, or for a
        conversion without one the arguments noted there, or else the full-size network.
    """
    from finecausal_jax import settings

    saved = pathlib.Path(workdir) / "config.json"
    if config is None and saved.is_file():
        config = ml_collections.ConfigDict(json.loads(saved.read_text()))
    if config is not None:
        return settings.make_model(config)
    arguments = workdirs.read_origin(workdir).get("model")
    return model_from_json(arguments) if arguments else full_size()


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
      ValueError: there is no such checkpoint, or it does not fit the model.
    """
    step = workdirs.find_step(workdir, which)
    names = (workdirs.VARIABLES, workdirs.UNUSED, workdirs.ADAM, workdirs.OPTIMISER)
    items = workdirs.load_items(workdir, step, names)
    variables = items[workdirs.VARIABLES]
    _check(f"{workdir}, checkpoint {step}", variables, expected_tensors(model))
    unused = flattened(items.get(workdirs.UNUSED, {}))
    adam = items.get(workdirs.ADAM) or find_moments(items.get(workdirs.OPTIMISER))
    state = to_pytorch(variables, unused)
    expected = expected_tensors(model)
    defaults = [
        f"{module}/{key}"
        for (module, key), want in expected.items()
        if want.target is None and key not in unused.get(module, {})
    ]
    if without_causal:
        state = {m: tensors for m, tensors in state.items() if m not in CAUSAL_MODULES}
    converted = workdirs.ADAM in items or workdirs.OPTIMISER not in items
    origin = workdirs.read_origin(workdir) if converted else {}
    progress = _NO_PROGRESS | origin.get("progress", {})
    return Export(state, adam, progress, defaults, optimizer_groups=not converted)


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
    # NumPy scalars where there is a fraction, as in released files.
    blob |= {
        name: np.float64(value) if isinstance(value, float) else value
        for name, value in export.progress.items()
    }
    # The reference saves the segmenter last.
    blob["segmenter"] = blob.pop("segmenter")

    def save(partial: pathlib.Path) -> None:
        with partial.open("wb") as file:  # given a path, PyTorch would write its name into the file
            torch.save(blob, file)

    _write_whole(path, save)


def write_safetensors(
    export: Export, path: str | pathlib.Path, *, model_arguments: Mapping[str, Any]
) -> None:
    """Writes safetensors, names "module/key" in PyTorch's layouts, and `config.json` beside it.

    Adam's moments are not written.

    Args:
      export: from `read_checkpoint`.
      path: written whole or not at all; `config.json` goes to the same folder.
      model_arguments: FineCausal's keyword arguments, for `config.json`.

    Raises:
      ValueError: the folder has a `config.json` that is not an export's.
    """
    from safetensors.numpy import save_file

    beside = pathlib.Path(path).with_name("config.json")
    if beside.exists() and f'"{CONFIG_FORMAT}"' not in beside.read_text():
        raise ValueError(
            f"{beside} is not an export's and would be replaced; choose another folder"
        )
    tensors = {
        f"{module}/{key}": np.asarray(value, order="C")
        for module, state in export.state.items()
        for key, value in state.items()
    }
    config = {
        "format": CONFIG_FORMAT,
        "layout": "PyTorch; names are module/key",
        "model": dict(model_arguments),
        "progress": {name: export.progress[name] for name in PROGRESS},
    }
    text = json.dumps(config, indent=2) + "\n"
    _write_whole(path, lambda partial: save_file(tensors, partial))
    _write_whole(beside, lambda partial: partial.write_text(text))


def _check(where: str, variables: Mapping[str, Any], expected: Mapping[Any, Any]) -> None:
    """Raises if a checkpoint is not of this model."""
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


def _group(torch: Any, rate: float, numbers: list[int]) -> dict[str, Any]:
    """A group with PyTorch's own defaults for Adam, whatever its version calls them."""
    group = torch.optim.Adam([torch.zeros(1)], lr=rate).state_dict()["param_groups"][0]
    return group | {"params": numbers}


def _write_whole(path: str | pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Writes beside `path` and renames: an interrupted write leaves nothing under its name."""
    path = pathlib.Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.partial.", dir=path.parent)
    os.close(handle)
    try:
        write(pathlib.Path(partial))
        # mkstemp makes private files; give this one the mode of any new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        os.replace(partial, path)
    finally:
        pathlib.Path(partial).unlink(missing_ok=True)
