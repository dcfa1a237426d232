"""What a training is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from finecausal_jax.runtime.layout import Layout
from finecausal_jax.runtime.metrics_log import Tracker
from finecausal_jax.scoring.protocol import Evaluation
from finecausal_jax.training.compiling import CompiledStep
from finecausal_jax.training.plan import Plan
from finecausal_jax.training.start import Start
from finecausal_jax.training.state import TrainState


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
      dives: keys of the training dives, by row.
      peak_flops: most FLOP/s that a device is said to do; None if unknown.
      trackers: who takes the numbers beside the files; made of the workdir when training begins.
    """

    start: Start
    compile: Callable[[TrainState, Any, jax.Array], CompiledStep]
    batches: Any
    evaluate: Callable[[Any], Evaluation]
    plan: Plan
    layout: Layout
    key: jax.Array
    dives: Sequence[str] = ()
    peak_flops: float | None = None
    trackers: Sequence[Callable[[Any], Tracker]] = ()
