"""Draws everything about a synthetic release except its pictures: who dives what, and how well."""

from __future__ import annotations

import dataclasses

import numpy as np

from finecausal_jax.runtime.errors import InputError
from tfds_finecausal import rendered_motion, rendered_venue
from tfds_finecausal.dive_numbers import DIFFICULTY, parse_dive_number
from tfds_finecausal.rendered_judging import (
    Execution,
    draw_execution,
    execution_points,
    judge_marks,
)


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
            raise InputError("cannot render with these settings: " + "; ".join(problems))


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
    for name in list(venues)[1::6]:  # a sixth of the real dives have frame numbers of six digits
        next_frame[name] += 99_000
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
