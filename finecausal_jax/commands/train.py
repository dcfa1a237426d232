"""Train on the built data set, or go on with a run that was stopped.

Writes into --workdir: config.json, checkpoints/ (the latest two and the best by Spearman),
metrics.jsonl and tensorboard/. The same command resumes: it goes on after the latest checkpoint and
draws what the unbroken run would have drawn. A workdir of another config is refused.

    python launch.py train --config=configs/demo.py --workdir=runs/demo
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from finecausal_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from finecausal_jax.settings import Settings
    from finecausal_jax.training.state import TrainState

NEEDS_CONFIG = True


def define_flags() -> None:
    """This command has no flags of its own."""


def run(flags: Any) -> int:
    """Trains; returns the exit code."""
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.settings import read

    if not flags.workdir:
        raise InputError("train needs --workdir=DIR, the folder for checkpoints and metrics")
    settings = read(flags.config)
    use_compilation_cache(settings.train.compilation_cache, flags.workdir)
    state = train(settings, flags.workdir)
    print(f"trained to step {int(state.step)}; checkpoints in {flags.workdir}/checkpoints")
    return 0


def train(settings: Settings, workdir: str | os.PathLike[str]) -> TrainState:
    """Trains on the built data set, or goes on with what a workdir holds; returns the last state.

    Raises:
      InputError: the workdir belongs to another config, its checkpoint or a file of pretrained
        weights does not fit the network, a split is empty, a batch cannot be shared by the devices,
        or a loss is not finite.
    """
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.settings import things, workdirs
    from finecausal_jax.training import loop

    run = things.make_run(settings, make_layout())
    workdirs.refuse_other_run(workdir, settings)
    return loop.train(run, workdir, claim=lambda: workdirs.claim(workdir, settings))
