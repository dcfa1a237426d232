"""An interval for each score, by split conformal prediction.

Dives that were kept out of training are scored as any query; how far those scores are off says how
wide the interval of a new one has to be. It holds the true score in at least `level` of the dives,
on the average over them all, if the new dives come from where the calibration dives do (Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005). That is not so for competitions
that training never saw, nor for one's own videos: there it is a width to compare by, no promise.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json
from finecausal_jax.scoring.predictions import Predictions

LEAST_IN_GROUP = 30  # calibration dives of a dive number, for a width of its own


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How wide intervals are.

    Attributes:
      level: share of dives whose interval holds the true score.
      dives: how many it was learnt from.
      pooled: half the width of completeness' interval, points, from all of them.
      by_dive_number: the same for the dive numbers that have enough calibration dives.
    """

    level: float
    dives: int
    pooled: float
    by_dive_number: Mapping[str, float]

    def half_widths(self, infos: Sequence[DiveInfo]) -> Float[np.ndarray, " n"]:
        """Half the width of the score's interval of each dive, points."""
        widths = [self.half_width(one.dive_number, one.difficulty) for one in infos]
        return np.array(widths, np.float64)

    def half_width(self, dive_number: str, difficulty: float) -> float:
        """Half the width of the score's interval of a dive of this number, points."""
        return self.by_dive_number.get(dive_number, self.pooled) * difficulty

    def covered(self, predictions: Predictions) -> Float[np.ndarray, " n"]:
        """Whether each dive's interval holds its true score: 1 or 0."""
        off = np.abs(predictions.score - predictions.true_score)
        # A score that lies on the end is inside, however it was rounded.
        return (off <= self.half_widths(predictions.infos) + 1e-9).astype(np.float64)


def write(calibration: Calibration, path: str | os.PathLike[str], scored_by: str) -> pathlib.Path:
    """Writes a calibration as JSON, whole or not at all; returns the path.

    Args:
      calibration: what was learnt.
      path: where it goes.
      scored_by: what scored the dives, to tell calibrations of other weights apart.
    """
    content = {"scored_by": scored_by, **dataclasses.asdict(calibration)}
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return write_atomically(path, lambda file: file.write_text(text))


def read(path: str | os.PathLike[str], scored_by: str) -> Calibration:
    """Reads what `write` wrote.

    Raises:
      InputError: it is no such file, or of other weights.
    """
    path = pathlib.Path(path)
    mend = "make it with `launch.py evaluate` and config.data.calibration_dives"
    expected = "a calibration of scores' intervals"
    content = read_json(path, expected, mend)
    try:
        by = str(content["scored_by"])
        groups = {str(name): float(one) for name, one in content["by_dive_number"].items()}
        numbers = [float(content[name]) for name in ("level", "pooled")]
        calibration = Calibration(numbers[0], int(content["dives"]), numbers[1], groups)
        if not all(math.isfinite(one) for one in (*numbers, *groups.values())):
            raise ValueError("a width is not finite")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise not_expected(path, expected, error, mend) from error
    if by != scored_by:
        raise InputError(f"{path} is of {by}, the score is of {scored_by}: {mend}")
    return calibration


def calibrate(
    predictions: Predictions, level: float = 0.9, least: int = LEAST_IN_GROUP
) -> Calibration:
    """Learns the widths from dives that were not trained on.

    Args:
      predictions: of calibration dives.
      level: share of dives whose interval shall hold the true score.
      least: dives of a dive number, from which on it has a width of its own.

    Raises:
      InputError: there are too few dives to say anything at this level.
    """
    needed = math.ceil(level / (1 - level) - 1e-9)
    errors = np.abs(predictions.completeness - predictions.true_completeness)
    if len(errors) < needed:
        raise InputError(
            f"intervals at a level of {level:g} need at least {needed} calibration dives, found "
            f"{len(errors)}: set config.data.calibration_dives higher, or to 0 for no intervals"
        )
    members: dict[str, list[float]] = {}
    for info, error in zip(predictions.infos, errors, strict=True):
        members.setdefault(info.dive_number, []).append(float(error))
    groups = {
        number: _quantile(own, level)
        for number, own in sorted(members.items())
        if len(own) >= max(least, needed)
    }
    return Calibration(level, len(errors), _quantile(errors, level), groups)


def _quantile(errors: Sequence[float] | np.ndarray, level: float) -> float:
    """The error that a new dive's stays within: the ceil((n + 1) level)-th smallest of n."""
    place = math.ceil((len(errors) + 1) * level - 1e-9)
    return float(np.sort(np.asarray(errors, np.float64))[place - 1])
