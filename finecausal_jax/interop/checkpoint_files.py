"""Reading weight files that come from elsewhere: `.pth` without running anything, `.safetensors`.

What a file is shows in its keys, not in its name. A `.pth` holds a pickle, of which only tensors,
containers and NumPy numbers are read (`pytorch_files`); all else is refused and never runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from finecausal_jax.interop.names import plain_key
from finecausal_jax.interop.order import CAUSAL_MODULES, MODULES
from finecausal_jax.interop.pytorch import State, WeightsError
from finecausal_jax.interop.pytorch_files import BFloat16, read_pytorch_file
from finecausal_jax.runtime.json_files import read_json
from finecausal_jax.runtime.unpickling import Refused

FINECAUSAL, FINEPARSER = "FineCausal checkpoint", "FineParser checkpoint"
KINETICS, RESNET = "Kinetics I3D", "ImageNet ResNet-34"

CONFIG_FORMAT = "finecausal-jax"
CHECKSUM = "sha256"  # in the metadata of a safetensors file, a format without checksums of its own

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
      config: the `config.json` beside an exported safetensors file, see `read_config_beside`;
        empty where there is no such file.
    """

    path: pathlib.Path
    kind: str
    state: State
    optimizer: Any
    progress: dict[str, int | float]
    problems: list[str]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_weights(path: str | pathlib.Path) -> WeightsFile:
    """Reads a `.pth` or `.safetensors` file and tells from its keys what it is.

    Args:
      path: the file; anything but `.safetensors` is read as a `.pth`. Neither needs PyTorch.

    Raises:
      WeightsError: the file is missing, truncated, not of a known kind, holds tensors that NumPy
        has no type for, or asks to run code.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightsError(str(path), ["there is no such file"])
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    blob = _from_pytorch(path)
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
    keys = {plain_key(str(key)) for key in blob}
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
        problems.append("some keys are there both with and without a prefix such as module.")
    state = {
        module: {
            prefix + plain_key(str(key)): value
            for key, value in blob.items()
            if _is_tensor(key, value)
        }
        for module, prefix in places.items()
    }
    return WeightsFile(path, kind, state, None, {}, problems)


def _from_pytorch(path: pathlib.Path) -> Any:
    try:
        content = read_pytorch_file(path)
    except OSError as error:
        raise WeightsError(str(path), [f"cannot be read ({error.strerror})"]) from error
    except Refused as error:
        raise WeightsError(str(path), [_reason(str(error))]) from error
    problems: list[str] = []

    def look(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                look(one, f"{name}{key}/")
        elif isinstance(value, BFloat16):
            problems.append(f"{name[:-1]}: torch.bfloat16 tensor, expected float32")

    look(content, "")
    if problems:
        raise WeightsError(str(path), problems)
    return content


def _reason(refused: str) -> str:
    """Why a file was refused, and what to do about it."""
    if refused.startswith("is no "):
        return f"cannot be read as a PyTorch file, it is truncated or none: it {refused}"
    if refused.startswith(("asks for", "calls")):
        return (
            f"its pickle {refused}. Expected are tensors, containers and NumPy numbers: of a "
            "model, save its state_dict()"
        )
    return f"it {refused}"


def _from_safetensors(path: pathlib.Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    tensors, problems = {}, []
    try:
        with safe_open(path, framework="numpy") as file:
            written = (file.metadata() or {}).get(CHECKSUM)
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
    if written is not None and written != checksum_of(tensors):
        raise WeightsError(str(path), ["it is damaged, its bytes have changed: export it again"])
    bfloat16 = np.dtype(jnp.bfloat16)
    tensors = {
        name: value.astype(np.float32) if value.dtype == bfloat16 else value
        for name, value in tensors.items()
    }
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
    result.config = config
    return result


def checksum_of(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of tensors with their names, types and shapes, in whatever order."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        # As bytes: NumPy hands out no buffer of bfloat16.
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read_config_beside(path: pathlib.Path) -> dict[str, Any]:
    """The `config.json` that an export wrote beside a file; empty where there is none of its kind.

    Returns:
      "file", its name; "model", FineCausal's keyword arguments; "progress", epoch and best metrics;
      of a run here also "step", "preprocessing" (the keyword arguments of `Preprocessing`) and
      "settings", the run's. Any may be missing.

    Raises:
      WeightsError: it is not JSON, or an entry of an export's is not what it has to be.
    """
    config = path.with_name("config.json")
    if not config.is_file():
        return {}
    content = read_json(config, "what an export wrote, or other JSON", "export again")
    if not isinstance(content, dict) or content.get("format") != CONFIG_FORMAT:
        return {}
    kinds = {
        "file": str,
        "model": dict,
        "progress": dict,
        "step": int,
        "preprocessing": dict,
        "settings": dict,
    }
    problems = [
        f"{name}: expected a {kind.__name__}, found {_kind_of(content[name])}"
        for name, kind in kinds.items()
        if name in content and not isinstance(content[name], kind)
    ]
    if problems:
        raise WeightsError(str(config), problems)
    return content


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
