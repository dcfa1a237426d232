"""Renders a made release in FineDiving-HM's exact layout, for running everything without the data.

The real videos need a signed agreement with their authors. This module draws dives instead: an
articulated diver in a hall, executed well or badly in the ways judges look at, marked by a panel
as in the sport, and written with the file names, image formats and six annotation pickles of the
real release. Results on it say that the code works, never how well a model scores real dives.

    python -m tfds_finecausal.rendered --output=data/rendered --train_dives=180 --test_dives=60
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import pickle
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from tfds_finecausal import rendered_motion, rendered_scene, rendered_venue
from tfds_finecausal.dive_numbers import DIFFICULTY, parse_dive_number, sub_action_table
from tfds_finecausal.rendered_judging import (
    Execution,
    draw_execution,
    execution_points,
    judge_marks,
)

RENDERER_VERSION = 1  # raise it when the same settings give other bytes
MARKER = "RENDERED.json"  # only a folder with this file is ever replaced
NOTICE = "RENDERED.md"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to render.

    Attributes:
      train_dives: dives of the training split.
      test_dives: dives of the test split.
      frames: least and largest number of frames of a dive.
      width: frame width, pixels.
      height: frame height, pixels.
      seed: everything is drawn from it; the number of worker processes changes nothing.
      competitions: number of competitions, each with its own looks and panel of judges.
      dive_numbers: how many dive numbers occur, the most frequent of the sport first.
      background_bias: 0 to 1. Above 0 the walls' colour tells the execution quality of training
        dives and, with the same colours, nothing about that of test dives.
    """

    train_dives: int = 180
    test_dives: int = 60
    frames: tuple[int, int] = (96, 108)
    width: int = 160
    height: int = 90
    seed: int = 0
    competitions: int = 8
    dive_numbers: int = 12
    background_bias: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(int(count) for count in self.frames))
        problems = []
        if self.train_dives < 1 or self.test_dives < 0:
            problems.append(f"train_dives={self.train_dives}, test_dives={self.test_dives}")
        if len(self.frames) != 2 or not 20 <= self.frames[0] <= self.frames[1]:
            problems.append(f"frames={self.frames}, two ascending numbers from 20")
        if self.width < 32 or self.height < 32:
            problems.append(f"width={self.width}, height={self.height}, from 32 pixels")
        if self.competitions < 2:
            problems.append(f"competitions={self.competitions}, from 2")
        if not 1 <= self.dive_numbers <= len(DIFFICULTY):
            problems.append(f"dive_numbers={self.dive_numbers}, from 1 to {len(DIFFICULTY)}")
        if not 0.0 <= self.background_bias <= 1.0:
            problems.append(f"background_bias={self.background_bias}, from 0 to 1")
        if problems:
            raise ValueError("cannot render with these settings: " + "; ".join(problems))


