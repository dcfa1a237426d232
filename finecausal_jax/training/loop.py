"""The training loop: everything around the pure step that touches clocks, files and the screen."""

import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from absl import logging
from tqdm import tqdm

from finecausal_jax import settings
from finecausal_jax.data import pipeline
from finecausal_jax.data.dives import DiveSource
from finecausal_jax.interop.conversion import load_trunks, merged
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.initial_values import init_variables
from finecausal_jax.runtime import layout
from finecausal_jax.runtime.checkpoints import (
    ADAM,
    OPTIMISER,
    PIPELINE,
    VARIABLES,
    CheckpointStore,
    has_checkpoints,
    load_variables,
    recover,
)
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.memory import check_fits
from finecausal_jax.runtime.metrics_log import MetricsLog
from finecausal_jax.scoring.encoding import Encoding, Key
from finecausal_jax.scoring.protocol import Evaluation, evaluate
from finecausal_jax.training.losses import Losses
from finecausal_jax.training.optimiser import make_optimiser
from finecausal_jax.training.state import TrainState, init_state
from finecausal_jax.training.steps import train_step

CONFIG_FILE = "config.json"


class NonFiniteLossError(ValueError):
    """A loss is infinite or not a number; nothing after the last checkpoint was saved."""


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> TrainState:
    """Trains, or goes on with the training that `workdir` holds.

    Args:
      config: as `configs/finediving_hm.py`.
      workdir: the run's folder; created where missing.

    Returns:
      The state after the last step.

    Raises:
      ValueError: the workdir belongs to another config, its checkpoint or a file of pretrained
        weights does not fit the network, a split is empty, a batch cannot be shared by the
        devices, or a loss is not finite. What can be known before the first step is known before
        anything is written.
    """
    folder = pathlib.Path(workdir)
    settings.check_counts(config)
    mesh = layout.make_mesh()
    layout.check_batch_size("config.train.batch_size", config.train.batch_size, mesh)
    _check_evaluation_batches(config, mesh)
    source = settings.open_dives(config, "train")
    test_source = settings.open_dives(config, "test")
    refuse_other_config(folder, config)

    steps_per_epoch = math.ceil(len(source) / config.train.batch_size)
    last_step = config.train.epochs * steps_per_epoch
    model = settings.make_model(config)
    step_function, optimiser = make_step(config, model, steps_per_epoch, mesh)
    run_key, init_key = jax.random.split(jax.random.key(config.seed))
    run_key = jax.device_put(run_key, layout.replicated(mesh))
    batches = pipeline.training_batches(
        source,
        settings.make_preprocessing(config),
        batch_size=config.train.batch_size,
        seed=config.seed,
        workers=config.data.workers,
        share=pipeline.Share(jax.process_index(), jax.process_count()),
    )
    # Before the store, which makes the workdir: files of weights may turn out not to fit.
    recover(folder)
    initial = None if has_checkpoints(folder) else _initial_variables(config, model, init_key)
    with CheckpointStore(folder, clean=True) as store:
        state = _first_state(config, store, model, optimiser, batches, initial, mesh)
        del initial
        if int(state.step) > last_step:
            raise ValueError(
                f"{folder} stands at step {int(state.step)}, config.train.epochs end at "
                f"{last_step}: raise them, or convert with --drop_optimizer for a new schedule"
            )
        claim_workdir(folder, config)
        first_step = int(state.step)
        log = MetricsLog(folder, first_step)
        watch = _Watch(log, steps_per_epoch, first_step)

        def save(state: TrainState, metrics: dict[str, float] | None = None) -> None:
            watch.flush()  # a state behind a loss that is not finite must not be saved
            optimiser_item = {"step": state.step, "opt_state": state.opt_state}
            items = {
                VARIABLES: state.variables,
                OPTIMISER: optimiser_item,
                PIPELINE: batches.get_state(),
            }
            store.save(int(state.step), items, metrics)

        def evaluate_and_save(state: TrainState) -> None:
            result = evaluate_variables(config, model, state.variables, test_source, source, mesh)
            step = int(state.step)
            log.write(step, {f"test/{k}": v for k, v in result.metrics.items()})
            save(state, result.metrics)
            tqdm.write(_line(step, steps_per_epoch, result))

        if _lacks_evaluation(store, config.train, first_step, steps_per_epoch, last_step):
            evaluate_and_save(state)  # the run was stopped while it evaluated
        compiled = None
        bar = tqdm(total=last_step, initial=first_step, desc="training", unit="step", disable=None)
        try:
            for step in range(first_step + 1, last_step + 1):
                batch = layout.place_batch(next(batches), mesh)
                if compiled is None:
                    bar.set_postfix_str("compiling the step")  # minutes at full size
                    compiled = compile_step(step_function, state, batch, run_key)
                    bar.set_postfix_str("")
                state, parts = compiled(state, batch, run_key)
                watch.add(step, parts)
                bar.update()
                if step % config.train.log_every == 0 or step == last_step:
                    bar.set_postfix_str(watch.flush())
                if _is_evaluation(config.train, step, steps_per_epoch, last_step):
                    save(state)  # first, since evaluating takes long and may be cut short
                    evaluate_and_save(state)
                elif step % config.train.checkpoint_every == 0:
                    save(state)
        finally:
            bar.close()
            batches.close()
            log.close()
    return state


