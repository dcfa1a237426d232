"""Whether scores follow the diver or the background: a test set scored again, edited.

Every edit of `backgrounds` is applied to the test dives, and either to their exemplars too or to
none of these. What an edited set loses is compared with the set whose divers were cut out and put
back, so that traces of editing count for nothing. It says what a network's scores depend on; a
network that ranks well without the diver has not looked at it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from finecausal_jax.data import preprocessing
from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.data.exemplars import evaluation_exemplars
from finecausal_jax.data.sources import Dives
from finecausal_jax.explain.backgrounds import CONTROL, EDITS, Scene
from finecausal_jax.explain.explanation import encode_frames, see
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.progress import progress
from finecausal_jax.scoring import intervals, metrics, predictions
from finecausal_jax.scoring.features import Encoding, Key
from finecausal_jax.scoring.intervals import Bootstrap, Figure
from finecausal_jax.scoring.predictions import Predictions
from finecausal_jax.scoring.protocol import Choice, score_dives
from finecausal_jax.scoring.scorer import Scorer

ORIGINAL = "as it is"
MASKS = ("release", "predicted")
_LEAST_FOR_A_RATIO = 0.2  # lower bound of the original's correlation: below, a ratio says nothing


class Setting(NamedTuple):
    """What was edited.

    Attributes:
      edit: a name of `backgrounds.EDITS`, or `ORIGINAL`.
      exemplars: "edited" alike, or "left".
    """

    edit: str
    exemplars: str


@dataclasses.dataclass(frozen=True, eq=False)
class Swapped:
    """The figures of an edited test set.

    Attributes:
      setting: what was edited.
      predictions: of the test dives.
      execution: Spearman of the predicted and the true execution.
      less_than_control: that of the control, exemplars treated alike, less this one's, of paired
        resamples: above 0 where the edit costs more than editing alone.
      r_l2_x100: relative error.
      r_l2_more: this one's R-l2 x100 less the control's.
      shift: mean of the predicted less the unedited predicted score, over the range of the true
        scores.
      kept: this one's execution Spearman over the original's; nan where the original's is not
        surely above 0.2.
    """

    setting: Setting
    predictions: Predictions
    execution: Figure
    less_than_control: Figure
    r_l2_x100: Figure
    r_l2_more: Figure
    shift: float
    kept: float


def swap(
    scorer: Scorer,
    sides: Mapping[str, Dives],
    choice: Choice,
    bootstrap: Bootstrap,
    *,
    rows: Sequence[int],
    masks: str = "release",
) -> list[Swapped]:
    """Scores the test dives under every edit.

    Args:
      scorer: what scores; test dives and exemplars are encoded once an edit.
      sides: "test", whose dives are scored, and "train", of which exemplars are chosen.
      choice: the exemplars.
      bootstrap: how intervals are made.
      rows: the test dives.
      masks: where the diver is: as the "release" has it, or as "predicted".

    Returns:
      The unedited set first, then each edit with exemplars edited and left.

    Raises:
      InputError: a dive has no mask, or as `protocol.score_dives`.
    """
    test, train = sides["test"], sides["train"]
    infos = tuple(test.infos[row] for row in rows)
    needed = sorted(
        {
            int(row)
            for info in infos
            for row in evaluation_exemplars(
                info, train.infos, count=choice.exemplars, seed=choice.seed
            )
        }
    )
    parts = ((test, list(rows)), (train, needed))
    encoded: dict[str, dict[Key, Encoding]] = {}
    for source, chosen in parts:
        for name, key, encoding in _encode(scorer, source, chosen, masks):
            encoded.setdefault(name, {})[key] = encoding
    quiet = dataclasses.replace(scorer, progress=False)
    queries = {info.key for info in infos}
    scored: dict[Setting, Predictions] = {}
    for name, found in encoded.items():
        for exemplars in ("edited", "left") if name != ORIGINAL else ("left",):
            known = found
            if exemplars == "left":
                known = {**encoded[ORIGINAL], **{k: v for k, v in found.items() if k in queries}}
            dives = score_dives(quiet, test, train, choice, rows=rows, encodings=known)
            scored[Setting(name, exemplars)] = predictions.from_dives(name, dives, infos)
    return figures(scored, bootstrap)


def figures(scored: Mapping[Setting, Predictions], bootstrap: Bootstrap) -> list[Swapped]:
    """The figures of predictions by what was edited; the unedited ones must be among them."""
    original = scored[Setting(ORIGINAL, "left")]
    clusters = intervals.numbered([info.competition for info in original.infos])
    execution = metrics.execution(original.true_score, original.difficulty)
    span = np.ptp(original.true_score)

    def rank(one: Predictions) -> intervals.Statistic:
        return intervals.spearman(one.completeness, execution)

    def error(one: Predictions) -> intervals.Statistic:
        parts = 100.0 * ((one.score - one.true_score) / span) ** 2
        return intervals.mean(parts)

    unedited = bootstrap.figure(rank(original), clusters)
    ratios = unedited.by_dives.low > _LEAST_FOR_A_RATIO
    found = []
    for setting, one in scored.items():
        control = scored.get(Setting(CONTROL, setting.exemplars), original)
        own = bootstrap.figure(rank(one), clusters)
        found.append(
            Swapped(
                setting,
                one,
                own,
                bootstrap.figure(
                    intervals.difference(rank(control), rank(one)), clusters, intervals.DIFFERENCE
                ),
                bootstrap.figure(error(one), clusters, intervals.ERROR),
                bootstrap.figure(
                    intervals.difference(error(one), error(control)), clusters, intervals.DIFFERENCE
                ),
                float(np.mean(one.score - original.score) / span),
                own.value / unedited.value if ratios else float("nan"),
            )
        )
    return found


def to_json(found: Sequence[Swapped]) -> list[dict[str, Any]]:
    """The figures in plain values, with the predicted completeness of every dive."""

    def figure(one: Figure) -> dict[str, Any]:
        return {
            "value": one.value,
            "by_dives": list(one.by_dives),
            "by_competitions": list(one.by_competitions),
        }

    return [
        {
            "edit": one.setting.edit,
            "exemplars": one.setting.exemplars,
            "execution_spearman": figure(one.execution),
            "less_than_put_back": figure(one.less_than_control),
            "r_l2_x100": figure(one.r_l2_x100),
            "r_l2_x100_more_than_put_back": figure(one.r_l2_more),
            "mean_shift_over_range": one.shift,
            "share_of_original_spearman": one.kept,
            "completeness": one.predictions.completeness.tolist(),
        }
        for one in found
    ]


def partner(infos: Sequence[DiveInfo], row: int) -> int:
    """The row of a dive of another competition: of the same dive number if there is one.

    Raises:
      InputError: all dives are of one competition.
    """
    own, count = infos[row], len(infos)
    others = [
        one
        for step in range(1, count)
        for one in [(row + step) % count]
        if infos[one].competition != own.competition
    ]
    if not others:
        raise InputError(
            f"all {count} dives are of the competition {own.competition}: a background of another "
            "one is taken from dives of several competitions"
        )
    same = [one for one in others if infos[one].dive_number == own.dive_number]
    return (same or others)[0]


def _encode(
    scorer: Scorer, source: Dives, rows: Sequence[int], masks: str
) -> Iterator[tuple[str, Key, Encoding]]:
    """Yields (edit, key, encoding) of every edit of some rows."""
    label = "editing and encoding"
    with progress(len(rows), label, "videos", show=scorer.progress) as bar:
        for row in rows:
            info = source.infos[row]
            own, transitions = _scene(scorer, source, row, masks)
            other, _ = _scene(scorer, source, partner(source.infos, row), masks)
            videos = {ORIGINAL: own.frames}
            videos |= {name: edit(own, other) for name, edit in EDITS.items()}
            stacked = np.stack(list(videos.values()))
            encoded = _in_batches(scorer, stacked)
            for place, name in enumerate(videos):
                one = jax.tree.map(lambda x, place=place: np.array(x[place]), encoded)
                yield name, info.key, Encoding(one, None, transitions)
            bar.update()


def _in_batches(scorer: Scorer, videos: np.ndarray) -> Any:
    """Features of videos, some at once, padded to one shape."""
    size = scorer.video_batch
    parts = []
    for first in range(0, len(videos), size):
        batch = videos[first : first + size]
        padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        placed = scorer.layout.place_batch(padded)
        features, _ = jax.device_get(encode_frames(scorer.model, scorer.variables, placed))
        count = len(batch)
        parts.append(jax.tree.map(lambda x, count=count: x[:count], features))
    return jax.tree.map(lambda *one: np.concatenate(one), *parts)


def _scene(scorer: Scorer, source: Dives, row: int, masks: str) -> tuple[Scene, np.ndarray]:
    """A dive's video with its diver, and its labelled transitions in sampled frames."""
    dive = source[row]
    video = preprocessing.evaluation_video(dive.clip, scorer.preprocessing)
    if masks == "predicted":
        diver = see(scorer, dive.clip).mask > scorer.mask_threshold
    elif video.mask is None:
        raise InputError(
            f"dive {dive.key} has no mask, which says where the diver is: build a release with "
            "masks, or take those that the network predicts (--masks=predicted)"
        )
    else:
        diver = video.mask >= 128
    transitions = np.array(dive.info.transitions(video.rows))
    return Scene(video.frames, diver, int(transitions[1])), transitions
