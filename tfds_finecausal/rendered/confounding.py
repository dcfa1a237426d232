"""Venues that tell a rendered dive's quality, as far as somebody wants them to.

A cue in 0..1 is drawn for each dive, evenly, and correlated with its quality as strongly as asked.
The parts of the venue that are chosen as confounders take their looks from the cue instead of from
the competition. The looks that occur are the same whatever the strength: only the tie differs.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.rendered.judging import MEAN_QUALITY, QUALITY_DEVIATION

CONFOUNDERS = ("background", "clothing", "camera", "lighting")


def parse_confounders(text: str) -> tuple[str, ...]:
    """Reads names with commas between, or `all`; nothing is none.

    Raises:
      InputError: a name is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return CONFOUNDERS
    unknown = [name for name in names if name not in CONFOUNDERS]
    if unknown:
        raise InputError(
            f"confounders={text!r}, expected some of {', '.join(CONFOUNDERS)}, with commas "
            "between, or all"
        )
    return tuple(name for name in CONFOUNDERS if name in names)


def draw_cue(quality: float, strength: float, rng: np.random.Generator) -> float:
    """Draws what a dive's venue tells.

    Args:
      quality: the dive's execution quality.
      strength: correlation of the cue's and the quality's normal scores, -1 to 1: 1 tells the
        quality exactly, 0 nothing, -1 its opposite.
      rng: random generator; the strength does not change how much is drawn.

    Returns:
      The cue in 0..1, evenly distributed over many dives whatever the strength.
    """
    own = (quality - MEAN_QUALITY) / QUALITY_DEVIATION
    mixed = strength * own + math.sqrt(1.0 - strength**2) * float(rng.standard_normal())
    return statistics.NormalDist().cdf(mixed)
