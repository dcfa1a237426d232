"""How long a training goes on, and when it is logged, saved and evaluated."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plan:
    """When what happens, in micro-batches unless said otherwise.

    Attributes:
      steps_per_epoch: micro-batches an epoch.
      epochs: how many there are.
      log_every: between two logged means.
      checkpoint_every: between checkpoints, besides evaluations.
      evaluate_every: epochs between evaluations; 0 is only at the end.
      evaluate_every_late: the same from the epoch `evaluate_late_from` on.
      evaluate_late_from: an epoch.
    """

    steps_per_epoch: int
    epochs: int
    log_every: int = 10
    checkpoint_every: int = 500
    evaluate_every: int = 4
    evaluate_every_late: int = 2
    evaluate_late_from: int = 50

    @property
    def last_step(self) -> int:
        """The step that ends the training."""
        return self.epochs * self.steps_per_epoch

    def is_evaluation(self, step: int) -> bool:
        """Whether a step is followed by an evaluation: every few epochs, and at the end."""
        if step == self.last_step:
            return True
        if step % self.steps_per_epoch or not self.evaluate_every:
            return False
        epoch = step // self.steps_per_epoch
        late = epoch >= self.evaluate_late_from
        return epoch % (self.evaluate_every_late if late else self.evaluate_every) == 0
