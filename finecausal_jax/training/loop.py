"""The training loop: everything around the pure step that touches clocks, files and the screen."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Callable
from typing import NoReturn

import jax

from finecausal_jax.runtime import hosts, interruption
from finecausal_jax.runtime.checkpoints import (
    ASIDE,
    OPTIMISER,
    PIPELINE,
    VARIABLES,
    CheckpointStore,
    has_checkpoints,
    recover,
)
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.locks import only_one
from finecausal_jax.runtime.metrics_log import MetricsLog
from finecausal_jax.runtime.progress import progress, say
from finecausal_jax.scoring.protocol import Evaluation
from finecausal_jax.training.plan import Plan
from finecausal_jax.training.replay import Replay, dives_of
from finecausal_jax.training.run import Run
from finecausal_jax.training.state import TrainState
from finecausal_jax.training.watch import NotFiniteError, Watch, Work, not_finite


def train(
    run: Run,
    workdir: str | os.PathLike[str],
    claim: Callable[[], None],
    profile: range = range(0),
) -> TrainState:
    """Trains, or goes on with the training that a workdir holds.

    Ctrl-C and SIGTERM end it after the step at hand, which is saved.

    Args:
      run: what to train with what.
      workdir: the run's folder; created where missing.
      claim: makes the workdir this run's; called once it is known that the run can go on.
      profile: steps, counted from 1, that JAX's profiler watches; its files go to `profile/`.

    Returns:
      The state after the last step.

    Raises:
      InputError: another process trains there, the workdir's checkpoint or a file of pretrained
        weights does not fit the network, or a value is not finite. What can be known before the
        first step is known before anything is written.
      Interrupted: a signal ended it; the text says how far it came.
    """
    folder = pathlib.Path(workdir)
    # Before the lock and the store, which make the workdir: files of weights may turn out not to
    # fit. A checkpoint that appears meanwhile is another process's, which then holds the lock.
    initial = None if _may_go_on(folder) else run.start.variables()
    with only_one(folder, "a training"):
        recover(folder)
        with CheckpointStore(folder, clean=True) as store, contextlib.closing(run.batches):
            state = run.start.fresh(initial) if initial else run.start.saved(store, run.batches)
            del initial
            first_step = int(state.step)
            if first_step > run.plan.last_step:
                raise InputError(
                    f"{folder} stands at step {first_step}, config.train.epochs end at "
                    f"{run.plan.last_step}: raise them, or convert with --drop_optimizer for a new "
                    "schedule"
                )
            claim()
            lacks_evaluation = _lacks_evaluation(store, run.plan, first_step)
            trackers = [make(folder) for make in run.trackers]
            log = MetricsLog(folder, first_step, not lacks_evaluation, trackers)
            with contextlib.closing(log):
                training = _Training(run, folder, store, log)
                if lacks_evaluation:
                    training.evaluate(state)  # the run was stopped while it evaluated
                return training.go_on(state, profile)


class _Training:
    """A training under way: what its steps are saved and written with."""

    def __init__(self, run: Run, folder: pathlib.Path, store: CheckpointStore, log: MetricsLog):
        self._run, self._folder, self._store, self._log = run, folder, store, log
        self._watch = Watch(log, 0)
        self._work = Work(0, run.plan.steps_per_epoch)

    def go_on(self, state: TrainState, profile: range) -> TrainState:
        """Runs all steps that are left; returns the last state."""
        run, plan, first_step = self._run, self._run.plan, int(state.step)
        step_function = None
        key = jax.device_put(run.key, run.layout.whole)
        shown = progress(plan.last_step, "training", "steps", initial=first_step)
        ending = interruption.remembering("the step at hand is finished and saved")
        with shown as bar, ending as stop:
            for step in range(first_step + 1, plan.last_step + 1):
                asked_at = time.monotonic()
                batch = run.layout.place_batch(next(run.batches))
                self._watch.waited(time.monotonic() - asked_at)
                if step_function is None:
                    bar.note("compiling the step")  # minutes at full size
                    with stop.at_once():  # nothing is lost
                        step_function = run.compile(state, batch, key)
                    bar.note("")
                    self._work = Work(
                        pairs=len(jax.tree.leaves(batch)[0]) * hosts.count(),
                        steps_per_epoch=plan.steps_per_epoch,
                        flops=step_function.flops,
                        peak_flops=run.peak_flops,
                    )
                    self._watch.begin(first_step)
                if step in profile and step == max(profile.start, first_step + 1):
                    jax.profiler.start_trace(str(self._folder / "profile"))
                state, parts = step_function.run(state, batch, key)
                self._watch.add(step, parts)
                if step in profile and step == min(profile.stop - 1, plan.last_step):
                    jax.block_until_ready(state)
                    jax.profiler.stop_trace()
                bar.update()
                if step % plan.log_every == 0 or step == plan.last_step:
                    bar.note(self._flush())
                if plan.is_evaluation(step):
                    self.save(state)  # first, since evaluating takes long and may be cut short
                    if stop.asked is None:
                        with stop.at_once():  # it is saved
                            self.evaluate(state)
                elif step % plan.checkpoint_every == 0 or stop.asked is not None:
                    self.save(state)
                if stop.asked is not None:
                    break
        if stop.asked is not None:
            self._store.finish()
            raise interruption.Interrupted(
                stop.asked,
                f"ended after step {int(state.step)} of {plan.last_step}, which is saved; the same "
                "command goes on from there",
            )
        return state

    def save(self, state: TrainState) -> None:
        """Saves a checkpoint of what is known to be finite."""
        self._flush()
        step = int(state.step)
        spoilt = not_finite(state.variables)
        if spoilt:
            self._give_up(NotFiniteError(step, f"the gradient of {spoilt[0]} is not finite"))
        items = {
            VARIABLES: state.variables,
            OPTIMISER: {"step": state.step, "opt_state": state.opt_state},
            PIPELINE: self._run.batches.get_state(),
        }
        self._log.keep()
        self._store.save(step, items)

    def evaluate(self, state: TrainState) -> None:
        """Evaluates a state that is saved, and keeps what it says."""
        result = self._run.evaluate(state.variables)
        step = int(state.step)
        self._log.write(step, {f"test/{k}": v for k, v in result.metrics.items()})
        self._log.keep()
        self._store.evaluated(step, result.metrics)
        say(_line(step / self._run.plan.steps_per_epoch, result))

    def _flush(self) -> str:
        try:
            return self._watch.flush(self._work)
        except NotFiniteError as error:
            return self._give_up(error)

    def _give_up(self, error: NotFiniteError) -> NoReturn:
        self._store.finish()
        steps = [step for step in self._store.steps() if step < error.step]
        batch = self._run.batches.load(error.step - 1)
        dives = dives_of(batch, self._run.dives)
        replay = Replay(error.step, max(steps, default=0), error.what, dives)
        path = replay.write(self._folder)
        seen = ", ".join(f"{query} with {exemplar}" for query, exemplar in dives[:4])
        raise InputError(
            f"{error}, whose dives are {seen}{', ...' if len(dives) > 4 else ''}; the last "
            f"checkpoint is from before. `launch.py train ... --replay={path}` runs that step "
            "again and says more. Lower config.train.base_lr or set config.train.clip_norm, then "
            "run the same command with a new --workdir"
        ) from error


def _may_go_on(folder: pathlib.Path) -> bool:
    """Whether a workdir holds checkpoints, by an earlier version stood aside or not."""
    return has_checkpoints(folder) or any((folder / ASIDE).glob("*"))


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