def make_step(
    config: ml_collections.ConfigDict, model: FineCausal, steps_per_epoch: int, mesh: Any
) -> tuple[Callable[..., tuple[TrainState, Losses]], Any]:
    """The jitted training step over a mesh, with a donated state, and its optimiser.

    Args:
      config: for `config.train`.
      model: the network.
      steps_per_epoch: micro-batches an epoch.
      mesh: from `layout.make_mesh`.

    Returns:
      A function (state, batch, key) -> (state, losses), and the optimiser.
    """
    optimiser = make_optimiser(settings.make_optimiser_settings(config, steps_per_epoch))
    whole, split = layout.replicated(mesh), layout.over_data(mesh)
    step = functools.partial(
        train_step,
        model=model,
        optimiser=optimiser,
        settings=settings.make_step_settings(config, steps_per_epoch),
    )
    jitted = jax.jit(
        step,
        in_shardings=(whole, split, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    return jitted, optimiser


def compile_step(
    step: Any, state: TrainState, batch: dict[str, Any], key: jax.Array
) -> Callable[..., tuple[TrainState, Losses]]:
    """Compiles a training step for arguments like these, and drops what only compiling needs.

    JAX's traces of the whole network stay in memory otherwise, and nothing reads them again.

    Args:
      step: from `make_step`.
      state, batch, key: placed on their devices.

    Returns:
      The same function of arguments of these shapes and places.

    Raises:
      ValueError: by XLA's plan, it needs more memory than there is.
    """
    compiled = step.lower(state, batch, key).compile()
    jax.clear_caches()
    pairs = len(jax.tree.leaves(batch)[0])
    check_fits(
        compiled,
        jax.devices()[0],
        f"a training step of {pairs} pairs",
        "it takes less with a smaller --config.train.batch_size, --config.model.dtype=bfloat16 or "
        "(on a GPU or TPU) --config.model.remat=blocks; `launch.py compile` looks for the largest "
        "batch",
    )
    return compiled


def evaluate_variables(
    config: ml_collections.ConfigDict,
    model: FineCausal,
    variables: Any,
    test_source: DiveSource,
    train_source: DiveSource,
    mesh: Any,
    encodings: Mapping[Key, Encoding] | None = None,
) -> Evaluation:
    """Evaluates a network on the test split as `config.evaluate` says.

    Args:
      config, model, variables, test_source, train_source: what to score, and against what.
      mesh: from `layout.make_mesh`.
      encodings: encodings at hand, such as a bank; only the other videos are encoded.
    """
    options = config.evaluate
    _check_evaluation_batches(config, mesh)
    dives = len(test_source)
    return evaluate(
        model,
        variables,
        test_source,
        train_source,
        settings.make_preprocessing(config),
        rows=range(min(options.max_dives or dives, dives)),
        exemplars=options.exemplars,
        seed=config.seed,
        video_batch=options.video_batch,
        pair_batch=options.pair_batch,
        workers=config.data.workers,
        encodings=encodings,
        sharding=layout.over_data(mesh),
    )


def load_network(
    config: ml_collections.ConfigDict,
    model: FineCausal,
    workdir: str | pathlib.Path,
    which: str,
    mesh: Any,
) -> tuple[int, Any]:
    """Loads a checkpoint's network onto every device of a mesh; arguments as `load_variables`.

    Raises:
      ValueError: the workdir was begun with a config of another network or other frames, or as
        `load_variables`.
    """
    settings.check_counts(config)
    _refuse_other_network(pathlib.Path(workdir), config)
    whole = layout.replicated(mesh)
    shapes = jax.eval_shape(
        lambda: init_variables(model, config.data.frame_size, jax.random.key(0))
    )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes
    )
    return load_variables(workdir, abstract, which)


def claim_workdir(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes the config into a new workdir; refuses one that another config began."""
    refuse_other_config(folder, config)
    text = settings.to_json(config)
    write_atomically(folder / CONFIG_FILE, lambda temporary: temporary.write_text(text))


def refuse_other_config(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises ValueError where a workdir was begun with another config; lists what differs."""
    path = folder / CONFIG_FILE
    if path.exists():
        changed = settings.differences(path.read_text(), config)
        if changed:
            raise ValueError(
                f"workdir {folder} was begun with another config; choose a new --workdir, or "
                "set back:\n  " + "\n  ".join(changed)
            )


def _refuse_other_network(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises ValueError where weights would be read into a network they were not trained in.

    Of the keys compared some change no parameter's shape, so that scores would look plausible.
    """
    path = folder / CONFIG_FILE
    if path.exists():
        changed = settings.network_differences(path.read_text(), config)
        if changed:
            raise ValueError(
                f"the network of {folder} was trained under another config; give that one, or set "
                "back:\n  " + "\n  ".join(changed)
            )


def _check_evaluation_batches(config: ml_collections.ConfigDict, mesh: Any) -> None:
    for name in ("video_batch", "pair_batch"):
        layout.check_batch_size(f"config.evaluate.{name}", config.evaluate[name], mesh)


def _lacks_evaluation(
    store: CheckpointStore, train: Any, step: int, steps_per_epoch: int, last_step: int
) -> bool:
    """Whether the checkpoint that a run goes on from was to be evaluated and was not."""
    return (
        step > 0
        and _is_evaluation(train, step, steps_per_epoch, last_step)
        and OPTIMISER in store.items(step)  # not a conversion, which nobody asked to evaluate
        and not store.metrics(step)
    )


def _first_state(
    config: ml_collections.ConfigDict,
    store: CheckpointStore,
    model: FineCausal,
    optimiser: Any,
    batches: Any,
    initial: Any,
    mesh: Any,
) -> TrainState:
    """The latest checkpoint's state, with the pipeline moved to its place, or a fresh one."""
    whole = layout.replicated(mesh)
    if initial is not None:
        return jax.device_put(init_state(initial, optimiser), whole)

    def fresh(key: jax.Array) -> TrainState:
        return init_state(init_variables(model, config.data.frame_size, key), optimiser)

    step = store.find("latest")
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        jax.eval_shape(fresh, jax.random.key(0)),
    )
    if OPTIMISER not in store.items(step):
        return _converted_state(config, store, step, abstract, optimiser, batches, whole)
    optimiser_item = {"step": abstract.step, "opt_state": abstract.opt_state}
    wanted = {VARIABLES: abstract.variables, OPTIMISER: optimiser_item, PIPELINE: None}
    items = store.load(step, wanted)
    batches.set_state(items[PIPELINE])
    logging.info("going on after step %d", step)
    return TrainState(**items[OPTIMISER], **items[VARIABLES])


def _initial_variables(config: ml_collections.ConfigDict, model: FineCausal, key: jax.Array) -> Any:
    """Initial values, the trunks and ResNet-34 from the files that the config names."""
    files = {"kinetics": config.train.kinetics_i3d, "resnet": config.train.imagenet_resnet34}
    pretrained = load_trunks(**files, model=model)  # first: drawing takes longer than refusing
    for name, trunk in (
        ("kinetics_i3d", "base_model and the segmenter's trunk"),
        ("imagenet_resnet34", "the static encoder's ResNet-34"),
    ):
        if not config.train[name]:
            logging.warning(
                "untrained, from random values: %s (config.train.%s names no file)", trunk, name
            )
    return merged(init_variables(model, config.data.frame_size, key), pretrained)


def _converted_state(
    config: ml_collections.ConfigDict,
    store: CheckpointStore,
    step: int,
    abstract: TrainState,
    optimiser: Any,
    batches: Any,
    whole: Any,
) -> TrainState:
    """The state of a converted checkpoint: its network and, where it has them, Adam's moments.

    With moments the run goes on where they are from: schedules, epochs and the order of the data
    count the micro-batches that Adam's steps took. Without, it begins.
    """
    wanted: dict[str, Any] = {VARIABLES: abstract.variables}
    if ADAM in store.items(step):
        moments = {"mu": abstract.params, "nu": abstract.params}
        count = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
        wanted[ADAM] = {**moments, "count": count}
    items = store.load(step, wanted)
    state = init_state(items[VARIABLES], optimiser)
    if ADAM in items:
        done = int(items[ADAM]["count"]) * config.train.accumulate
        opt_state = _with_moments(state.opt_state, items[ADAM])
        state = state.replace(step=jnp.asarray(done, jnp.int32), opt_state=opt_state)
        batches.set_state(batches.get_state() | {"next_batch": done})
    return jax.device_put(state, whole)


def _with_moments(opt_state: Any, adam: dict[str, Any]) -> Any:
    """An optimiser's state with Adam's moments; their count is that of the schedules too."""
    kinds = (optax.ScaleByAdamState, optax.ScaleByScheduleState)

    def replace(node: Any) -> Any:
        fields = {name: adam[name] for name in node._fields}
        # Several nodes hold the count, and a buffer can be donated once only.
        return node._replace(**{**fields, "count": jnp.copy(fields["count"])})

    return jax.tree.map(
        lambda node: replace(node) if isinstance(node, kinds) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, kinds),
    )


def _is_evaluation(train: Any, step: int, steps_per_epoch: int, last_step: int) -> bool:
    """Every few epochs, more often later, and at the end."""
    if step == last_step:
        return True
    if step % steps_per_epoch or not train.evaluate_every:
        return False
    epoch = step // steps_per_epoch
    late = epoch >= train.evaluate_late_from
    return epoch % (train.evaluate_every_late if late else train.evaluate_every) == 0


def _line(step: int, steps_per_epoch: int, result: Evaluation) -> str:
    values = result.metrics
    return (
        f"epoch {step / steps_per_epoch:g}: Spearman {values['spearman']:.3f}, execution "
        f"{values['execution_spearman']:.3f}, R-l2 x100 {values['r_l2_x100']:.3f}, "
        f"tIoU@0.5 {values['tiou_50']:.2f}"
    )


class _Watch:
    """Collects losses on the device and looks at them now and then: looking waits for the device.

    Args:
      log: where means go.
      steps_per_epoch: micro-batches an epoch.
      step: the step the run stands at.
    """

    def __init__(self, log: MetricsLog, steps_per_epoch: int, step: int):
        self._log = log
        self._steps_per_epoch = steps_per_epoch
        self._pending: list[tuple[int, Losses]] = []
        self._since = (step, time.monotonic())
        self._text = ""

    def add(self, step: int, parts: Losses) -> None:
        self._pending.append((step, parts))

    def flush(self) -> str:
        """Logs means since the last look; raises on one that is not finite."""
        if not self._pending:
            return self._text
        steps = [step for step, _ in self._pending]
        parts = jax.device_get([parts for _, parts in self._pending])
        self._pending = []
        means = {}
        for name in ("loss", "loss_aqa", "loss_tas", "loss_mask"):
            values = np.array([getattr(part, name) for part in parts], np.float64)
            bad = [s for s, v in zip(steps, values, strict=True) if not math.isfinite(v)]
            if bad:
                raise NonFiniteLossError(
                    f"{name} is {values[steps.index(bad[0])]} at step {bad[0]}; the last "
                    "checkpoint is from before. Lower config.train.base_lr or set "
                    "config.train.clip_norm, then run the same command with a new --workdir"
                )
            means[name] = float(np.mean(values))
        before, then = self._since
        now = time.monotonic()
        rate = (steps[-1] - before) / max(now - then, 1e-9)
        self._since = (steps[-1], now)
        self._log.write(
            steps[-1],
            {f"train/{k}": v for k, v in means.items()}
            | {"train/epoch": steps[-1] / self._steps_per_epoch, "train/steps_per_second": rate},
        )
        self._text = f"loss {means['loss']:.3g}, difference {means['loss_aqa']:.3g}"
        return self._text


def read_config(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The config that a workdir's run began with."""
    return json.loads((pathlib.Path(workdir) / CONFIG_FILE).read_text())
