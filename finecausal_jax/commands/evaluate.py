"""Evaluate a trained network on the test split, beside predictors that see no pixel.

Every test dive is compared with config.evaluate.exemplars training dives of its dive number.
Prints a table and writes evaluation.json and evaluation.png into --workdir, with --masks also
evaluation_masks.png.

    python launch.py evaluate --config=configs/demo.py --workdir=runs/demo_train
    python launch.py evaluate --config=configs/rendered.py:few --weights=rendered --workdir=runs/few

With --bank=DIR the features of videos come from what `launch.py bank` wrote there; a video that it
does not hold is encoded. The scores are the same but for rounding.
"""

import dataclasses
import pathlib
from typing import Any

from finecausal_jax.commands import define_weights
from finecausal_jax.runtime.errors import InputError

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --checkpoint, --weights, --bank, --masks and --truth."""
    from absl import flags

    flags.DEFINE_string(
        "checkpoint",
        "best",
        "Which checkpoint: best, latest or a step. The best is chosen on the test split itself, as "
        "the paper's protocol does, which flatters it; latest is not.",
    )
    define_weights()
    flags.DEFINE_string(
        "bank", None, "Folder of a bank of features made from the same checkpoint and data."
    )
    flags.DEFINE_bool(
        "masks",
        False,
        "Judge the predicted masks of the test dives alone too, at the reference's threshold and "
        "at the best one on training dives; encodes the videos once more.",
    )
    flags.DEFINE_string(
        "truth",
        None,
        "Folder of the rendered release that the data set was built from: says of each aspect of "
        "execution and each stage how well the scores rank by it.",
    )


def run(flags: Any) -> int:
    """Evaluates; returns the exit code."""
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.scoring import bank, masks, report, truth
    from finecausal_jax.settings import read, things
    from tfds_finecausal.rendered.truth import read_truth

    if not flags.workdir:
        raise InputError(
            "evaluate needs --workdir=DIR, the folder of a run; with --weights, of its results"
        )
    settings, folder = read(flags.config), pathlib.Path(flags.workdir)
    known = read_truth(flags.truth) if flags.truth else None
    use_compilation_cache(settings.train.compilation_cache, folder)
    layout = make_layout()
    trained = things.load_trained(settings, folder, flags.checkpoint, flags.weights, layout)
    scorer = things.make_scorer(settings, trained.variables, layout)
    sides = things.open_dives(settings)
    encodings = None
    if flags.bank:
        fingerprint = bank.make_fingerprint(scorer, sides)
        encodings = bank.load_bank(flags.bank, fingerprint)
    result = things.evaluate_split(settings, scorer, sides["test"], sides["train"], encodings)
    name = settings.data_name
    pictures = []
    if known is not None:
        result = dataclasses.replace(result, truth=truth.compare_with_truth(result.dives, known))
    if flags.masks:
        result = dataclasses.replace(
            result, masks=masks.judge_masks(scorer, sides["train"], sides["test"])
        )
        # A good dive, a middling one and a poor one.
        ranked = sorted(range(len(result.dives)), key=lambda row: -result.dives[row].completeness)
        rows = list(dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1]]))
        shown = masks.show_masks(scorer, sides["test"], rows)
        picture = folder / "evaluation_masks.png"
        pictures = [report.write_masks(shown, scorer.mask_threshold, picture, data_name=name)]
    report.print_table(result, data_name=name)
    table = report.write_json(result, folder / "evaluation.json", data_name=name, step=trained.step)
    plot = report.write_scatter(result, folder / "evaluation.png", data_name=name)
    look_at = ", ".join(str(picture) for picture in (plot, *pictures))
    print(f"scored by {trained.name}. Look at {look_at}; all in {table}")
    return 0
