"""From a weights file to a checkpoint that training, evaluation and every later command take."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from finecausal_jax.interop import checkpoint_files, workdirs
from finecausal_jax.interop.adam import adam_from_pytorch
from finecausal_jax.interop.checkpoint_files import WeightsFile, read_weights
from finecausal_jax.interop.expected import (
    FRAME_SIZE,
    Expected,
    expected_tensors,
    flat_leaves,
    full_size,
)
from finecausal_jax.interop.order import CAUSAL_MODULES, MODULES
from finecausal_jax.interop.pytorch import Conversion, State, WeightsError, convert_state
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.initial_values import init_variables
from finecausal_jax.runtime.checkpoints import ADAM, VARIABLES


@dataclasses.dataclass
class Converted:
    """Everything that a converted checkpoint holds, and where it came from.

    Attributes:
      source: what the file was; its tensors are let go of.
      model: the FineCausal that it fills.
      variables: {"params", "batch_stats"}, complete, NumPy arrays.
      adam: {"mu", "nu", "count"}, or None where the file has no moments.
      unused: tensors that the model does not hold, kept for the way back.
      fresh: names of the Flax leaves that the file does not fill.
      conversion: what became of each tensor.
      expected: every tensor of a complete released checkpoint.
    """

    source: WeightsFile
    model: FineCausal
    variables: dict[str, Any]
    adam: dict[str, Any] | None
    unused: State
    fresh: list[str]
    conversion: Conversion
    expected: Mapping[tuple[str, str], Expected]


def convert_file(
    path: str | pathlib.Path,
    *,
    model: FineCausal | None = None,
    drop_optimizer: bool = False,
    frame_size: int = FRAME_SIZE,
    seed: int = 0,
    complete: bool = False,
) -> Converted:
    """Reads a weights file and completes it to a whole network.

    Args:
      path: a FineCausal or FineParser `best.pth`, Kinetics I3D, ImageNet ResNet-34, or a
        `.safetensors` file of one of these.
      model: the FineCausal to fill; None takes the one that an exported file's `config.json`
        describes, else the full-size one.
      drop_optimizer: leave Adam's moments out.
      frame_size: of the fresh parts' initialisation, pixels.
      seed: of the fresh parts' initial values.
      complete: refuse a file that leaves parts fresh.

    Returns:
      The network; nothing is written.

    Raises:
      WeightsError: the file cannot be read or does not fit the model; all offending keys.
    """
    source = read_weights(path)
    if model is None:
        beside = str(source.path.with_name("config.json"))
        arguments = source.config.get("model")
        model = model_from_json(arguments, beside) if arguments else full_size()
    expected = expected_tensors(model)
    conversion = convert_state(source.state, expected, may_lack=_may_lack(source.kind))
    problems = source.problems + conversion.problems
    modules = [module for module in MODULES if module in source.state]
    # Let go of what was copied as soon as it was: nothing but the file's moments is held twice.
    source.state = {}
    adam = None
    if source.optimizer is not None and not drop_optimizer:
        adam, wrong = adam_from_pytorch(source.optimizer, modules, expected)
        if wrong:
            problems += [*wrong, "(--drop_optimizer converts the weights without the optimizer)"]
    source.optimizer = None
    if complete and conversion.missing:
        problems.append(
            f"it is no whole network: {source.kind}, which lacks {len(conversion.missing)} arrays, "
            f"the first being {conversion.missing[0]}"
        )
    if problems:
        raise WeightsError(str(path), problems)
    variables = conversion.variables
    if conversion.missing:
        key = jax.random.key(seed)
        fresh = init_variables(model, frame_size, key, wanted=set(conversion.missing))
        variables = merged(jax.tree.map(np.asarray, fresh), variables)
    return Converted(
        source, model, variables, adam, conversion.unused, conversion.missing, conversion, expected
    )


def save_converted(converted: Converted, workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes a converted network as checkpoint 0 of a workdir, all of it or nothing.

    Args:
      converted: from `convert_file`.
      workdir: a run's folder without checkpoints; made where missing.

    Returns:
      The checkpoint's folder.

    Raises:
      InputError: the workdir already has checkpoints.
    """
    items = {VARIABLES: converted.variables, workdirs.UNUSED: nested(converted.unused)}
    if converted.adam is not None:
        items[ADAM] = converted.adam
    origin = {
        "source": converted.source.path.name,
        "kind": converted.source.kind,
        "progress": converted.source.progress,
        "fresh": converted.fresh,
        "optimizer": converted.adam is not None,
        "model": model_to_json(converted.model),
    }
    return workdirs.save_new(workdir, step=0, items=items, origin=origin)


