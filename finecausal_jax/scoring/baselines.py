"""Predictors that see no pixel: what a scorer has to beat before its video input means anything.

Difficulty multiplies every score, so it alone ranks dives well. On the real FineDiving-HM test
split the three predictors below reach Spearman 0.560, 0.588 and 0.641.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Float

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import metrics


def difficulty_only(
    infos: Sequence[DiveInfo], train_infos: Sequence[DiveInfo]
) -> Float[np.ndarray, " n"]:
    """Returns the mean completeness of all training dives for every dive.

    The score it predicts is a constant times difficulty, so its execution has no order.

    Args:
      infos: n dives to predict.
      train_infos: the training dives.

    Returns:
      float64 [n], predicted completeness, points.
    """
    return _group_means(infos, train_infos, lambda info: None)


def dive_number_mean(
    infos: Sequence[DiveInfo], train_infos: Sequence[DiveInfo]
) -> Float[np.ndarray, " n"]:
    """Returns the mean completeness of the training dives with each dive's number.

    Arguments and result as for `difficulty_only`, which answers for a number not seen in training.
    """
    return _group_means(infos, train_infos, lambda info: info.dive_number)


def competition_mean(
    infos: Sequence[DiveInfo], train_infos: Sequence[DiveInfo]
) -> Float[np.ndarray, " n"]:
    """Returns the mean completeness of the training dives of each dive's competition.

    Arguments and result as for `difficulty_only`, which answers for a competition not seen in
    training.
    """
    return _group_means(infos, train_infos, lambda info: info.competition)


PREDICTORS: dict[str, Callable[..., Float[np.ndarray, " n"]]] = {
    "difficulty_only": difficulty_only,
    "dive_number_mean": dive_number_mean,
    "competition_mean": competition_mean,
}


# For people.
TITLES = {
    "difficulty_only": "difficulty alone",
    "dive_number_mean": "mean of the dive number",
    "competition_mean": "mean of the competition",
}


def evaluate(
    infos: Sequence[DiveInfo], train_infos: Sequence[DiveInfo]
) -> dict[str, dict[str, float]]:
    """Returns name -> `metrics.score_metrics` of every predictor here.

    Args:
      infos: the dives to predict.
      train_infos: the training dives.

    Raises:
      InputError: there are no training dives.
    """
    score = [info.score for info in infos]
    difficulty = [info.difficulty for info in infos]
    return {
        name: metrics.score_metrics(predict(infos, train_infos), score, difficulty)
        for name, predict in PREDICTORS.items()
    }


def _group_means(
    infos: Sequence[DiveInfo],
    train_infos: Sequence[DiveInfo],
    group: Callable[[DiveInfo], Hashable],
) -> Float[np.ndarray, " n"]:
    """Returns the mean completeness of the training dives of each dive's group."""
    if not train_infos:
        raise InputError("the baselines need training dives to average over, got none")
    members: dict[Hashable, list[float]] = {}
    for info in train_infos:
        members.setdefault(group(info), []).append(info.completeness)
    means = {name: float(np.mean(values)) for name, values in members.items()}
    overall = float(np.mean([info.completeness for info in train_infos]))
    return np.array([means.get(group(info), overall) for info in infos], np.float64)
