"""An interval for each score, by split conformal prediction.

Dives that were kept out of training are scored as any query; how far those scores are off says how
wide the interval of a new one has to be. It holds the true score in at least `level` of the dives,
on the average over them all, if the new dives come from where the calibration dives do (Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005). That is not so for competitions
that training never saw, nor for one's own videos: there it is a width to compare by, no promise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.runtime.errors import InputError
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
        return np.array(
            [
                self.by_dive_number.get(one.dive_number, self.pooled) * one.difficulty
                for one in infos
            ],
            np.float64,
        )

    def covered(self, predictions: Predictions) -> Float[np.ndarray, " n"]:
        """Whether each dive's interval holds its true score: 1 or 0."""
        off = np.abs(predictions.score - predictions.true_score)
        # A score that lies on the end is inside, however it was rounded.
        return (off <= self.half_widths(predictions.infos) + 1e-9).astype(np.float64)


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
