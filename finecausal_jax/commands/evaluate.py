"""Evaluate a trained network on the test split, or any model's predictions of it.

Every test dive is compared with config.evaluate.exemplars training dives of its dive number.
Prints tables and writes evaluation.html, a page that needs no other file, evaluation.json,
evaluation.png and predictions.csv into --workdir, with --masks also evaluation_masks.png, and with
config.data.calibration_dives calibration.json, for `score --calibration`.

    python launch.py evaluate --config=configs/demo.py --workdir=runs/demo_train
    python launch.py evaluate --config=configs/rendered.py:few --weights=rendered --workdir=runs/few

With --bank=DIR the features of videos come from what `launch.py bank` wrote there; a video that it
does not hold is encoded. The scores are the same but for rounding.

With --predictions=FILE there is no network: the file has the predictions, one a test dive. With
--against=FILE a second model's predictions of the same dives are compared with the first one's:

    python launch.py evaluate --config=configs/demo.py --workdir=runs/compared \\
        --predictions=runs/a/predictions.csv --against=runs/b/predictions.csv
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from finecausal_jax.commands import define_weights
from finecausal_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finecausal_jax.data.sources import Dives
    from finecausal_jax.scoring.assessment import Assessment
    from finecausal_jax.scoring.predictions import Predictions
    from finecausal_jax.settings import Settings

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --checkpoint, --weights, --bank, --predictions, --against, --masks and --truth."""
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
    flags.DEFINE_string(
        "predictions",
        None,
        "Evaluate these predictions in place of a network: a .csv with a header or an .npz, with "
        "the columns competition, index, completeness or score (points), and if known spread (of "
        "the exemplars' votes). One line for each test dive, and each calibration dive if there "
        "are any.",
    )
    flags.DEFINE_string(
        "against",
        None,
        "Compare with these predictions of the same dives, a file as for --predictions: says of "
        "each figure whether the difference is decided.",
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
    from finecausal_jax.settings import read

    if not flags.workdir:
        raise InputError(
            "evaluate needs --workdir=DIR, the folder of a run; with --weights or --predictions, "
            "of its results"
        )
    settings, folder = read(flags.config), pathlib.Path(flags.workdir)
    if flags.predictions:
        return _of_predictions(flags, settings, folder)
    return _of_network(flags, settings, folder)


def _of_predictions(flags: Any, settings: "Settings", folder: pathlib.Path) -> int:
    from finecausal_jax.scoring import assessment_report, predictions, truth
    from finecausal_jax.settings import things
    from tfds_finecausal.rendered.truth import read_truth

    for name in ("weights", "bank", "masks"):
        if getattr(flags, name):
            raise InputError(
                f"--predictions needs no network, --{name} is for one: leave one of the two out"
            )
    known = read_truth(flags.truth) if flags.truth else None
    sides = things.open_dives(settings)
    infos = _tested(settings, sides)
    besides = sides["calibration"].infos if "calibration" in sides else ()
    # All test dives may be there, also where only the first ones are looked at.
    others = (*besides, *sides["test"].infos)
    given = predictions.read(flags.predictions, infos, others)
    calibration = predictions.read(flags.predictions, besides, others) if besides else None
    assessed = _assess(flags, settings, sides, given, calibration)
    assessment_report.print_assessment(assessed, data_name=settings.data_name)
    compared = truth.compare_with_truth(given, known) if known is not None else {}
    if compared:
        assessment_report.print_truth(compared, given.name)
    table = assessment_report.write_json(
        assessed, folder / "evaluation.json", data_name=settings.data_name
    )
    page = _write_page(settings, folder, sides, assessed, truth=compared, masks={})
    print(
        f"assessed {len(infos)} predictions of {flags.predictions}. Look at {page}; all in {table}"
    )
    return 0


def _of_network(flags: Any, settings: "Settings", folder: pathlib.Path) -> int:
    from finecausal_jax.runtime.compilation_cache import use_compilation_cache
    from finecausal_jax.runtime.layout import make_layout
    from finecausal_jax.scoring import (
        assessment_report,
        bank,
        conformal,
        masks,
        predictions,
        report,
        truth,
    )
    from finecausal_jax.settings import things
    from tfds_finecausal.rendered.truth import read_truth

    known = read_truth(flags.truth) if flags.truth else None
    sides = things.open_dives(settings)
    without = {name: _without_masks(sides[name]) for name in ("train", "test")}
    if flags.masks and any(without.values()):
        raise InputError(
            f"--masks needs the masks of all dives, {without['train']} of "
            f"{len(sides['train'].infos)} training dives and {without['test']} of "
            f"{len(sides['test'].infos)} test dives have none: leave --masks out"
        )
    use_compilation_cache(settings.train.compilation_cache, folder)
    layout = make_layout()
    trained = things.load_trained(settings, folder, flags.checkpoint, flags.weights, layout)
    scorer = things.make_scorer(settings, trained.variables, layout)
    encodings = None
    if flags.bank:
        banked = {name: sides[name] for name in ("train", "test")}
        encodings = bank.load_bank(flags.bank, bank.make_fingerprint(scorer, banked))
    result = things.evaluate_split(settings, scorer, sides, encodings)
    name = settings.data_name
    infos = _tested(settings, sides)
    given = predictions.from_dives("FineCausal", result.dives, infos)
    calibration = None
    if result.calibration:
        calibration = predictions.from_dives(
            "FineCausal", result.calibration, sides["calibration"].infos
        )
    assessed = _assess(flags, settings, sides, given, calibration)
    if calibration is not None:
        learnt = conformal.calibrate(calibration, settings.evaluate.score_level)
        conformal.write(learnt, folder / "calibration.json", trained.name)
    pictures = []
    if known is not None:
        result = dataclasses.replace(result, truth=truth.compare_with_truth(given, known))
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
    if any(without.values()):
        print(
            f"{without['test']} of {len(sides['test'].infos)} test dives and {without['train']} of "
            f"{len(sides['train'].infos)} training dives have no mask: mask figures are of the "
            "others, none where there are no others"
        )
    assessment_report.print_assessment(assessed, data_name=name)
    table = report.write_json(
        result,
        folder / "evaluation.json",
        data_name=name,
        step=trained.step,
        besides={"assessment": assessment_report.to_json(assessed)},
    )
    every = given if calibration is None else given.joined(calibration)
    predicted = predictions.write(every, folder / "predictions.csv")
    plot = report.write_scatter(result, folder / "evaluation.png", data_name=name)
    page = _write_page(settings, folder, sides, assessed, truth=result.truth, masks=result.masks)
    look_at = ", ".join(str(one) for one in (page, plot, *pictures))
    print(f"scored by {trained.name}. Look at {look_at}; all in {table}, for --against {predicted}")
    return 0


def _write_page(
    settings: "Settings",
    folder: pathlib.Path,
    sides: "Mapping[str, Dives]",
    assessed: "Assessment",
    *,
    truth: "Mapping[str, Mapping[str, float]]",
    masks: "Mapping[str, Mapping[str, float]]",
) -> pathlib.Path:
    from finecausal_jax.pages import evaluation as page
    from finecausal_jax.scoring.report import MASK_TITLES

    tables = []
    if truth:
        rows = [(part, one["network"], one["judges"]) for part, one in truth.items()]
        tables.append(
            page.Table(
                "What is known of the rendered dives",
                "Spearman of the predicted execution, and of the judges', with the truth by aspect "
                "and stage.",
                ("aspect or stage", assessed.name, "judges"),
                rows,
            )
        )
    if masks:
        names = ("threshold", "mask_iou", "mask_f1", "mask_recall")
        rows = [
            (title, *(masks[which][name] for name in names)) for which, title in MASK_TITLES.items()
        ]
        tables.append(
            page.Table(
                "Masks",
                "Predicted masks of the test dives, each dive once.",
                ("which", "threshold", "IoU", "F1", "recall"),
                rows,
            )
        )
    thumbnails = {}
    if settings.evaluate.thumbnails:
        worst = [assessed.predictions.infos[row].key for row in page.worst_dives(assessed)]
        place = {info.key: row for row, info in enumerate(sides["test"].infos)}
        thumbnails = page.thumbnails_of(sides["test"], [place[key] for key in worst])
    return page.write_page(
        assessed,
        folder / "evaluation.html",
        data_name=settings.data_name,
        thumbnails=thumbnails,
        tables=tables,
    )


def _without_masks(source: "Dives") -> int:
    return sum(not info.has_masks for info in source.infos)


def _tested(settings: "Settings", sides: "Mapping[str, Dives]") -> tuple[Any, ...]:
    """What is known of the dives that are scored."""
    from finecausal_jax.settings import things

    return tuple(sides["test"].infos[row] for row in things.tested_rows(settings, sides["test"]))


def _assess(
    flags: Any,
    settings: "Settings",
    sides: "Mapping[str, Dives]",
    given: "Predictions",
    calibration: "Predictions | None",
) -> "Assessment":
    """All figures of predictions, beside those of --against."""
    from finecausal_jax.scoring import predictions
    from finecausal_jax.scoring.assessment import assess
    from finecausal_jax.scoring.conformal import calibrate
    from finecausal_jax.scoring.intervals import Bootstrap

    other = None
    if flags.against:
        known = [info for side in sides.values() for info in side.infos]
        other = predictions.read(flags.against, given.infos, known)
    return assess(
        given,
        sides["train"].infos,
        Bootstrap(settings.evaluate.resamples, seed=settings.seed),
        calibration=calibration and calibrate(calibration, settings.evaluate.score_level),
        other=other,
    )
