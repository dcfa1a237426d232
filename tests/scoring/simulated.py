"""Test sets whose true correlation is known."""

import numpy as np

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.scoring.predictions import Predictions

_FRAMES = np.arange(9)


def simulate(rng, *, dives, competitions, shared=0.0, correlation=0.8, numbers=12):
    """Two models of the same true rank correlation, whose errors are alike in part.

    Args:
      rng: random generator.
      dives: n, how many.
      competitions: how many there are.
      shared: share of the variance that dives of a competition share, of truth and errors.
      correlation: Pearson's, of normal variables, of either model with the truth.
      numbers: how many dive numbers there are.

    Returns:
      The predictions of both.
    """
    at = rng.integers(0, competitions, dives)

    def draw():
        both = rng.standard_normal(competitions)[at], rng.standard_normal(dives)
        return np.sqrt(shared) * both[0] + np.sqrt(1 - shared) * both[1]

    truth, common = draw(), draw()
    noise = [np.sqrt(0.5) * common + np.sqrt(0.5) * draw() for _ in range(2)]
    infos = tuple(
        DiveInfo(
            competition=f"Cup {at[row]:02d}",
            index=row,
            dive_number=f"{100 + row % numbers}b",
            score=float(2.0 * (20 + 3 * truth[row])),
            difficulty=2.0,
            frame_numbers=_FRAMES,
            frame_labels=_FRAMES,
            sub_action_names=("a", "b", "c")[: 2 + row % 2],
        )
        for row in range(dives)
    )
    rest = np.sqrt(1 - correlation**2)
    models = [20 + 3 * (correlation * truth + rest * one) for one in noise]
    return tuple(Predictions(f"model {k}", infos, one) for k, one in enumerate(models))


def predictions_of(predictions, rows):
    """Some of the dives."""
    rows = list(rows)
    infos = tuple(predictions.infos[row] for row in rows)
    return Predictions(predictions.name, infos, predictions.completeness[rows])
