"""From settings to the things that the code takes: network, data, optimiser, scorer, training."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from finecausal_jax.compilation import hardware
from finecausal_jax.compilation.programs import STEPS_PER_EPOCH, Parts
from finecausal_jax.data import pipeline
from finecausal_jax.data.dives import RESIZED, SPLITS, DiveSource
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.resizing import Resize
from finecausal_jax.data.sources import Dives
from finecausal_jax.data.splits import Split, open_split, take_calibration
from finecausal_jax.interop import conversion, workdirs
from finecausal_jax.interop import weights as weight_files
from finecausal_jax.interop.expected import full_size
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.initial_values import init_variables
from finecausal_jax.runtime import hosts
from finecausal_jax.runtime.checkpoints import load_variables
from finecausal_jax.runtime.layout import Layout
from finecausal_jax.runtime.trackers import check_tracker, make_tracker
from finecausal_jax.scoring.features import Encoding, Key
from finecausal_jax.scoring.protocol import Choice, Evaluation, evaluate_sides
from finecausal_jax.scoring.scorer import Scorer
from finecausal_jax.settings import config as configs
from finecausal_jax.settings import schema
from finecausal_jax.settings.schema import FIXED_IN_A_BANK, Settings
from finecausal_jax.settings.workdirs import (
    refuse_other_network,
    refuse_other_settings,
    saved_settings,
)
from finecausal_jax.training.compiling import compile_step, make_step
from finecausal_jax.training.losses import LossSettings
from finecausal_jax.training.optimiser import OptimiserSettings, make_optimiser
from finecausal_jax.training.plan import Plan
from finecausal_jax.training.run import Run
from finecausal_jax.training.schedule import Schedule
from finecausal_jax.training.start import Start, initial_variables
from finecausal_jax.training.steps import StepSettings


class Trained(NamedTuple):
    """What a command scores with.

    Attributes:
      variables: {"params", "batch_stats"}, where they belong.
      step: micro-batches of its training; None where nobody noted them.
      name: what messages call it.
      data_name: what it was trained on, such as "rendered data"; where nobody noted it, what the
        settings at hand say.
    """

    variables: Any
    step: int | None
    name: str
    data_name: str


def make_model(settings: Settings) -> FineCausal:
    """The network of `settings.model`, for videos of `settings.data.frames`."""
    arguments = {
        field.name: getattr(settings.model, field.name)
        for field in dataclasses.fields(settings.model)
    }
    arguments["dtype"] = jnp.dtype(arguments["dtype"])
    return FineCausal(frames=settings.data.frames, **arguments)


def make_preprocessing(settings: Settings) -> Preprocessing:
    """The sizes of a video."""
    data = settings.data
    return Preprocessing(
        frames=data.frames,
        frame_size=data.frame_size,
        resize_width=data.resize_width,
        resize_height=data.resize_height,
        keep_aspect=data.keep_aspect,
    )


def described(settings: Settings) -> dict[str, Any]:
    """What a file of weights says of its network besides the model, as plain values for JSON."""
    return {
        "preprocessing": dataclasses.asdict(make_preprocessing(settings)),
        "settings": json.loads(configs.to_json(settings)),
    }


def stored_resize(settings: Settings) -> Resize | None:
    """What the images of `settings.data.stored` were resized to; None: not at all."""
    return make_preprocessing(settings).resize if settings.data.stored == RESIZED else None


def open_dives(settings: Settings) -> dict[str, Dives]:
    """The dives of `settings.data.split`, by "train" and "test"; if there are any, "calibration".

    Raises:
      InputError: as `DiveSource`, `Split` and `splits.take_calibration`.
    """
    split = Split.parse(settings.data.split)  # first: opening takes longer than refusing
    resize = stored_resize(settings)
    stored = {name: DiveSource(settings.data.data_dir, name, resize=resize) for name in SPLITS}
    sides = open_split(split, stored)
    if settings.data.calibration_dives:
        kept, taken = take_calibration(sides["train"], settings.data.calibration_dives)
        sides |= {"train": kept, "calibration": taken}
    return sides


def check_batches(settings: Settings, layout: Layout) -> None:
    """Raises InputError where a batch cannot be shared by the devices."""
    for name, size in (
        ("train.batch_size", settings.train.batch_size),
        ("evaluate.video_batch", settings.evaluate.video_batch),
        ("evaluate.pair_batch", settings.evaluate.pair_batch),
    ):
        layout.check_batch_size(f"config.{name}", size)


def optimiser_settings(settings: Settings, steps_per_epoch: int) -> OptimiserSettings:
    """Adam and its schedule."""
    train = settings.train
    schedule = Schedule(
        iterations_per_epoch=steps_per_epoch,
        base_lr=train.base_lr,
        lr_factor=train.lr_factor,
        warmup_epochs=train.warmup_epochs,
        max_epoch=train.schedule_epochs,
        base_model_lr=train.base_model_lr,
    )
    return OptimiserSettings(schedule, train.accumulate, train.clip_norm)


def step_settings(settings: Settings, steps_per_epoch: int) -> StepSettings:
    """What a training step does besides."""
    return StepSettings(
        freeze_base=settings.train.freeze_base,
        max_epoch=settings.train.schedule_epochs,
        steps_per_epoch=steps_per_epoch,
        static_labels_until=settings.train.static_labels_until,
        loss=LossSettings(settings.train.loss_weights, settings.train.mask_foreground),
    )


def program_parts(settings: Settings, layout: Layout) -> Parts:
    """What `compilation.programs` compiles for the devices of a layout."""
    return Parts(
        model=make_model(settings),
        shapes=functools.partial(variable_shapes, settings),
        frame_size=settings.data.frame_size,
        make_step=functools.partial(make_training_step, settings, STEPS_PER_EPOCH),
        layout=layout,
    )


def make_training_step(settings: Settings, steps_per_epoch: int, layout: Layout) -> tuple[Any, Any]:
    """The jitted training step (state, batch, key) -> (state, losses), and its optimiser."""
    optimiser = make_optimiser(optimiser_settings(settings, steps_per_epoch))
    model, besides = make_model(settings), step_settings(settings, steps_per_epoch)
    return make_step(model, optimiser, besides, layout), optimiser


@functools.lru_cache(maxsize=1)  # tracing the network takes seconds
def variable_shapes(settings: Settings) -> Any:
    """Shapes and dtypes of the network's parameters and statistics."""
    model, size = make_model(settings), settings.data.frame_size
    return jax.eval_shape(lambda: init_variables(model, size, jax.random.key(0)))


