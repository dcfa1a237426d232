"""Train on the built data set, or go on with a run that was stopped.

Writes into --workdir: config.json, checkpoints/ (the latest two and the best by Spearman),
metrics.jsonl and tensorboard/. The same command resumes: it goes on after the latest checkpoint and
draws what the unbroken run would have drawn. A workdir of another config is refused.

    python launch.py train --config=configs/demo.py --workdir=runs/demo
"""

from typing import Any

NEEDS_CONFIG = True


def define_flags() -> None:
    """This command has no flags of its own."""


def run(flags: Any) -> int:
    """Trains; returns the exit code."""
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.training.loop import train

    if not flags.workdir:
        raise ValueError("train needs --workdir=DIR, the folder for checkpoints and metrics")
    use_compilation_cache(flags.config.train.compilation_cache, flags.workdir)
    state = train(flags.config, flags.workdir)
    print(f"trained to step {int(state.step)}; checkpoints in {flags.workdir}/checkpoints")
    return 0
