"""The training loop: everything around the pure step that touches clocks, files and the screen."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from finecausal_jax.runtime.checkpoints import (
    OPTIMISER,
    PIPELINE,
    VARIABLES,
    CheckpointStore,
    has_checkpoints,
    recover,
)
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.layout import Layout
from finecausal_jax.runtime.metrics_log import MetricsLog
from finecausal_jax.runtime.progress import progress, say
from finecausal_jax.scoring.protocol import Evaluation
from finecausal_jax.training.compiling import Step
from finecausal_jax.training.plan import Plan
from finecausal_jax.training.start import Start
from finecausal_jax.training.state import TrainState
from finecausal_jax.training.watch import Watch


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a training is made of; a command makes one of its config.

    Attributes:
      start: its first state.
      compile: gives the step (state, batch, key) -> (state, losses) for arguments like the given.
      batches: pairs for training, see `pipeline.training_batches`.
      evaluate: scores {"params", "batch_stats"}.
      plan: how long it goes on, and what happens when.
      layout: where batches and state lie.
      key: of the run; a step draws from it folded with its number.
    """

    start: Start
    compile: Callable[[TrainState, Any, jax.Array], Step]
    batches: Any
    evaluate: Callable[[Any], Evaluation]
    plan: Plan
    layout: Layout
    key: jax.Array


def train(run: Run, workdir: str | os.PathLike[str], claim: Callable[[], None]) -> TrainState:
    """Trains, or goes on with the training that a workdir holds.

    Args:
      run: what to train with what.
      workdir: the run's folder; created where missing.
      claim: makes the workdir this run's; called once it is known that the run can go on.

    Returns:
      The state after the last step.

    Raises:
      InputError: the workdir's checkpoint or a file of pretrained weights does not fit the network,
        or a loss is not finite. What can be known before the first step is known before anything is
        written.
    """
    folder, plan, batches = pathlib.Path(workdir), run.plan, run.batches
    # Before the store, which makes the workdir: files of weights may turn out not to fit.
    recover(folder)
    initial = None if has_checkpoints(folder) else run.start.variables()
    with CheckpointStore(folder, clean=True) as store:
        if initial is None:
            state = run.start.saved(store, batches)
        else:
            state = run.start.fresh(initial)
            del initial
        first_step = int(state.step)
        if first_step > plan.last_step:
            raise InputError(
                f"{folder} stands at step {first_step}, config.train.epochs end at "
                f"{plan.last_step}: raise them, or convert with --drop_optimizer for a new schedule"
            )
        claim()
        log = MetricsLog(folder, first_step)
        watch = Watch(log, plan.steps_per_epoch, first_step)

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
            result = run.evaluate(state.variables)
            step = int(state.step)
            log.write(step, {f"test/{k}": v for k, v in result.metrics.items()})
            save(state, result.metrics)
            say(_line(step / plan.steps_per_epoch, result))

        if _lacks_evaluation(store, plan, first_step):
            evaluate_and_save(state)  # the run was stopped while it evaluated
        step_function = None
        key = jax.device_put(run.key, run.layout.whole)
        shown = progress(plan.last_step, "training", "steps", initial=first_step)
        with contextlib.closing(log), contextlib.closing(batches), shown as bar:
            for step in range(first_step + 1, plan.last_step + 1):
                batch = run.layout.place_batch(next(batches))
                if step_function is None:
                    bar.note("compiling the step")  # minutes at full size
                    step_function = run.compile(state, batch, key)
                    bar.note("")
                state, parts = step_function(state, batch, key)
                watch.add(step, parts)
                bar.update()
                if step % plan.log_every == 0 or step == plan.last_step:
                    bar.note(watch.flush())
                if plan.is_evaluation(step):
                    save(state)  # first, since evaluating takes long and may be cut short
                    evaluate_and_save(state)
                elif step % plan.checkpoint_every == 0:
                    save(state)
    return state


def _lacks_evaluation(store: CheckpointStore, plan: Plan, step: int) -> bool:
    """Whether the checkpoint that a run goes on from was to be evaluated and was not."""
    return (
        step > 0
        and plan.is_evaluation(step)
        and OPTIMISER in store.items(step)  # not a conversion, which nobody asked to evaluate
        and not store.metrics(step)
    )


def _line(epoch: float, result: Evaluation) -> str:
    values = result.metrics
    return (
        f"epoch {epoch:g}: Spearman {values['spearman']:.3f}, execution "
        f"{values['execution_spearman']:.3f}, R-l2 x100 {values['r_l2_x100']:.3f}, "
        f"tIoU@0.5 {values['tiou_50']:.2f}"
    )
