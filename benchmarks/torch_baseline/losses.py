"""The three losses and their learned weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_baseline.stages import FRAMES

TASK_WEIGHTS = (5.0, 1.0, 1.0)  # of the losses of score, transitions and masks
_GAMMA = 2.0  # focusing power of the focal loss (Lin et al. 2017, arXiv:1708.02002)


class LossWeights(nn.Module):
    """`awl`: weighs losses by learned uncertainties (Liebel and Koerner 2018, arXiv:1805.06334)."""

    def __init__(self) -> None:
        super().__init__()
        self.params = nn.Parameter(torch.ones(len(TASK_WEIGHTS)))

    def forward(self, losses: Sequence[Tensor]) -> Tensor:
        """Sum of `w_i * (0.5 / p_i ** 2 * L_i + log(1 + p_i ** 2))`.

        Args:
            losses: `loss_aqa`, `loss_tas` and `loss_mask`, float32 scalars.

        Returns:
            `loss`, a float32 scalar.
        """
        squares = self.params**2
        terms = 0.5 / squares * torch.stack(tuple(losses)) + torch.log(1 + squares)
        return (self.params.new_tensor(TASK_WEIGHTS) * terms).sum()


def score_loss(delta: Tensor, query: Tensor, exemplar: Tensor) -> Tensor:
    """`loss_aqa`: squared error of the predicted differences, in both directions.

    Args:
        delta: float32 [2b, 1], completeness.
        query: float32 [b], completeness; exemplar: float32 [b], completeness.

    Returns:
        A float32 scalar.
    """
    forward, backward = delta.squeeze(1).chunk(2)
    return F.mse_loss(forward, query - exemplar) + F.mse_loss(backward, exemplar - query)


def transition_loss(probability: Tensor, transitions: Tensor) -> Tensor:
    """`loss_tas`: binary cross-entropy against one frame a transition.

    Args:
        probability: float32 [v, 96, 2].
        transitions: [v, 2], frames.

    Returns:
        A float32 scalar.
    """
    frame = transitions.to(torch.int64).clamp(0, FRAMES - 1)
    target = F.one_hot(frame, probability.shape[1]).transpose(1, 2).to(probability.dtype)
    return F.binary_cross_entropy(probability, target)


def mask_loss(maps: Sequence[Tensor], mask: Tensor) -> Tensor:
    """`loss_mask`: focal loss on logits, summed over the maps.

    Args:
        maps: float32 [v, 9, 16, 112, 112] each, logits.
        mask: float32 [v, 9, 16, 112, 112], the masks of the same windows in 0..1.

    Returns:
        A float32 scalar.
    """
    target = mask.round()
    total = mask.new_zeros(())
    for logits in maps:
        probability = torch.sigmoid(logits)
        missed = probability + target - 2 * probability * target  # 1 - p of the true class
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        total = total + (entropy * missed**_GAMMA).mean()
    return total
