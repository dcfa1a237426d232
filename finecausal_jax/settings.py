"""From a config (ml_collections) to the plain settings that the code takes.

Only this module, the commands and the training loop read a config; models, data and steps take
plain arguments.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections

from finecausal_jax.data.dives import RESIZED, STORED, DiveSource
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.resizing import Resize
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.training.optimiser import Optimiser
from finecausal_jax.training.schedule import Schedule
from finecausal_jax.training.steps import StepSettings

DTYPES = ("float32", "bfloat16")
# What may differ when a run is resumed: where things lie, how fast they come and what is shown.
FREE_ON_RESUME = (
    "model.remat",  # changes memory and time, no number
    "train.compilation_cache",
    "data.manual_dir",
    "data.data_dir",
    "data.stored",
    "data.workers",
    "benchmark",
    "evaluate",
    "rendered",
    "train.epochs",
    "train.log_every",
    "train.checkpoint_every",
    "train.evaluate_every",
    "train.evaluate_every_late",
    "train.evaluate_late_from",
)
# What may differ when a trained network is scored: how it is computed, and what only training does.
FREE_IN_EVALUATION = (
    "model.remat",
    "model.dtype",
    "model.graph_scope",
    "model.base_batch_norm",
    "model.graph_dropout",
    "model.attention_dropout",
    "model.dropout",
    "data.manual_dir",
    "data.data_dir",
    "data.stored",
    "data.workers",
)
# Numbers that count something there must be at least one of.
COUNTS = (
    "data.frames",
    "data.frame_size",
    "train.epochs",
    "train.batch_size",
    "train.accumulate",
    "train.log_every",
    "train.checkpoint_every",
    "train.evaluate_every_late",
    "evaluate.exemplars",
    "evaluate.video_batch",
    "evaluate.pair_batch",
)


def check_counts(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError that lists every key of `COUNTS` below one."""
    flat = _flat(config.to_dict())
    wrong = [f"config.{key} is {flat[key]}, expected at least 1" for key in COUNTS if flat[key] < 1]
    if wrong:
        raise ValueError("; ".join(wrong))


def make_model(config: ml_collections.ConfigDict) -> FineCausal:
    """The network of `config.model`, for videos of `config.data.frames`."""
    arguments = config.model.to_dict()
    if arguments["dtype"] not in DTYPES:
        raise ValueError(f"config.model.dtype is {arguments['dtype']!r}, none of {DTYPES}")
    arguments["dtype"] = jnp.dtype(arguments["dtype"])
    arguments["stage_frames"] = tuple(arguments["stage_frames"])
    return FineCausal(frames=config.data.frames, **arguments)


def make_preprocessing(config: ml_collections.ConfigDict) -> Preprocessing:
    """The sizes of `config.data`."""
    data = config.data
    return Preprocessing(
        frames=data.frames,
        frame_size=data.frame_size,
        resize_width=data.resize_width,
        resize_height=data.resize_height,
        keep_aspect=data.keep_aspect,
    )


def stored_resize(config: ml_collections.ConfigDict) -> Resize | None:
    """What the stored images that `config.data.stored` names were resized to; None: not at all.

    Raises:
      ValueError: there is no such builder config.
    """
    stored = config.data.stored
    if stored not in STORED:
        raise ValueError(f"config.data.stored is {stored!r}, expected one of {', '.join(STORED)}")
    return make_preprocessing(config).resize if stored == RESIZED else None


def open_dives(config: ml_collections.ConfigDict, split: str) -> DiveSource:
    """The dives of a split as `config.data` says; raises as `DiveSource`."""
    return DiveSource(config.data.data_dir, split, resize=stored_resize(config))


def make_optimiser_settings(config: ml_collections.ConfigDict, steps_per_epoch: int) -> Optimiser:
    """The optimiser and schedule of `config.train`."""
    train = config.train
    schedule = Schedule(
        iterations_per_epoch=steps_per_epoch,
        base_lr=train.base_lr,
        lr_factor=train.lr_factor,
        warmup_epochs=train.warmup_epochs,
        max_epoch=train.schedule_epochs,
        base_model_lr=train.base_model_lr,
    )
    return Optimiser(schedule, train.accumulate, train.clip_norm)


def make_step_settings(config: ml_collections.ConfigDict, steps_per_epoch: int) -> StepSettings:
    """What a training step does besides."""
    return StepSettings(
        freeze_base=config.train.freeze_base,
        max_epoch=config.train.schedule_epochs,
        steps_per_epoch=steps_per_epoch,
        static_labels_until=config.train.static_labels_until,
    )


def to_json(config: ml_collections.ConfigDict) -> str:
    """The config as stable, readable JSON."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=list) + "\n"


def differences(saved: str, config: ml_collections.ConfigDict) -> list[str]:
    """What keeps a run from going on under another config.

    Args:
      saved: `to_json` of the config the run began with.
      config: the config it is to go on with.

    Returns:
      One line a key, "key: was X, is Y"; keys in `FREE_ON_RESUME` are passed over.
    """
    return _differences(saved, config, FREE_ON_RESUME)


def network_differences(saved: str, config: ml_collections.ConfigDict) -> list[str]:
    """What keeps a trained network from being scored under another config.

    Args and returns as `differences`, of `model` and `data` alone, without `FREE_IN_EVALUATION`.
    """
    lines = _differences(saved, config, FREE_IN_EVALUATION)
    return [line for line in lines if line.startswith(("model.", "data."))]


def _differences(saved: str, config: ml_collections.ConfigDict, free: Sequence[str]) -> list[str]:
    before, now = _flat(json.loads(saved)), _flat(json.loads(to_json(config)))
    lines = []
    for key in sorted(before.keys() | now.keys()):
        passed_over = any(key == name or key.startswith(name + ".") for name in free)
        if not passed_over and before.get(key) != now.get(key):
            lines.append(f"{key}: was {before.get(key)!r}, is {now.get(key)!r}")
    return lines


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
