"""Draws everything about a synthetic release except its pictures: who dives what, and how well."""

from __future__ import annotations

import dataclasses

from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.dive_numbers import DIFFICULTY, parse_dive_number
from tfds_finecausal.rendered.confounding import draw_cue, parse_confounders
from tfds_finecausal.rendered.judging import (
    Execution,
    draw_execution,
    execution_points,
    judge_marks,
)
from tfds_finecausal.rendered.motion import Habits, Timeline, draw_habits, draw_timeline
from tfds_finecausal.rendered.streams import Purpose, stream
from tfds_finecausal.rendered.venue import Venue, draw_venue

LEAST_COMPETITIONS = 2  # a platform and a springboard: each dive number is for one at least


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
      unseen_competitions: how many of them, the last ones, hold all test dives and no training
        dive. 0: test dives come from all competitions, as in the official split.
      dive_numbers: how many dive numbers occur, the most frequent of the sport first.
      confounders: parts of the venue whose looks go by a cue a dive and not by the competition:
        some of background, clothing, camera and lighting, with commas between, or all.
      confounding: how strongly the cue tells the quality of a training dive, -1 to 1.
      test_confounding: the same of a test dive: 0 is untied, below 0 turned round.
    """

    train_dives: int = 180
    test_dives: int = 60
    frames: tuple[int, int] = (96, 108)
    width: int = 160
    height: int = 90
    seed: int = 0
    competitions: int = 8
    unseen_competitions: int = 0
    dive_numbers: int = 12
    confounders: str = ""
    confounding: float = 0.0
    test_confounding: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(int(count) for count in self.frames))
        problems = []
        if self.train_dives < 1 or self.test_dives < 0:
            problems.append(f"train_dives={self.train_dives}, test_dives={self.test_dives}")
        if len(self.frames) != 2 or not 20 <= self.frames[0] <= self.frames[1]:
            problems.append(f"frames={self.frames}, two ascending numbers from 20")
        if self.width < 32 or self.height < 32:
            problems.append(f"width={self.width}, height={self.height}, from 32 pixels")
        if self.competitions < LEAST_COMPETITIONS:
            problems.append(f"competitions={self.competitions}, from {LEAST_COMPETITIONS}")
        most = self.competitions - LEAST_COMPETITIONS
        if self.unseen_competitions and not LEAST_COMPETITIONS <= self.unseen_competitions <= most:
            problems.append(
                f"unseen_competitions={self.unseen_competitions} of {self.competitions}, 0 or from "
                f"{LEAST_COMPETITIONS}, with {LEAST_COMPETITIONS} left to train on"
            )
        if not 1 <= self.dive_numbers <= len(DIFFICULTY):
            problems.append(f"dive_numbers={self.dive_numbers}, from 1 to {len(DIFFICULTY)}")
        for name in ("confounding", "test_confounding"):
            if not -1.0 <= getattr(self, name) <= 1.0:
                problems.append(f"{name}={getattr(self, name)}, from -1 to 1")
        try:
            tied = parse_confounders(self.confounders)
        except InputError as error:
            problems.append(str(error))
        else:
            if not tied and (self.confounding or self.test_confounding):
                problems.append("confounding without confounders: say which, or all")
        if problems:
            raise InputError("cannot render with these settings: " + "; ".join(problems))

    @property
    def tied(self) -> tuple[str, ...]:
        """The parts of the venue that go by the cue."""
        return parse_confounders(self.confounders)


@dataclasses.dataclass(frozen=True)
class DivePlan:
    """A dive before it is drawn. With the settings' seed and size, it fixes every picture.

    Attributes:
      number: position of the dive in the release; names its random streams.
      split: `train` or `test`.
      competition, index: the dive's key.
      dive_number, difficulty, marks, score: as annotated; marks are the judges'.
      execution: quality of what judges look at.
      timeline: when the segments start.
      habits: what differs from diver to diver and no judge looks at.
      first_frame: frame number of the first frame in the untrimmed broadcast.
      venue: looks of the competition.
      cue: what the confounded parts of the venue tell, in 0..1.
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
    timeline: Timeline
    habits: Habits
    first_frame: int
    venue: Venue
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
    seed = settings.seed
    venues = _plan_venues(settings)
    names = list(venues)
    unseen = names[len(names) - settings.unseen_competitions :]
    places = {"train": [name for name in names if name not in unseen], "test": unseen or names}
    broadcasts = stream(seed, Purpose.BROADCASTS)
    next_frame = {name: int(broadcasts.integers(300, 3000)) for name in venues}
    for name in names[1::6]:  # a sixth of the real dives have frame numbers of six digits
        next_frame[name] += 99_000
    next_index = dict.fromkeys(venues, 0)
    dives = []
    for number, dive_number in enumerate(_draw_numbers(settings)):
        split = "train" if number < settings.train_dives else "test"
        fitting = [one for one in places[split] if _difficulty(dive_number, venues[one])]
        chosen = stream(seed, Purpose.COMPETITION, number).integers(len(fitting))
        competition = fitting[int(chosen)]
        execution = draw_execution(stream(seed, Purpose.EXECUTION, number))
        panel = stream(seed, Purpose.PANEL, number)
        marks = judge_marks(execution.quality, _panel(competition), panel)
        parsed = parse_dive_number(dive_number)
        timing = stream(seed, Purpose.TIMELINE, number)
        frames = int(timing.integers(settings.frames[0], settings.frames[1] + 1))
        timeline = draw_timeline(parsed, frames, timing)
        strength = settings.confounding if split == "train" else settings.test_confounding
        cue = draw_cue(execution.quality, strength, stream(seed, Purpose.CUE, number))
        difficulty = _difficulty(dive_number, venues[competition]) or 0.0
        next_index[competition] += 1
        pause = int(stream(seed, Purpose.PAUSE, number).integers(400, 1500))
        next_frame[competition] += frames + pause
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
                habits=draw_habits(parsed, stream(seed, Purpose.HABITS, number)),
                first_frame=next_frame[competition] - frames,
                venue=venues[competition],
                cue=cue,
            )
        )
    return dives


def _draw_numbers(settings: Settings) -> list[str]:
    """Draws every dive's number, the first ones of the sport more often."""
    numbers = list(DIFFICULTY)[: settings.dive_numbers]
    popularity = [(1 + place) ** -0.5 for place in range(len(numbers))]
    shares = [one / sum(popularity) for one in popularity]
    count = settings.train_dives + settings.test_dives
    chosen = stream(settings.seed, Purpose.NUMBERS).choice(len(numbers), size=count, p=shares)
    # Each number gets a training dive before any gets a second one; tests stay with those.
    seen = min(len(numbers), settings.train_dives)
    chosen[:seen] = range(seen)
    chosen[settings.train_dives :] %= seen
    return [numbers[one] for one in chosen]


def _difficulty(dive_number: str, venue: Venue) -> float | None:
    """The difficulty at the venue's height; None where nobody dives this number there."""
    return DIFFICULTY[dive_number][int(venue.board_height < 5)]


def _plan_venues(settings: Settings) -> dict[str, Venue]:
    """Returns the competitions' looks; platform and springboard take turns."""
    venues = {}
    for number in range(settings.competitions):
        height = 10.0 if number % 2 == 0 else 3.0
        event = "10m_Platform" if height > 5.0 else "3m_Springboard"
        panel = (7, 7, 5, 5, 3, 3)[number % 6]
        name = f"Rendered{number + 1:02d}_{event}_{panel}judges"
        venues[name] = draw_venue(height, settings.seed, number)
    return venues


def _panel(competition: str) -> int:
    return int(competition.removesuffix("judges")[-1])
