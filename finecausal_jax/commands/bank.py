"""Encode every dive once, for evaluations and new dives to be compared with.

Writes the features of the training and test dives into a folder, some dives a file. The same
command goes on where it was stopped. A bank of another checkpoint, other settings or other dives is
refused, here and by `evaluate --bank`.

    python launch.py bank --config=configs/demo.py --workdir=runs/demo
    python launch.py evaluate --config=configs/demo.py --workdir=runs/demo --bank=runs/demo/bank
"""

import pathlib
from typing import Any

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --checkpoint, --output, --split and --overwrite."""
    from absl import flags

    flags.DEFINE_string(
        "checkpoint", "best", "Whose encoders: best, latest or a step of --workdir."
    )
    flags.DEFINE_string("output", None, "Folder of the bank; `bank` in --workdir where left out.")
    flags.DEFINE_list("split", ["train", "test"], "Which dives: train, test or both.")
    flags.DEFINE_bool("overwrite", False, "Replace a bank that was made with something else.")


def run(flags: Any) -> int:
    """Makes the bank, or what is missing of it; returns the exit code."""
    from finecausal_jax import settings
    from finecausal_jax.runtime import layout
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.scoring import bank
    from finecausal_jax.training import loop

    if not flags.workdir:
        raise ValueError("bank needs --workdir=DIR, the folder of a run")
    if not flags.split:
        raise ValueError("--split is empty: expected train, test or both")
    config, workdir = flags.config, pathlib.Path(flags.workdir)
    folder = pathlib.Path(flags.output or workdir / "bank")
    use_compilation_cache(config.train.compilation_cache, workdir)
    mesh = layout.make_mesh()
    layout.check_batch_size("config.evaluate.video_batch", config.evaluate.video_batch, mesh)
    sources = {split: settings.open_dives(config, split) for split in flags.split}
    model = settings.make_model(config)
    sizes = settings.make_preprocessing(config)
    step, variables = loop.load_network(config, model, workdir, flags.checkpoint, mesh)
    encoded = bank.build_bank(
        folder,
        bank.make_fingerprint(model, variables, sizes, sources),
        model,
        variables,
        sizes,
        sources,
        batch_size=config.evaluate.video_batch,
        workers=config.data.workers,
        sharding=layout.over_data(mesh),
        overwrite=flags.overwrite,
    )
    dives = sum(len(source) for source in sources.values())
    print(f"checkpoint of step {step}: encoded {encoded} of {dives} dives into {folder}")
    return 0