def load_network(
    settings: Settings, workdir: str | os.PathLike[str], which: str, layout: Layout
) -> tuple[int, Any]:
    """Loads a checkpoint's network where it belongs.

    Args:
      settings: of the network.
      workdir: the run's folder.
      which: "best", "latest" or a step.
      layout: the devices.

    Returns:
      The step, and {"params", "batch_stats"}.

    Raises:
      InputError: the workdir was begun with a config of another network or other frames, or as
        `load_variables`.
    """
    refuse_other_network(workdir, settings)
    return load_variables(workdir, layout.shapes(variable_shapes(settings)), which)


def load_trained(
    settings: Settings, workdir: str | os.PathLike[str], which: str, weights: str, layout: Layout
) -> Trained:
    """Loads what a command is to score with: a file of weights, or else a checkpoint.

    Args:
      settings: of the network.
      workdir: the run's folder; of no account where weights are given.
      which: "best", "latest" or a step of it.
      weights: as for `interop.weights.find`; empty for a checkpoint.
      layout: the devices.

    Raises:
      InputError: as `load_network` and `weights.load`, or the weights were trained under settings
        of another network.
    """
    if not weights:
        step, variables = load_network(settings, workdir, which, layout)
        begun_with = saved_settings(workdir) or settings
        return Trained(variables, step, f"the checkpoint of step {step}", begun_with.data_name)
    # First, since shapes that do not fit would not say which keys of the config to change.
    saved = weight_files.describe(weights).get("settings")
    begun_with = settings
    if saved is not None:
        begun_with = configs.from_tree(saved, f"config.json of the weights {weights}")
        refuse_other_settings(f"weights {weights}", begun_with, settings)
    read = weight_files.load(weights, make_model(settings))
    variables, name = layout.place(read.variables), f"the weights {weights}"
    return Trained(variables, read.step, name, begun_with.data_name)


def make_scorer(settings: Settings, variables: Any, layout: Layout) -> Scorer:
    """What scores with these weights."""
    check_batches(settings, layout)
    return Scorer(
        model=make_model(settings),
        variables=variables,
        preprocessing=make_preprocessing(settings),
        layout=layout,
        video_batch=settings.evaluate.video_batch,
        pair_batch=settings.evaluate.pair_batch,
        workers=settings.data.workers,
        made_with=_made_with(settings),
    )


