"""Scores a dive that no data set holds: its exemplars, its result, and whether it is like theirs.

The dive number and the difficulty are given, not predicted: the score is for the dive that was
announced. Exemplars are dives of that number whose scores are known; where there are none, those of
the dive numbers with the most alike sub-actions, which the result says.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from finecausal_jax.data import seeding
from finecausal_jax.data.clips import Clip
from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.data.sampling import sample_frames
from finecausal_jax.data.sources import ClipList, Dives
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring.features import Encoding, Key
from finecausal_jax.scoring.protocol import Choice
from finecausal_jax.scoring.scorer import Score, Scorer, make_score
from tfds_finecausal.dive_numbers import DiveNumber, parse_dive_number

LEAST_DIFFICULTY, MOST_DIFFICULTY = 1.0, 5.0
LEAST_FRAMES = 16  # of a window of the network
_LEAST_IN_BANK = 20
_FAR = 0.99  # share of the bank's dives that are nearer to another one than what is called far


@dataclasses.dataclass(frozen=True, eq=False)
class Announced:
    """A dive to score.

    Attributes:
      clip: its images.
      dive_number: as announced, such as `407c`.
      difficulty: degree of difficulty, 1.0 to 5.0.

    Raises:
      InputError: the number is none, the difficulty is out of bounds, or there are too few frames.
    """

    clip: Clip
    dive_number: str
    difficulty: float

    def __post_init__(self) -> None:
        try:
            parse_dive_number(self.dive_number)
        except ValueError as error:
            raise InputError(str(error)) from error
        if not LEAST_DIFFICULTY <= self.difficulty <= MOST_DIFFICULTY:
            raise InputError(
                f"the difficulty is {self.difficulty:g}, expected {LEAST_DIFFICULTY:.1f} to "
                f"{MOST_DIFFICULTY:.1f}, as announced for the dive"
            )
        count = len(self.clip.frames)
        if count < LEAST_FRAMES:
            raise InputError(
                f"{self.clip.key[0]} has {count} frames, expected at least {LEAST_FRAMES}, from "
                "the takeoff to the entry"
            )


@dataclasses.dataclass(frozen=True)
class Exemplars:
    """Which dives a new one is compared with.

    Attributes:
      rows: of the source of exemplars.
      dive_numbers: theirs; the dive's own, or the nearest ones where it has none.
      is_own: whether they have the dive's own number.
    """

    rows: tuple[int, ...]
    dive_numbers: tuple[str, ...]
    is_own: bool


@dataclasses.dataclass(frozen=True, eq=False)
class NewScore:
    """A new dive's result.

    Attributes:
      dive_number, difficulty: as announced.
      score: predicted, points.
      completeness: predicted score over difficulty, points.
      votes: float64 [k], the completeness that each exemplar makes of it, points.
      exemplars: what is known of the exemplars.
      is_own_number: whether they have the dive's own number.
      stages: first and last frame (a row of the clip) of the three stages, from the transitions
        that most exemplars see.
      stage_parts: float64 [3], by how many points of completeness each stage moves the prediction
        off the exemplars' mean; they add up to completeness less that mean.
      distance: to the nearest dive of the bank, over the distance that is called far; None
        without a bank.
      comparison: what it is made of.
      interval: of the score, its ends in points and the share of dives that it was made for; None
        without a calibration.
    """

    dive_number: str
    difficulty: float
    score: float
    completeness: float
    votes: Float[np.ndarray, " k"]
    exemplars: tuple[DiveInfo, ...]
    is_own_number: bool
    stages: tuple[tuple[int, int], ...]
    stage_parts: Float[np.ndarray, " 3"]
    distance: float | None
    comparison: Score
    interval: tuple[float, float, float] | None = None

    @property
    def spread(self) -> float:
        """Standard deviation of the votes, points of completeness."""
        return float(np.std(self.votes))

    @property
    def is_far(self) -> bool:
        """Whether it is unlike all dives of the bank."""
        return self.distance is not None and self.distance > 1.0


def choose_exemplars(
    dive_number: str, key: Key, infos: Sequence[DiveInfo], choice: Choice
) -> Exemplars:
    """Chooses dives of a dive number, or of those whose sub-actions are most alike.

    Args:
      dive_number: of the new dive.
      key: its name, whose first part fixes which dives are chosen where there are more than enough.
      infos: dives whose scores are known.
      choice: how many, and a seed.

    Raises:
      InputError: there are no dives at all.
    """
    if not infos:
        raise InputError("there are no dives to compare with: expected at least one training dive")
    by_number: dict[str, list[int]] = collections.defaultdict(list)
    for row, info in enumerate(infos):
        by_number[info.dive_number].append(row)
    numbers = [dive_number]
    if dive_number not in by_number:
        near = {number: _apart(dive_number, number) for number in by_number}
        least = min(near.values())
        numbers = sorted(number for number, apart in near.items() if apart == least)
    rows = [row for number in numbers for row in by_number[number]]
    ranked = sorted(
        rows, key=lambda row: seeding.digest("new dive", choice.seed, key[0], infos[row].key)
    )
    return Exemplars(tuple(ranked[: choice.exemplars]), tuple(numbers), numbers == [dive_number])


def score_new(
    scorer: Scorer,
    dive: Announced,
    source: Dives,
    choice: Choice,
    encodings: Mapping[Key, Encoding] | None = None,
) -> NewScore:
    """Scores a new dive.

    Args:
      scorer: what scores.
      dive: the dive.
      source: dives whose scores are known.
      choice: how many of them it is compared with.
      encodings: those at hand, of the new dive or of dives of `source`, such as a bank's. With at
        least twenty of the latter it is said whether the new dive lies far from all.

    Raises:
      InputError: as `Scorer.score` and `choose_exemplars`.
    """
    clip = dataclasses.replace(dive.clip, masks=None)
    chosen = choose_exemplars(dive.dive_number, clip.key, source.infos, choice)
    infos = tuple(source.infos[row] for row in chosen.rows)
    if clip.key in {info.key for info in infos}:
        raise InputError(f"the new dive and an exemplar are both called {clip.key}")
    known = dict(encodings or {})
    if clip.key not in known:
        known.update(scorer.encode(ClipList([clip]), [0], "the dive"))
    missing = [row for row in chosen.rows if source.infos[row].key not in known]
    known.update(scorer.encode(source, missing, "exemplars"))
    compared = scorer.compare(known, [(clip.key, info.key) for info in infos])
    comparison = make_score(clip.key, infos, compared, scorer.model.target)
    per_point = dive.difficulty if comparison.target == "score" else 1.0
    if comparison.target == "score":
        # Exemplars of another difficulty vote for a score; what it means is left to the number.
        votes = comparison.votes / dive.difficulty
    else:
        votes = comparison.votes
    score = comparison.points(dive.difficulty)
    sampled = sample_frames(clip.frame_numbers, scorer.preprocessing.frames, timed=clip.timed)
    first, second = (int(sampled[at]) for at in _most(comparison.transitions))
    last = len(clip.frames) - 1
    return NewScore(
        dive_number=dive.dive_number,
        difficulty=dive.difficulty,
        score=score,
        completeness=score / dive.difficulty,
        votes=votes,
        exemplars=infos,
        is_own_number=chosen.is_own,
        stages=((0, first), (first, second), (second, last)),
        stage_parts=comparison.stage_deltas.mean(axis=0) / per_point,
        distance=_distance(encodings or {}, known[clip.key], source),
        comparison=comparison,
    )


def _most(transitions: np.ndarray) -> tuple[int, int]:
    """The transitions that most exemplars see; of equally many, the earlier ones."""
    found, counts = np.unique(transitions, axis=0, return_counts=True)
    first, second = found[np.argmax(counts)]
    return int(first), int(second)


def _apart(number: str, other: str) -> tuple[int, int]:
    """How unlike two dives are: sub-actions of one alone, then half turns between them."""
    one, two = parse_dive_number(number), _parsed(other)
    if two is None:
        return (99, 99)
    names = [collections.Counter(dive.sub_actions) for dive in (one, two)]
    alone = sum(((names[0] - names[1]) + (names[1] - names[0])).values())
    turns = abs(one.half_somersaults - two.half_somersaults)
    return alone, turns + abs(one.half_twists - two.half_twists)


def _parsed(number: str) -> DiveNumber | None:
    try:
        return parse_dive_number(number)
    except ValueError:  # of a release, which may call dives as it likes
        return None


def _distance(known: Mapping[Key, Encoding], dive: Encoding, source: Dives) -> float | None:
    """How far a dive lies from the nearest of a bank, over what is far for its own dives.

    Of the mean features of motion and of frames, each over its deviation in the bank. Far is what
    one in a hundred of the bank's dives is from its nearest neighbour.
    """
    banked = [info.key for info in source.infos if info.key in known]
    if len(banked) < _LEAST_IN_BANK:
        return None  # too few to say what is usual
    vectors = np.stack([_summary(known[one]) for one in banked])
    deviation = vectors.std(axis=0)
    used = deviation > 1e-6
    vectors = vectors[:, used] / deviation[used]
    new = _summary(dive)[used] / deviation[used]
    squares = np.einsum("nd,nd->n", vectors, vectors)
    apart = squares[:, None] + squares[None] - 2.0 * vectors @ vectors.T
    np.fill_diagonal(apart, np.inf)
    nearest = np.sqrt(np.maximum(apart.min(axis=1), 0.0))
    own = float(np.sqrt(((vectors - new) ** 2).sum(axis=1).min()))
    return own / float(np.quantile(nearest, _FAR))


def _summary(encoding: Encoding) -> Float[np.ndarray, " d"]:
    features = encoding.features
    parts = (features.video_feature, features.frame_feature)
    return np.concatenate([np.asarray(part, np.float64).mean(axis=0) for part in parts])
