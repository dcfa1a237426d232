"""Test whether scores follow the diver or the background.

Scores the test dives again, edited: their diver on stripes, on another dive's background, removed
or frozen. Prints a table and writes stress_swap.json into --workdir.

    python launch.py stress --config=configs/demo.py --workdir=runs/demo_train --checkpoint=latest

What an edited test set loses is compared with one whose divers were cut out and put back, so that
traces of editing count for nothing. What comes out are effects on this network's scores; nothing
here says why a real dive was good.
"""

import pathlib
from typing import Any

from finecausal_jax.commands import define_weights
from finecausal_jax.runtime.errors import InputError

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --checkpoint, --weights and --masks."""
    from absl import flags

    flags.DEFINE_string("checkpoint", "best", "Which checkpoint: best, latest or a step.")
    define_weights()
    flags.DEFINE_enum(
        "masks",
        "release",
        ["release", "predicted"],
        "Where the diver is: as the data set has it, or as the network predicts.",
    )


def run(flags: Any) -> int:
    """Scores the edited test dives; returns the exit code."""
    from finecausal_jax.explain import swap
    from finecausal_jax.explain.swap_report import print_table, write_json
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.scoring.intervals import Bootstrap
    from finecausal_jax.scoring.protocol import Choice
    from finecausal_jax.settings import read, things

    if not flags.workdir:
        raise InputError(
            "stress needs --workdir=DIR, the folder of a run; with --weights, of its results"
        )
    settings, folder = read(flags.config), pathlib.Path(flags.workdir)
    sides = things.open_dives(settings)
    use_compilation_cache(settings.train.compilation_cache, folder)
    layout = make_layout()
    trained = things.load_trained(settings, folder, flags.checkpoint, flags.weights, layout)
    found = swap.swap(
        things.make_scorer(settings, trained.variables, layout),
        sides,
        Choice(settings.evaluate.exemplars, settings.seed),
        Bootstrap(settings.evaluate.resamples, seed=settings.seed),
        rows=things.tested_rows(settings, sides["test"]),
        masks=flags.masks,
    )
    print_table(found, data_name=settings.data_name)
    table = write_json(
        found,
        folder / "stress_swap.json",
        data_name=settings.data_name,
        scored_by=trained.name,
        masks=flags.masks,
    )
    print(f"scored by {trained.name}. All in {table}")
    return 0
