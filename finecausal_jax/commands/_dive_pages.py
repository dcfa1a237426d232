"""What `score` and `explain` share: one dive scored, explained and written as a page."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finecausal_jax.data.dives import Dive
from finecausal_jax.data.preprocessing import evaluation_video
from finecausal_jax.data.sources import Dives
from finecausal_jax.explain import explanation, pixels
from finecausal_jax.explain.explanation import Explanation, Seen
from finecausal_jax.pages import dive as page
from finecausal_jax.pages.dive import Shown
from finecausal_jax.runtime.progress import progress
from finecausal_jax.scoring import metrics, new_dive, new_dive_report
from finecausal_jax.scoring.conformal import Calibration
from finecausal_jax.scoring.features import Encoding, Key
from finecausal_jax.scoring.new_dive import Announced, NewScore
from finecausal_jax.scoring.protocol import Choice
from finecausal_jax.scoring.scorer import Scorer
from finecausal_jax.settings import Settings

MEANINGLESS = (
    "These weights were trained on rendered dives: of a real dive this score means nothing."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Reporter:
    """Scores and explains dives, one after the other; a second one compiles nothing.

    Attributes:
      settings: for the choice of exemplars, and whether dives of the data set may be shown.
      scorer: what scores.
      train: dives whose scores are known.
      known: encodings at hand, such as a bank's.
      pixels: whether to intervene on pixels too, each a pass through the encoder.
    """

    settings: Settings
    scorer: Scorer
    train: Dives
    known: Mapping[Key, Encoding] = dataclasses.field(default_factory=dict)
    pixels: bool = True

    def report(
        self,
        dive: Announced,
        path: pathlib.Path,
        *,
        name: str,
        warnings: Sequence[str] = (),
        times: Sequence[float] | None = None,
        truth: Sequence[tuple[str, float]] = (),
        calibration: Calibration | None = None,
    ) -> dict[str, Any]:
        """Writes a dive's page, and its result beside it as JSON.

        Args:
          dive: the dive.
          path: of the page; the JSON file has the same name but for the suffix.
          name: of the video, for people.
          warnings: what makes the score doubtful from the start.
          times: when the clip's frames are shown, seconds.
          truth: of a rendered dive, its aspects and their quality.
          calibration: how wide the score's interval is.

        Returns:
          What the JSON file holds.
        """
        choice = Choice(self.settings.evaluate.exemplars, self.settings.seed)
        infos = self.train.infos
        known = dict(self.known)
        seen = explanation.see(self.scorer, dive.clip)
        known[dive.clip.key] = seen.encoding
        chosen = new_dive.choose_exemplars(dive.dive_number, dive.clip.key, infos, choice)
        missing = [row for row in chosen.rows if infos[row].key not in known]
        known.update(self.scorer.encode(self.train, missing, "exemplars"))
        result = new_dive.score_new(self.scorer, dive, self.train, choice, known)
        keys = [info.key for info in result.exemplars]
        why = explanation.explain(self.scorer, seen.encoding, keys, known)
        if calibration is not None:
            half = calibration.half_width(dive.dive_number, dive.difficulty)
            interval = (result.score - half, result.score + half, calibration.level)
            result = dataclasses.replace(result, interval=interval)
        said = [*warnings, *new_dive_report.warnings_of(result)]
        report = new_dive_report.to_json(result, name, times, said)
        best = max(result.exemplars, key=lambda info: info.completeness)
        other = self.train[self.train.keys.index(best.key)]
        if self.pixels:
            why = self._with_pixels(why, seen, result, other, known)
        report["effects"] = {one.name: [one.mean, one.spread] for one in why.effects}
        shown = [_own(seen, result)]
        if self.settings.evaluate.thumbnails:
            shown.append(self._exemplar(other))
        page.write_page(path, result, why, name=name, warnings=said, shown=shown, truth=truth)
        new_dive_report.write_json(report, path.with_suffix(".json"))
        return report

    def _with_pixels(
        self,
        why: Explanation,
        seen: Seen,
        result: NewScore,
        other: Dive,
        known: Mapping[Key, Encoding],
    ) -> Explanation:
        """The same with effects of interventions on pixels, some taken from one exemplar."""
        theirs = explanation.see(self.scorer, other.clip)
        cuts = [
            (ends[0][1], ends[1][1])
            for ends in (
                _own_stages(seen, result),
                _stages(other.info.transitions(theirs.rows), len(theirs.frames)),
            )
        ]
        changed = pixels.edits(pixels.pixels_of(seen, cuts[0]), pixels.pixels_of(theirs, cuts[1]))
        keys = [info.key for info in result.exemplars]
        with progress(len(changed), "interventions on pixels", "videos") as bar:
            effects = []
            for name, frames in changed.items():
                effects += pixels.effects_of(
                    self.scorer, {name: frames}, seen.encoding, keys, known
                )
                bar.update(1)
        effects = [dataclasses.replace(one, name=f"pixels, {one.name}") for one in effects]
        return dataclasses.replace(why, effects=(*why.effects, *effects))

    def _exemplar(self, other: Dive) -> Shown:
        """An exemplar, to be shown beside the dive."""
        info = other.info
        video = evaluation_video(other.clip, self.scorer.preprocessing)
        stages = _stages(info.transitions(video.rows), len(video.frames))
        title = f"Exemplar {info.index} of {info.competition}: {info.score:.2f} points"
        return Shown(title, page.enlarged(video.frames), stages)


def warnings_for(data_name: str) -> list[str]:
    """What is to be said of every score of an own video by weights that were trained on this."""
    return [MEANINGLESS] if "rendered" in data_name else []


def _own(seen: Seen, result: NewScore) -> Shown:
    frames = page.outlined(seen.frames, seen.mask > metrics.LOGIT_THRESHOLD)
    stages = _own_stages(seen, result)
    return Shown("This dive, as the network sees it", page.enlarged(frames), stages)


def _own_stages(seen: Seen, result: NewScore) -> list[tuple[int, int]]:
    """The stages of a scored dive, among the frames that were sampled."""
    cuts = np.searchsorted(seen.rows, [result.stages[1][0], result.stages[2][0]])
    return _stages(cuts, len(seen.frames))


def _stages(cuts: Any, count: int) -> list[tuple[int, int]]:
    """First and last of so many frames in each stage, from where the second and third begin."""
    first, second = (min(max(int(cut), 1), count - 2) for cut in cuts)
    return [(0, first), (first, max(first, second)), (max(first, second), count - 1)]