@dataclasses.dataclass(frozen=True)
class DivePlan:
    """One dive before it is drawn: its annotation, and what its pictures depend on.

    Attributes:
      number: position of the dive in the release; with the seed, it fixes every picture.
      split: `train` or `test`.
      competition, index: the dive's key.
      dive_number, difficulty, marks, score: as annotated; marks are the judges'.
      execution: quality of what judges look at.
      timeline: when the segments start.
      first_frame: frame number of the first frame in the untrimmed broadcast.
      venue: the competition's looks.
      cue: what the wall's colour tells, in [0, 1]; used as far as `background_bias` goes.
    """

    number: int
    split: str
    competition: str
    index: int
    dive_number: str
    difficulty: float
    marks: tuple[float, ...]
    score: float
    execution: Execution
    timeline: rendered_motion.Timeline
    first_frame: int
    venue: rendered_venue.Venue
    cue: float

    @property
    def key(self) -> tuple[str, int]:
        """The dive's name in every annotation table."""
        return (self.competition, self.index)


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
      progress: whether to show a progress bar.
      **settings: fields of `Settings`.

    Returns:
      The release's folder.

    Raises:
      ValueError: a setting is unknown or out of range, or `output_dir` holds something else.
    """
    unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(Settings)})
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(Settings))
        raise ValueError(f"unknown render settings {', '.join(unknown)}: expected some of {known}")
    plan = Settings(**settings)
    output = pathlib.Path(output_dir).absolute()
    stamp = {"version": RENDERER_VERSION, **dataclasses.asdict(plan), "frames": list(plan.frames)}
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).is_file():
            raise ValueError(
                f"{output} is not empty and was not rendered by this command (no {MARKER} in it): "
                "choose another folder"
            )
        if json.loads((output / MARKER).read_text()) == stamp:
            return output
    partial = output.with_name(f".{output.name}.incomplete")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted run left
    partial.mkdir(parents=True)
    try:
        dives = plan_dives(plan)
        _draw_all(dives, plan, partial, workers, progress)
        _write_annotations(dives, partial / "Annotations")
        (partial / NOTICE).write_text(_notice(plan))
        (partial / MARKER).write_text(json.dumps(stamp, indent=1))
        _replace(output, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def plan_dives(settings: Settings) -> list[DivePlan]:
    """Draws every dive of a release except its pictures.

    Args:
      settings: what to render.

    Returns:
      The dives, training split first. Every dive number of a test dive occurs in training.
    """
    rng = np.random.default_rng((settings.seed, 0))
    venues = _plan_venues(settings)
    numbers = list(DIFFICULTY)[: settings.dive_numbers]
    popularity = 1.0 / np.sqrt(1.0 + np.arange(len(numbers)))
    count = settings.train_dives + settings.test_dives
    chosen = rng.choice(len(numbers), size=count, p=popularity / popularity.sum())
    # Each number gets a training dive before any gets a second one; tests stay with those.
    seen = min(len(numbers), settings.train_dives)
    chosen[:seen] = np.arange(seen)
    chosen[settings.train_dives :] %= seen
    next_index = dict.fromkeys(venues, 0)
    next_frame = {name: int(rng.integers(300, 3000)) for name in venues}
    dives = []
    for number in range(count):
        own = np.random.default_rng((settings.seed, 1, number))
        dive_number = numbers[chosen[number]]
        heights = [height for height in (0, 1) if DIFFICULTY[dive_number][height] is not None]
        fitting = [name for name, one in venues.items() if int(one.board_height < 5) in heights]
        competition = fitting[int(own.integers(len(fitting)))]
        venue = venues[competition]
        difficulty = DIFFICULTY[dive_number][int(venue.board_height < 5)] or 0.0
        execution = draw_execution(own)
        marks = judge_marks(execution.quality, _panel(competition), own)
        frames = int(own.integers(settings.frames[0], settings.frames[1] + 1))
        timeline = rendered_motion.draw_timeline(parse_dive_number(dive_number), frames, own)
        other = draw_execution(own)  # what the walls of a test dive tell: another dive's quality
        split = "train" if number < settings.train_dives else "test"
        next_index[competition] += 1
        next_frame[competition] += frames + int(own.integers(400, 1500))
        dives.append(
            DivePlan(
                number=number,
                split=split,
                competition=competition,
                index=next_index[competition],
                dive_number=dive_number,
                difficulty=difficulty,
                marks=marks,
                score=round(execution_points(marks) * difficulty, 2),
                execution=execution,
                timeline=timeline,
                first_frame=next_frame[competition] - frames,
                venue=venue,
                cue=(execution if split == "train" else other).quality,
            )
        )
    return dives


def draw_dive(dive: DivePlan, settings: Settings) -> Iterator[tuple[bytes, bytes]]:
    """Draws the pictures of a dive.

    Args:
      dive: the dive.
      settings: size of the frames, seed and background bias.

    Yields:
      JPEG bytes of each frame and of its mask.
    """
    rng = np.random.default_rng((settings.seed, 2, dive.number))
    body_height = float(rng.uniform(1.6, 1.78))
    looks = rendered_scene.draw_looks(rng)
    venue, bias = dive.venue, settings.background_bias
    if bias > 0.0:
        told = zip(venue.wall, rendered_venue.cue_colour(dive.cue), strict=True)
        wall = tuple((1.0 - bias) * own + bias * cue for own, cue in told)
        venue = dataclasses.replace(venue, wall=wall)
    motion = rendered_motion.simulate(
        parse_dive_number(dive.dive_number),
        dive.execution,
        dive.timeline,
        board_height=venue.board_height,
        body_height=body_height,
        view=venue.view,
        rng=rng,
    )
    return rendered_scene.draw_frames(
        motion,
        dive.timeline,
        1.0 - dive.execution.splash,
        venue,
        looks,
        width=settings.width,
        height=settings.height,
        body_height=body_height,
        rng=rng,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `python -m tfds_finecausal.rendered --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_finecausal.rendered",
        description="Render a made release in FineDiving-HM's layout.",
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
    add("--dive_numbers", type=int, default=default.dive_numbers, help="how many dive numbers")
    add(
        "--background_bias",
        type=float,
        default=default.background_bias,
        help="0 to 1: how far the walls tell a training dive's quality (never a test dive's)",
    )
    add("--workers", type=int, default=None, help="processes; default one a core, 0 for none")
    options = vars(parser.parse_args(arguments))
    output, workers = options.pop("output"), options.pop("workers")
    try:
        folder = render_release(output, workers=workers, **options)
    except ValueError as error:
        parser.error(str(error))
    print(f"rendered (not real) release in {folder}")
    return 0


def _plan_venues(settings: Settings) -> dict[str, rendered_venue.Venue]:
    """Returns the competitions' looks; platform and springboard take turns."""
    venues = {}
    for number in range(settings.competitions):
        rng = np.random.default_rng((settings.seed, 3, number))
        height = 10.0 if number % 2 == 0 else 3.0
        event = "10m_Platform" if height > 5.0 else "3m_Springboard"
        panel = (7, 7, 5, 5, 3, 3)[number % 6]
        name = f"Rendered{number + 1:02d}_{event}_{panel}judges"
        texture = int(rng.integers(2**31))
        venues[name] = rendered_venue.draw_venue(height, texture, rng)
    return venues


