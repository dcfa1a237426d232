"""Reading weight files that come from elsewhere: `.pth` without running anything, `.safetensors`.

What a file is shows in its keys, not in its name. A `.pth` is a pickle: it is read with PyTorch's
restricted unpickler (`weights_only=True`, always), which builds tensors, containers and the few
NumPy scalars allowed here by name, and refuses all else before it could run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finecausal_jax.interop.order import CAUSAL_MODULES, MODULES
from finecausal_jax.interop.pytorch import State, WeightsError

FINECAUSAL, FINEPARSER = "FineCausal checkpoint", "FineParser checkpoint"
KINETICS, RESNET = "Kinetics I3D", "ImageNet ResNet-34"

CONFIG_FORMAT = "finecausal-jax"

# What a released checkpoint holds besides state dicts and the optimizer: numbers.
PROGRESS = ("epoch", "epoch_best_aqa", "rho_best", "L2_min", "RL2_min")


@dataclasses.dataclass
class WeightsFile:
    """The content of a weights file.

    Attributes:
      path: the file.
      kind: one of FINECAUSAL, FINEPARSER, KINETICS, RESNET.
      state: {module: {key: array}} under a released checkpoint's names; a Kinetics trunk appears
        twice, under `base_model` and `segmenter`.
      optimizer: the file's entry of that name, unchecked, with NumPy arrays; None where there is
        none. A state dict: {"state": {number: {...}}, "param_groups": [...]}.
      progress: epoch and best metrics, where present.
      problems: entries that do not belong into such a file, one line each.
      model: FineCausal's keyword arguments from the `config.json` beside an exported safetensors
        file; None where there is no such file.
    """

    path: pathlib.Path
    kind: str
    state: State
    optimizer: Any
    progress: dict[str, int | float]
    problems: list[str]
    model: dict[str, Any] | None = None


def read_weights(path: str | pathlib.Path) -> WeightsFile:
    """Reads a `.pth` or `.safetensors` file and tells from its keys what it is.

    Args:
      path: the file; `.safetensors` needs no PyTorch, anything else is read as a `.pth`.

    Raises:
      WeightsError: the file is missing, truncated, not of a known kind, holds tensors that NumPy
        has no type for, or asks to run code.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightsError(str(path), ["there is no such file"])
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    blob = _plain(path, _load_pickle(path))
    if not isinstance(blob, dict):
        raise WeightsError(str(path), [f"expected a dict of tensors, found {_kind_of(blob)}"])
    if any(name in blob for name in MODULES):
        return _released(path, blob)
    return _single_network(path, blob)


def _released(path: pathlib.Path, blob: Mapping[str, Any]) -> WeightsFile:
    """Sorts a dict of state dicts."""
    problems, state, progress = [], {}, {}
    for name, value in blob.items():
        if name == "optimizer":
            continue  # `adam_from_pytorch` looks into it, where it is wanted
        if name in PROGRESS:
            if isinstance(value, (int, float, np.number)):
                progress[name] = value.item() if isinstance(value, np.number) else value
            else:
                problems.append(f"{name}: expected a number, found {_kind_of(value)}")
        elif not isinstance(value, dict):
            problems.append(f"{name}: unknown entry, {_kind_of(value)}")
        elif name not in MODULES:
            problems.append(f"{name}: unknown module of {len(value)} tensors")
        else:
            problems += _not_tensors(value, f"{name}/")
            state[name] = {k: v for k, v in value.items() if _is_tensor(k, v)}
    causal = any(name in state for name in CAUSAL_MODULES)
    return WeightsFile(
        path,
        kind=FINECAUSAL if causal else FINEPARSER,
        state=state,
        optimizer=blob.get("optimizer"),
        progress=progress,
        problems=problems,
    )


def _single_network(path: pathlib.Path, blob: Mapping[str, Any]) -> WeightsFile:
    """Recognises a trunk's own state dict by its first layer."""
    keys = {str(key).removeprefix("module.") for key in blob}
    if any(key.startswith("conv3d_1a_7x7.") for key in keys):
        kind, places = KINETICS, {"base_model": "backbone.", "segmenter": ""}
    elif {"conv1.weight", "bn1.weight"} <= keys and any(k.startswith("layer1.0.") for k in keys):
        kind, places = RESNET, {"video_encoder": "backbone."}
    else:
        shown = ", ".join(sorted(keys)[:5]) or "nothing"
        raise WeightsError(
            str(path),
            [
                "not a known checkpoint: expected the modules of a FineCausal or FineParser "
                "best.pth (base_model, psnet_model, ...), the layers of Kinetics I3D "
                f"(conv3d_1a_7x7...) or of torchvision's ResNet-34 (conv1.weight, layer1.0...), "
                f"found {len(keys)} keys: {shown}{', ...' if len(keys) > 5 else ''}"
            ],
        )
    problems = list(_not_tensors(blob, ""))
    if len(keys) < len(blob):
        problems.append("some keys are there both with and without the prefix module.")
    state = {
        module: {
            prefix + str(key).removeprefix("module."): value
            for key, value in blob.items()
            if _is_tensor(key, value)
        }
        for module, prefix in places.items()
    }
    return WeightsFile(path, kind, state, None, {}, problems)


