"""Scores a dive against exemplars the way the reference's users do: every pair from frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.torch_baseline.model import FineCausal


@torch.no_grad()
def score_dive(
    model: FineCausal,
    query: Tensor,
    exemplars: Sequence[Tensor] | Tensor,
    completeness: Sequence[float],
    difficulty: float,
) -> float:
    """The query's predicted score, a mean over its exemplars.

    Parity: one pair at a time, and the query is encoded anew with every exemplar.

    Args:
        model: in evaluation mode.
        query: float32 [3, 96, 112, 112], normalised frames.
        exemplars: float32 [3, 96, 112, 112] each.
        completeness: of the exemplars, score over difficulty.
        difficulty: of the query.

    Returns:
        The score, in points.

    Raises:
        ValueError: without exemplars, or where their completeness is missing.
    """
    if len(exemplars) == 0 or len(exemplars) != len(completeness):
        raise ValueError(
            f"Exemplars of a dive: expected at least one and a completeness for each, got"
            f" {len(exemplars)} exemplars and {len(completeness)} completeness values; give"
            f" one value an exemplar."
        )
    total = 0.0
    for exemplar, known in zip(exemplars, completeness, strict=True):
        outputs = model(query.unsqueeze(0), exemplar.unsqueeze(0))
        total += outputs.delta[0].item() + known
    return total / len(exemplars) * difficulty