def evaluate_split(
    settings: Settings,
    scorer: Scorer,
    sides: Mapping[str, Dives],
    encodings: Mapping[Key, Encoding] | None = None,
) -> Evaluation:
    """Scores the first `settings.evaluate.max_dives` test dives, or all.

    Args:
      settings: for the choice of exemplars.
      scorer: what scores.
      sides: "test", "train" to choose exemplars from, and if they are to be scored "calibration".
      encodings: at hand, such as a bank's.
    """
    choice = Choice(settings.evaluate.exemplars, settings.seed)
    rows = tested_rows(settings, sides["test"])
    return evaluate_sides(scorer, sides, choice, rows=rows, encodings=encodings)


def tested_rows(settings: Settings, test: Dives) -> range:
    """Rows of the test dives that are scored: all, or the first `evaluate.max_dives`."""
    dives = len(test.infos)
    return range(min(settings.evaluate.max_dives or dives, dives))


def make_run(settings: Settings, layout: Layout) -> Run:
    """A training on the built data set.

    Raises:
      InputError: a split is empty, or a batch cannot be shared by the devices.
    """
    check_batches(settings, layout)
    sides = open_dives(settings)
    dives, test, train = sides["train"], sides["test"], settings.train
    without = sum(not info.has_masks for info in dives.infos)
    if without:
        logging.warning(
            "%d of %d training dives have no masks: the loss of the mask leaves them out",
            without,
            len(dives),
        )
    plan = Plan(
        steps_per_epoch=math.ceil(len(dives) / train.batch_size),
        epochs=train.epochs,
        log_every=train.log_every,
        checkpoint_every=train.checkpoint_every,
        evaluate_every=train.evaluate_every,
        evaluate_every_late=train.evaluate_every_late,
        evaluate_late_from=train.evaluate_late_from,
    )
    step, optimiser = make_training_step(settings, plan.steps_per_epoch, layout)
    run_key, init_key = jax.random.split(jax.random.key(settings.seed))
    variables = functools.partial(
        initial_variables,
        make_model(settings),
        settings.data.frame_size,
        init_key,
        kinetics=train.kinetics_i3d,
        resnet=train.imagenet_resnet34,
    )

    def score(variables: Any) -> Evaluation:
        scorer = make_scorer(settings, variables, layout)
        return evaluate_split(settings, scorer, {"test": test, "train": dives})

    check_tracker(train.tracker)
    tracker = functools.partial(
        make_tracker, train.tracker, config=json.loads(configs.to_json(settings))
    )
    return Run(
        start=Start(
            optimiser,
            layout,
            variables,
            functools.partial(variable_shapes, settings),
            train.accumulate,
        ),
        compile=functools.partial(compile_step, step),
        batches=pipeline.training_batches(
            dives,
            make_preprocessing(settings),
            batch_size=train.batch_size,
            seed=settings.seed,
            workers=settings.data.workers,
            share=pipeline.Share(hosts.index(), hosts.count()),
            crop_range=settings.data.crop_range,
        ),
        evaluate=score,
        plan=plan,
        layout=layout,
        key=run_key,
        dives=["{}/{}".format(*info.key) for info in dives.infos],
        peak_flops=hardware.peak_flops(jax.devices()[0].device_kind, settings.model.dtype),
        trackers=() if train.tracker == "none" else (tracker,),
    )


def model_of(workdir: str | os.PathLike[str], settings: Settings | None) -> FineCausal:
    """The network of a workdir.

    Args:
      workdir: the folder of a run or of a conversion.
      settings: the run's; None takes those that the run left in its workdir, or for a conversion
        without them the arguments noted there, or else the full-size network.
    """
    settings = settings or saved_settings(workdir)
    if settings is not None:
        return make_model(settings)
    arguments = workdirs.read_origin(workdir).get("model")
    if not arguments:
        return full_size()
    where = os.path.join(workdir, workdirs.ORIGIN_FILE)
    return conversion.model_from_json(arguments, where)


def _made_with(settings: Settings) -> dict[str, Any]:
    """The network's settings that features depend on, for a bank; those of videos are in its
    preprocessing."""
    chosen = {
        f"model.{field.name}": getattr(settings.model, field.name)
        for field in dataclasses.fields(schema.Model)
        if field.metadata["affects"] in FIXED_IN_A_BANK
    }
    return {"model.frames": settings.data.frames, **chosen}
