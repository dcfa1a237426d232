"""Random numbers by purpose: what is drawn for one purpose never shifts what another one gets."""

from __future__ import annotations

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What random numbers are for. The numbers are part of every release: only append."""

    # Of the release.
    NUMBERS = 0
    BROADCASTS = 1
    # Of a competition.
    BACKGROUND = 2
    CLOTHING = 3
    CAMERA = 4
    LIGHTING = 5
    # Of a dive.
    COMPETITION = 6
    EXECUTION = 7
    PANEL = 8
    TIMELINE = 9
    HABITS = 10
    DIVER = 11
    SHAKE = 12
    SPLASH = 13
    CUE = 14
    PAUSE = 15


def stream(seed: int, purpose: Purpose, number: int = 0) -> np.random.Generator:
    """Returns the generator of one purpose.

    Args:
      seed: the release's seed.
      purpose: what the numbers are for.
      number: of the competition or the dive; 0 where there is one for the release.
    """
    return np.random.default_rng((seed, int(purpose), number))
