"""Train on the built data set, or go on with a run that was stopped.

Writes into --workdir: config.json, checkpoints/ (the latest two and the best by Spearman),
metrics.jsonl and tensorboard/. The same command resumes: it goes on after the latest checkpoint and
draws what the unbroken run would have drawn. A workdir of another config is refused, and so is one
in which another process trains. Ctrl-C and SIGTERM end a training after the step at hand, which is
saved (exit codes 130 and 143); a second one ends it at once.

    python launch.py train --config=configs/demo.py --workdir=runs/demo_train
    python launch.py train --config=configs/demo.py --workdir=runs/demo_train --profile=20:22
    python launch.py train --config=configs/demo.py --workdir=runs/demo_train \\
        --replay=runs/demo_train/replay-7.json
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
    """Defines --profile and --replay."""
    from absl import flags

    flags.DEFINE_string(
        "profile", "", "Steps to watch with JAX's profiler, FIRST:LAST; into profile/ of --workdir."
    )
    flags.DEFINE_string(
        "replay",
        "",
        "Train nothing: run the step again that this file of a training tells of, whose loss or "
        "gradient was not finite, and say what there is to see.",
    )


def run(flags: Any) -> int:
    """Trains; returns the exit code."""
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.settings import read

    if not flags.workdir:
        raise InputError("train needs --workdir=DIR, the folder for checkpoints and metrics")
    settings = read(flags.config)
    use_compilation_cache(settings.train.compilation_cache, flags.workdir)
    if flags.replay:
        for line in replay(settings, flags.workdir, flags.replay):
            print(line)
        return 0
    state = train(settings, flags.workdir, _steps(flags.profile))
    print(f"trained to step {int(state.step)}; checkpoints in {flags.workdir}/checkpoints")
    return 0


def train(
    settings: Settings, workdir: str | os.PathLike[str], profile: range = range(0)
) -> TrainState:
    """Trains on the built data set, or goes on with what a workdir holds; returns the last state.

    Args:
      settings: of the run.
      workdir: its folder.
      profile: steps that JAX's profiler watches.

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
    return loop.train(run, workdir, lambda: workdirs.claim(workdir, settings), profile)


def replay(
    settings: Settings, workdir: str | os.PathLike[str], file: str | os.PathLike[str]
) -> list[str]:
    """Runs the step of a replay file again; returns lines that say what is found.

    Raises:
      InputError: the file is none, or the run it is of is not there as it was.
    """
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.settings import things, workdirs
    from finecausal_jax.training.replay import read_replay, run_again

    told = read_replay(file)
    workdirs.refuse_other_run(workdir, settings)
    return run_again(things.make_run(settings, make_layout()), told, workdir)


def _steps(text: str) -> range:
    """Reads FIRST:LAST, both included."""
    first, _, last = text.partition(":")
    if not text:
        return range(0)
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise InputError(f"--profile={text}: expected FIRST:LAST, steps counted from 1")
    return range(int(first), int(last) + 1)
