"""Runs the step again that ended a training because a value was not finite.

A training draws the same again from the same checkpoint, so little has to be kept of it: the number
of the step. What is said of it are the losses, the parameters and statistics that the step spoilt,
and the dives of its batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from finecausal_jax.runtime.checkpoints import CheckpointStore, has_checkpoints
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json
from finecausal_jax.runtime.progress import progress
from finecausal_jax.training.run import Run
from finecausal_jax.training.state import TrainState
from finecausal_jax.training.watch import TERMS, not_finite

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Replay:
    """A step to run again.

    Attributes:
      step: its number, counted from 1.
      start: the checkpoint to begin with; 0 is the beginning of the run.
      what: the value that was not finite.
      dives: keys of its dives, [query, exemplar] a pair.
    """

    step: int
    start: int
    what: str
    dives: tuple[tuple[str, str], ...]

    def write(self, workdir: pathlib.Path) -> pathlib.Path:
        """Writes `replay-STEP.json` into a workdir; returns its path."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        path = workdir / f"replay-{self.step}.json"
        return write_atomically(path, lambda temporary: temporary.write_text(text))


def read_replay(path: str | os.PathLike[str]) -> Replay:
    """Reads what `Replay.write` wrote.

    Raises:
      InputError: the file is something else.
    """
    expected = "what a training wrote into its workdir as replay-STEP.json"
    mend = "give the file that the training named when a value was not finite"
    content = read_json(path, expected, mend)
    try:
        step, start = int(content["step"]), int(content["start"])
        dives = tuple((str(query), str(exemplar)) for query, exemplar in content["dives"])
        if not 0 <= start < step:
            raise ValueError(f"step {step} does not follow step {start}")
        return Replay(step, start, str(content["what"]), dives)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise not_expected(path, expected, error, mend) from error


def dives_of(batch: Any, keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Keys of the dives of a batch, [query, exemplar] a pair.

    Args:
      batch: as `pipeline.training_batches` yields it.
      keys: of all training dives, by row.
    """
    rows = (np.asarray(batch[side]["row"]).tolist() for side in ("query", "exemplar"))
    return tuple((keys[q], keys[e]) for q, e in zip(*rows, strict=True))


def first_not_finite(losses: Any, state: TrainState) -> str | None:
    """What of a step is not finite: a loss, or else what the step made of the state."""
    values = jax.device_get(losses)
    for name in TERMS:
        if not np.isfinite(getattr(values, name)):
            return f"{name} is {float(getattr(values, name))}"
    spoilt = not_finite(state.variables)
    if not spoilt:
        return None
    rest = f" and {len(spoilt) - _SHOWN} more" if len(spoilt) > _SHOWN else ""
    return f"the gradient of {', '.join(spoilt[:_SHOWN])}{rest} is not finite"


def run_again(run: Run, replay: Replay, workdir: str | os.PathLike[str]) -> list[str]:
    """Runs a training up to a step again, and that step; writes nothing.

    Args:
      run: the training, as it was.
      replay: which step.
      workdir: the run's folder.

    Returns:
      Lines that say what is found.

    Raises:
      InputError: the checkpoint to begin with is not there any more.
    """
    state = _state_at(run, replay, workdir)
    key = jax.device_put(run.key, run.layout.whole)
    step_function = None
    label = f"running steps {replay.start + 1} to {replay.step} again"
    shown = progress(replay.step, label, "steps", initial=replay.start)
    with contextlib.closing(run.batches), shown as bar:
        for step in range(replay.start + 1, replay.step + 1):
            batch = next(run.batches)
            placed = run.layout.place_batch(batch)
            if step_function is None:
                bar.note("compiling the step")
                step_function = run.compile(state, placed, key)
                bar.note("")
            state, losses = step_function.run(state, placed, key)
            bar.update()
            what = first_not_finite(losses, state)
            if what:
                return _lines(step, what, losses, dives_of(batch, run.dives))
    return [
        f"steps {replay.start + 1} to {replay.step} ended with finite values this time: another "
        "device, number of devices or version rounds otherwise"
    ]


def _state_at(run: Run, replay: Replay, workdir: str | os.PathLike[str]) -> TrainState:
    if replay.start == 0:
        return run.start.fresh(run.start.variables())
    if not has_checkpoints(workdir):
        raise InputError(f"--workdir={workdir} has no checkpoints; give that of the replay's run")
    with CheckpointStore(workdir) as store:
        return run.start.saved(store, run.batches, str(replay.start))


def _lines(step: int, what: str, losses: Any, dives: Sequence[tuple[str, str]]) -> list[str]:
    values = jax.device_get(losses)
    return [
        f"step {step}: {what}",
        "losses: " + ", ".join(f"{name} {float(getattr(values, name)):.6g}" for name in TERMS),
        *(f"query {query}, exemplar {exemplar}" for query, exemplar in dives),
    ]