def _panel(competition: str) -> int:
    return int(competition.removesuffix("judges")[-1])


def _draw_all(
    dives: list[DivePlan],
    settings: Settings,
    folder: pathlib.Path,
    workers: int | None,
    progress: bool,
) -> None:
    """Draws and writes every dive, on worker processes unless `workers` is 0."""
    bar = tqdm.tqdm(total=len(dives), desc="render", unit="dive", disable=not progress)
    count = min(os.cpu_count() or 1 if workers is None else workers, len(dives))
    with bar:
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
    for number, (frame, mask) in enumerate(draw_dive(dive, settings), start=dive.first_frame):
        (frames / f"{number:05d}.jpg").write_bytes(frame)
        (masks / f"{number:05d}.jpg").write_bytes(mask)


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
        transits = (dive.first_frame + starts[1:]).astype(np.int64)
        score, difficulty = np.float64(dive.score), np.float64(dive.difficulty)
        aqa[dive.key] = [dive.dive_number, score, difficulty, transits, labels]
        coarse[dive.key] = {
            "action_type": dive.dive_number,
            "start_frame": dive.first_frame,
            "end_frame": dive.first_frame + dive.timeline.frames - 1,
            "dive_score": score,
            "difficulty": difficulty,
            "judge_scores": np.array(dive.marks),
        }
        fine[dive.key] = {
            "action_type": dive.dive_number,
            "dive_score": score,
            "difficulty": difficulty,
            "steps_transit_frames": transits,
            "frames_labels": labels,
            "sub-action_types": names,
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
        "Every file in this folder was made by a program (tfds_finecausal/rendered.py of the\n"
        "FineCausal JAX port) in the layout of the FineDiving-HM release. It holds nothing of\n"
        "the real videos, annotations or masks. Figures measured on it show that code works;\n"
        "they say nothing about how well a model scores real dives.\n\n"
        f"Assumed where the real data would be needed: {settings.train_dives} training and "
        f"{settings.test_dives} test dives, execution\nquality drawn uniformly and independently "
        "of the dive number, judges who see exactly\nwhat is drawn (with a little noise), one "
        "diver a dive.\n"
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


if __name__ == "__main__":
    raise SystemExit(main())