def _load_pickle(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            str(path),
            [
                "reading a .pth needs PyTorch, which is not installed: pip install -e .[torch], or "
                "use a .safetensors file"
            ],
        ) from error
    try:
        with torch.serialization.safe_globals(_allowed_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, to PyTorch's developers
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can fail in any way
        raise WeightsError(str(path), [_reason(error)]) from error


def _reason(error: Exception) -> str:
    """PyTorch's reason for not reading a file, without its advice to switch the protection off."""
    asked = re.search(r"nsupported (?:global: )?GLOBAL ([\w.]+)", str(error))
    if asked:
        return (
            f"its pickle asks for {asked.group(1)}, which is not on the list of allowed names "
            "(tensors, containers, NumPy numbers); nothing of it was run"
        )
    lines = [line.strip() for line in str(error).splitlines()]
    advice = ("weights_only", "documentation")
    kept = [line for line in lines if line and not any(word in line for word in advice)]
    reason = kept[0][:200] if kept else type(error).__name__
    return f"cannot be read as a PyTorch file, it is truncated or none: {reason}"


def _allowed_scalars() -> list[Any]:
    """NumPy's way of unpickling scalars, by its names in NumPy 1 and 2, and the numbers' types."""
    scalar = np._core.multiarray.scalar
    numbers = [np.float64, np.float32, np.int64, np.int32, np.bool_]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(number)) for number in numbers),
    ]


def _from_safetensors(path: pathlib.Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    tensors, problems = {}, []
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                try:
                    tensors[name] = file.get_tensor(name)
                except (TypeError, AttributeError, KeyError, SafetensorError) as error:
                    problems.append(f"{name}: not readable with NumPy ({error}), expected float32")
    except (SafetensorError, OSError) as error:
        reason = f"cannot be read as safetensors, it is truncated or none: {error}"
        raise WeightsError(str(path), [reason]) from error
    if problems:
        raise WeightsError(str(path), problems)
    if not any("/" in name for name in tensors):
        return _single_network(path, tensors)
    blob: dict[str, Any] = {}
    for name, value in tensors.items():
        module, _, key = name.partition("/")
        blob.setdefault(module, {})[key] = value
    config = read_config_beside(path)
    owner = config.get("file", path.name)  # exports did not note it at first
    if owner != path.name:
        raise WeightsError(
            str(path.with_name("config.json")),
            [
                f"file: expected {path.name}, found {owner}: it describes the network of another "
                "file. Keep each export in a folder of its own with its config.json; where the "
                "file was renamed, rename it in config.json too"
            ],
        )
    blob |= config.get("progress", {})
    result = _released(path, blob)
    result.model = config.get("model")
    return result


def read_config_beside(path: pathlib.Path) -> dict[str, Any]:
    """The `config.json` that an export wrote beside a file; empty where there is none of its kind.

    Raises:
      WeightsError: it is not JSON, or an entry of an export's is not what it has to be.
    """
    config = path.with_name("config.json")
    if not config.is_file():
        return {}
    try:
        content = json.loads(config.read_text())
    except ValueError as error:  # of UTF-8 too
        raise WeightsError(str(config), [f"not JSON: {error}"]) from error
    if not isinstance(content, dict) or content.get("format") != CONFIG_FORMAT:
        return {}
    kinds = {"file": str, "model": dict, "progress": dict}
    problems = [
        f"{name}: expected a {kind.__name__}, found {_kind_of(content[name])}"
        for name, kind in kinds.items()
        if name in content and not isinstance(content[name], kind)
    ]
    if problems:
        raise WeightsError(str(config), problems)
    return content


def _plain(path: pathlib.Path, value: Any) -> Any:
    """Tensors as NumPy arrays that share their memory; containers as dicts and lists."""
    problems: list[str] = []

    def convert(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {key: convert(item, f"{name}/{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [convert(item, f"{name}/{i}") for i, item in enumerate(value)]
        if hasattr(value, "detach"):
            with contextlib.suppress(TypeError, RuntimeError):
                return value.detach().numpy()
            problems.append(f"{name[1:]}: {value.dtype} {value.layout} tensor, expected float32")
        return value

    plain = convert(value, "")
    if problems:
        raise WeightsError(str(path), problems)
    return plain


def _not_tensors(tensors: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in tensors.items():
        if not isinstance(key, str):
            yield f"{prefix}{key}: expected names of tensors, found {_kind_of(key)}"
        elif not isinstance(value, np.ndarray):
            yield f"{prefix}{key}: expected a tensor, found {_kind_of(value)}"


def _is_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, np.ndarray)


def _kind_of(value: Any) -> str:
    return f"a {type(value).__name__}"