def load_trunks(
    *,
    kinetics: str | pathlib.Path | None = None,
    resnet: str | pathlib.Path | None = None,
    model: FineCausal | None = None,
) -> dict[str, Any]:
    """Weights of pretrained trunks, as a part of the model's variables.

    Args:
      kinetics: Kinetics I3D, for `base_model` and the segmenter's trunk; None or "" for none.
      resnet: torchvision's ResNet-34, for `video_encoder/backbone`; None or "" likewise. Both
        `.pth` or `.safetensors`; their classifiers are dropped.
      model: the FineCausal they are for; None means the full-size one.

    Returns:
      {"params", "batch_stats"} with only what the files fill, NumPy arrays; empty without files.

    Raises:
      WeightsError: a file cannot be read, is something else or does not fit; all offending keys.
    """
    variables: dict[str, Any] = {}
    for path, kind in ((kinetics, checkpoint_files.KINETICS), (resnet, checkpoint_files.RESNET)):
        if path:
            variables = merged(variables, _load_trunk(path, kind, model))
    return variables


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of both nested dicts; where both have one, the second's."""
    result = dict(first)
    for key, value in second.items():
        nested_too = isinstance(value, Mapping) and key in result
        result[key] = merged(result[key], value) if nested_too else value
    return result


def model_from_json(arguments: Mapping[str, Any], where: str) -> FineCausal:
    """A FineCausal from keyword arguments as `model_to_json` gives them.

    Args:
      arguments: plain values.
      where: the file they are from.

    Raises:
      WeightsError: FineCausal has no such argument, or no such dtype.
    """
    known = {field.name for field in dataclasses.fields(FineCausal)} - {"parent", "name"}
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise WeightsError(where, [f"model.{name}: no such argument" for name in unknown])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    if "dtype" in values:
        try:
            values["dtype"] = np.dtype(values["dtype"])
        except TypeError as error:
            raise WeightsError(where, [f"model.dtype: {error}"]) from error
    return FineCausal(**values)


def model_to_json(model: FineCausal) -> dict[str, Any]:
    """FineCausal's keyword arguments as plain values."""
    values = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    values["dtype"] = np.dtype(values["dtype"]).name
    return values


def nested(state: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{module: {"a.b.c": array}} as nested dicts, since Orbax joins names with dots itself."""
    tree: dict[str, Any] = {}
    for module, tensors in state.items():
        for key, value in tensors.items():
            *parents, leaf = key.split(".")
            node = tree.setdefault(module, {})
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def flattened(tree: Mapping[str, Any]) -> State:
    """The inverse of `nested`."""
    state: State = {}
    for (module, *key), value in flat_leaves(tree):
        state.setdefault(module, {})[".".join(key)] = np.asarray(value)
    return state


def _load_trunk(path: str | pathlib.Path, kind: str, model: FineCausal | None) -> dict[str, Any]:
    source = read_weights(path)
    if source.kind != kind:
        raise WeightsError(str(path), [f"expected {kind}, found {source.kind}"])
    conversion = convert_state(
        source.state, expected_tensors(model), may_lack=_may_lack(source.kind)
    )
    problems = source.problems + conversion.problems
    if problems:
        raise WeightsError(str(path), problems)
    return conversion.variables


def _may_lack(kind: str) -> Callable[[str, str], bool]:
    """Which tensors a file of some kind need not have; they start fresh."""
    if kind == checkpoint_files.FINEPARSER:
        return lambda module, key: module in CAUSAL_MODULES
    if kind == checkpoint_files.KINETICS:
        return lambda module, key: (
            not (
                module in ("base_model", "segmenter")
                and any(layer in key for layer in ("conv3d_", "mixed_"))
            )
        )
    if kind == checkpoint_files.RESNET:
        return lambda module, key: not (module == "video_encoder" and key.startswith("backbone."))
    return lambda module, key: False
