"""Learning rates by micro-batch."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine that is not shifted by the warm-up.

    Attributes:
        base_lr: rate of all parameters but the base model's.
        lr_factor: `base_lr * lr_factor` is the lowest rate, and the base model's.
        max_epoch: epochs a cosine lasts.
        warmup_epochs: epochs of warm-up.
        iterations_per_epoch: micro-batches an epoch; the real training split gives 1126 of 2 pairs.
    """

    base_lr: float = 1e-3
    lr_factor: float = 0.1
    max_epoch: int = 300
    warmup_epochs: int = 5
    iterations_per_epoch: int = 1126

    def rates(self, update: int) -> tuple[float, float]:
        """The rates of the base model and of the rest.

        Args:
            update: micro-batch number; the first of a run is 1, before it there is the lowest rate.

        Returns:
            Two learning rates.
        """
        lowest = self.base_lr * self.lr_factor
        return lowest, self._rate(update, lowest)

    def _rate(self, update: int, lowest: float) -> float:
        warmup = self.warmup_epochs * self.iterations_per_epoch
        if update < warmup:
            return lowest + (self.base_lr - lowest) * max(update, 0) / warmup
        # Parity: the cosine counts from the run's start and restarts without a warm-up.
        cycle = self.max_epoch * self.iterations_per_epoch
        angle = math.pi * (update % cycle) / cycle
        return lowest + (self.base_lr - lowest) / 2 * (1 + math.cos(angle))
