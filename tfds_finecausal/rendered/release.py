"""Renders a synthetic release in FineDiving-HM's layout, to run everything without the real data.

The real videos need a signed agreement with their authors. This package draws dives instead: an
articulated diver in a hall, executed well or badly in the ways judges look at, marked by a panel
as in the sport, and written with the file names, image formats and six annotation pickles of the
real release. `RENDERED.json` beside them holds the truth that no real release has, see `truth`.
Results on it say that the code works, never how well a model scores real dives.

    python -m tfds_finecausal.rendered --output=data/rendered --train_dives=180 --test_dives=60
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import io
import multiprocessing
import os
import pathlib
import pickle
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from finecausal_jax.runtime import progress as bars
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import check_folder
from tfds_finecausal.dive_numbers import parse_dive_number, sub_action_table
from tfds_finecausal.rendered.motion import simulate
from tfds_finecausal.rendered.plan import DivePlan, Settings, plan_dives
from tfds_finecausal.rendered.scene import Picture, Splash, draw_frames, draw_looks, draw_shake
from tfds_finecausal.rendered.streams import Purpose, stream
from tfds_finecausal.rendered.truth import MARKER, read_stamp, stamp, truth
from tfds_finecausal.rendered.venue import show_cue

NOTICE = "RENDERED.md"
JPEG_QUALITY = 88


def render_release(
    output_dir: str | os.PathLike[str],
    *,
    workers: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> pathlib.Path:
    """Renders a release.

    Everything is written to a temporary folder beside `output_dir`, which takes its place when it
    is complete: an interrupted run leaves nothing that looks finished. A release that was rendered
    with the same settings is kept as it is.

    Args:
      output_dir: where the release goes; config.data.manual_dir of the build.
      workers: worker processes; 0 draws in this process, None takes one a core.
      progress: whether to show how far it is.
      **settings: fields of `Settings`.

    Returns:
      The release's folder.

    Raises:
      InputError: a setting is unknown or out of range, or `output_dir` holds something else.
    """
    unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(Settings)})
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(Settings))
        raise InputError(f"unknown render settings {', '.join(unknown)}: expected some of {known}")
    plan = Settings(**settings)
    output = pathlib.Path(output_dir).absolute()
    check_folder(output, "config.data.manual_dir")
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).is_file():
            raise InputError(
                f"{output} is not empty and was not rendered by this command (no {MARKER} in it): "
                "choose another folder"
            )
        if read_stamp(output) == stamp(plan):
            return output
    partial = output.with_name(f".{output.name}.incomplete")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted run left
    partial.mkdir(parents=True)
    try:
        dives = plan_dives(plan)
        _draw_all(dives, plan, partial, workers, progress)
        _write_annotations(dives, partial / "Annotations")
        (partial / NOTICE).write_text(_notice(plan))
        (partial / MARKER).write_text(truth(plan, dives))
        _replace(output, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def draw_dive(dive: DivePlan, settings: Settings) -> Iterator[Picture]:
    """Draws the pictures of a dive.

    Each purpose has random numbers of its own, so a dive of which one thing is replaced, such as
    one aspect of its execution, its venue or its cue, is drawn as it was in all else.

    Args:
      dive: the dive.
      settings: size of the frames, seed, and which parts of the venue show the cue.
    """

    def rng(purpose: Purpose) -> np.random.Generator:
        return stream(settings.seed, purpose, dive.number)

    venue = show_cue(dive.venue, dive.cue, settings.tied)
    motion = simulate(
        parse_dive_number(dive.dive_number),
        dive.execution,
        dive.timeline,
        dive.habits,
        board_height=venue.board_height,
        view=venue.camera.view,
    )
    return draw_frames(
        motion,
        dive.timeline,
        venue,
        draw_looks(rng(Purpose.DIVER)),
        Splash(1.0 - dive.execution.splash, rng(Purpose.SPLASH)),
        draw_shake(dive.timeline.frames, rng(Purpose.SHAKE)),
        width=settings.width,
        height=settings.height,
        body_height=dive.habits.body_height,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `python -m tfds_finecausal.rendered --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_finecausal.rendered",
        description="Render a synthetic release in FineDiving-HM's layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Settings()
    add = parser.add_argument
    add("--output", required=True, help="folder to write; replaced only if rendered before")
    add("--train_dives", type=int, default=default.train_dives, help="dives to train on")
    add("--test_dives", type=int, default=default.test_dives, help="dives to test on")
    add("--frames", type=int, nargs=2, default=default.frames, help="least and most frames a dive")
    add("--width", type=int, default=default.width, help="frame width; 455 in the real release")
    add("--height", type=int, default=default.height, help="frame height; 256 in the real release")
    add("--seed", type=int, default=default.seed, help="same seed, same bytes")
    add("--competitions", type=int, default=default.competitions, help="each with its own looks")
    add(
        "--unseen_competitions",
        type=int,
        default=default.unseen_competitions,
        help="how many of them hold the test dives alone; 0: test dives are from all of them",
    )
    add("--dive_numbers", type=int, default=default.dive_numbers, help="how many dive numbers")
    add(
        "--confounders",
        default=default.confounders,
        help="parts of the venue that go by a cue a dive: some of background, clothing, camera and "
        "lighting, with commas between, or all",
    )
    add(
        "--confounding",
        type=float,
        default=default.confounding,
        help="how strongly the cue tells a training dive's quality: 0 to 1, or to -1 turned round",
    )
    add(
        "--test_confounding",
        type=float,
        default=default.test_confounding,
        help="the same of test dives: 0 is untied",
    )
    add("--workers", type=int, default=None, help="processes; default one a core, 0 for none")
    options = vars(parser.parse_args(arguments))
    output, workers = options.pop("output"), options.pop("workers")
    try:
        folder = render_release(output, workers=workers, **options)
    except InputError as error:
        parser.error(str(error))
    print(f"rendered (not real) release in {folder}")
    return 0


def _draw_all(
    dives: list[DivePlan],
    settings: Settings,
    folder: pathlib.Path,
    workers: int | None,
    progress: bool,
) -> None:
    """Draws and writes every dive, on worker processes unless `workers` is 0."""
    count = min(os.cpu_count() or 1 if workers is None else workers, len(dives))
    with bars.progress(len(dives), "rendering", "dives", show=progress) as bar:
        if count < 1:
            for dive in dives:
                _write_dive(dive, settings, folder)
                bar.update()
            return
        # Fresh processes: forking one in which JAX has started threads can hang.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(count, mp_context=context) as pool:
            jobs = [pool.submit(_write_dive, dive, settings, folder) for dive in dives]
            try:
                for job in concurrent.futures.as_completed(jobs):
                    job.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _write_dive(dive: DivePlan, settings: Settings, folder: pathlib.Path) -> None:
    """Writes the frames and masks of a dive, numbered as in the untrimmed broadcast."""
    frames = folder / "FineDiving" / dive.competition / str(dive.index)
    masks = folder / "FineDiving_HM" / dive.competition / str(dive.index)
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number, picture in enumerate(draw_dive(dive, settings), start=dive.first_frame):
        (frames / f"{number:05d}.jpg").write_bytes(_jpeg(picture.frame))
        (masks / f"{number:05d}.jpg").write_bytes(_jpeg(picture.diver))


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _write_annotations(dives: list[DivePlan], folder: pathlib.Path) -> None:
    """Writes the six pickles, with NumPy arrays and scalars as the real ones have them."""
    table = sub_action_table()
    labels_by_name = {name: label for label, name in table.items()}
    aqa, coarse, fine = {}, {}, {}
    for dive in dives:
        names = list(parse_dive_number(dive.dive_number).sub_actions)
        starts = np.array(dive.timeline.starts)
        segment = np.searchsorted(starts, np.arange(dive.timeline.frames), side="right") - 1
        labels = np.array([labels_by_name[name] for name in names], np.int64)[segment]
        # As released: positions within the dive, each of the last frame before another label.
        transits = starts[1:].astype(np.int64) - 1
        score, difficulty = float(dive.score), float(dive.difficulty)
        aqa[dive.key] = [dive.dive_number, score, difficulty, transits, labels]
        coarse[dive.key] = {
            "action_type": dive.dive_number,
            "start_frame": dive.first_frame,
            "end_frame": dive.first_frame + dive.timeline.frames - 1,
            "dive_score": score,
            "difficulty": difficulty,
            "judge_scores": list(dive.marks),
        }
        fine[dive.key] = {
            "action_type": dive.dive_number,
            "dive_score": score,
            "difficulty": difficulty,
            "steps_transit_frames": transits,
            "frames_labels": labels,
            "sub-action_types": {labels_by_name[name]: name for name in names},
        }
    contents = {
        "train_split": [dive.key for dive in dives if dive.split == "train"],
        "test_split": [dive.key for dive in dives if dive.split == "test"],
        "fine-grained_annotation_aqa": aqa,
        "FineDiving_coarse_annotation": coarse,
        "FineDiving_fine-grained_annotation": fine,
        "Sub_action_Types_Table": table,
    }
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=4))


def _notice(settings: Settings) -> str:
    return (
        "# Rendered data, not FineDiving\n\n"
        "Every file in this folder was made by a program (tfds_finecausal/rendered of the\n"
        "FineCausal JAX port) in the layout of the FineDiving-HM release. It holds nothing of\n"
        "the real videos, annotations or masks. Figures measured on it show that code works;\n"
        "they say nothing about how well a model scores real dives.\n\n"
        f"Assumed where the real data would be needed: {settings.train_dives} training and "
        f"{settings.test_dives} test dives, every\naspect of execution drawn evenly and "
        "independently of all else, judges who see exactly\nwhat is drawn (with a little noise), "
        "one diver a dive. RENDERED.json holds the truth.\n"
    )


def _replace(output: pathlib.Path, partial: pathlib.Path) -> None:
    """Puts the complete release where it belongs; an older rendering makes room."""
    if output.exists():
        old = output.with_name(f".{output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
        partial.rename(output)
        shutil.rmtree(old)
    else:
        partial.rename(output)
