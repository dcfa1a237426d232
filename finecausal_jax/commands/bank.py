"""Encode every dive once, for evaluations and new dives to be compared with.

Writes the features of the training and test dives into a folder, some dives a file. The same
command goes on where it was stopped. A bank of another checkpoint, other settings or other dives is
refused, here and by `evaluate --bank`.

    python launch.py bank --config=configs/demo.py --workdir=runs/demo_train
    python launch.py evaluate --config=configs/demo.py --workdir=runs/demo_train \\
        --bank=runs/demo_train/bank
"""

import pathlib
from typing import Any

from finecausal_jax.commands import define_weights
from finecausal_jax.runtime.errors import InputError

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --checkpoint, --weights, --output, --split and --overwrite."""
    from absl import flags

    flags.DEFINE_string(
        "checkpoint", "best", "Whose encoders: best, latest or a step of --workdir."
    )
    define_weights()
    flags.DEFINE_string("output", None, "Folder of the bank; `bank` in --workdir where left out.")
    flags.DEFINE_list("split", ["train", "test"], "Which dives: train, test or both.")
    flags.DEFINE_bool("overwrite", False, "Replace a bank that was made with something else.")


def run(flags: Any) -> int:
    """Makes the bank, or what is missing of it; returns the exit code."""
    from finecausal_jax.data.dives import SPLITS
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.scoring import bank
    from finecausal_jax.settings import read, things

    if not flags.workdir:
        raise InputError(
            "bank needs --workdir=DIR, the folder of a run; with --weights, of the bank"
        )
    if not flags.split:
        raise InputError("--split is empty: expected train, test or both")
    settings, workdir = read(flags.config), pathlib.Path(flags.workdir)
    folder = pathlib.Path(flags.output or workdir / "bank")
    use_compilation_cache(settings.train.compilation_cache, workdir)
    layout = make_layout()
    unknown = set(flags.split) - set(SPLITS)
    if unknown:
        raise InputError(f"--split={','.join(flags.split)}: expected train, test or both")
    sides = things.open_dives(settings)
    sources = {split: sides[split] for split in flags.split}
    trained = things.load_trained(settings, workdir, flags.checkpoint, flags.weights, layout)
    scorer = things.make_scorer(settings, trained.variables, layout)
    fingerprint = bank.make_fingerprint(scorer, sources)
    encoded = bank.build_bank(folder, fingerprint, scorer, sources, overwrite=flags.overwrite)
    dives = sum(len(source) for source in sources.values())
    print(f"{trained.name}: encoded {encoded} of {dives} dives into {folder}")
    return 0
