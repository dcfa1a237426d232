"""Learning rates by micro-batch: a linear warm-up, then a cosine that restarts.

The reference counts micro-batches (not optimiser steps) with a number `u` that starts at 1. Each
parameter group has a highest rate of its own, all share the lowest one, `base_lr * lr_factor`.
`base_model` starts from Kinetics weights: its highest rate is the lowest one, so it stays constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from finecausal_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The reference's schedule; the defaults are its full-size setting.

    Attributes:
      iterations_per_epoch: micro-batches an epoch; 1126 on the real data (2251 dives by 2).
      base_lr: highest rate of every module but `base_model`.
      lr_factor: lowest rate as a share of `base_lr`.
      warmup_epochs: epochs of the linear rise; 0 for none.
      max_epoch: epochs of one cosine period.
      base_model_lr: highest rate of `base_model`; None for the lowest rate, as in the reference.

    Raises:
      InputError: a length is not positive, the warm-up is longer than the period, or a highest rate
        lies below the lowest one.
    """

    iterations_per_epoch: int
    base_lr: float = 1e-3
    lr_factor: float = 0.1
    warmup_epochs: int = 5
    max_epoch: int = 300
    base_model_lr: float | None = None

    def __post_init__(self):
        if self.iterations_per_epoch < 1 or self.max_epoch < 1:
            raise InputError(
                f"schedule: iterations_per_epoch {self.iterations_per_epoch} and max_epoch "
                f"{self.max_epoch} must both be at least 1"
            )
        if not 0 <= self.warmup_epochs <= self.max_epoch:
            raise InputError(
                f"schedule: warmup_epochs {self.warmup_epochs} must lie in 0..max_epoch "
                f"({self.max_epoch})"
            )
        if self.base_lr <= 0 or not 0 <= self.lr_factor <= 1:
            raise InputError(
                f"schedule: base_lr {self.base_lr} must be positive and lr_factor "
                f"{self.lr_factor} lie in 0..1"
            )
        if self.base_model_lr is not None and self.base_model_lr < self.lowest:
            raise InputError(
                f"schedule: base_model_lr {self.base_model_lr} is below the lowest rate, base_lr * "
                f"lr_factor = {self.lowest}; to keep base_model as it is, freeze it instead"
            )

    @property
    def lowest(self) -> float:
        """The rate at the start of the warm-up and at the end of a period, for all modules."""
        return self.base_lr * self.lr_factor

    @property
    def warmup(self) -> int:
        """Length of the warm-up in micro-batches."""
        return self.warmup_epochs * self.iterations_per_epoch

    @property
    def period(self) -> int:
        """Length of one cosine period in micro-batches."""
        return self.max_epoch * self.iterations_per_epoch


def learning_rate(schedule: Schedule, micro_batch: ArrayLike) -> jax.Array:
    """Returns the rate of every module but `base_model`.

    Args:
      schedule: the setting.
      micro_batch: int [...], number u of the micro-batch; the first of a run is 1. Below 1, the
        rate before the run began: the lowest.

    Returns:
      float32 [...], within 1e-6 (relative) of the same formula in float64.
    """
    return _rate(schedule, schedule.base_lr, micro_batch)


def base_model_learning_rate(schedule: Schedule, micro_batch: ArrayLike) -> jax.Array:
    """Returns the rate of `base_model`; arguments and result as for `learning_rate`."""
    highest = schedule.lowest if schedule.base_model_lr is None else schedule.base_model_lr
    return _rate(schedule, highest, micro_batch)


def optax_schedules(
    schedule: Schedule, micro_batches_per_step: int = 1
) -> dict[str, Callable[[ArrayLike], jax.Array]]:
    """Returns both rates as optax schedules, which take the number of finished optimiser steps.

    Step number `count` (from 0) ends with micro-batch `(count + 1) * micro_batches_per_step`, whose
    rate it uses.

    Args:
      schedule: the setting.
      micro_batches_per_step: how many micro-batches' gradients one optimiser step adds up.

    Returns:
      `{"base_model": function, "rest": function}`; each maps int [] to float32 [].
    """
    if micro_batches_per_step < 1:
        raise InputError(f"micro_batches_per_step is {micro_batches_per_step}; expected at least 1")

    def at_step(rate: Callable[[Schedule, ArrayLike], jax.Array], count: ArrayLike) -> jax.Array:
        return rate(schedule, (jnp.asarray(count, jnp.int32) + 1) * micro_batches_per_step)

    return {
        "base_model": lambda count: at_step(base_model_learning_rate, count),
        "rest": lambda count: at_step(learning_rate, count),
    }


def _rate(schedule: Schedule, highest: float, micro_batch: ArrayLike) -> jax.Array:
    """Returns a group's rate at `micro_batch`, given the group's highest rate."""
    number = jnp.asarray(micro_batch, jnp.int32)
    rise = jnp.maximum(number, 0).astype(jnp.float32) / max(schedule.warmup, 1)
    # Parity: the cosine is not shifted by the warm-up, so the rate steps down a little where the
    # warm-up ends, and a restart (number = period, 2 * period, ...) has no warm-up.
    past = jnp.mod(number, schedule.period)
    # (1 + cos(pi x)) / 2 = cos(pi x / 2)^2 = sin(pi (1 - x) / 2)^2. Each half uses the form whose
    # angle comes from a small exact integer; 1 + cos(pi x) itself would cancel where x is near 1.
    past_share = past.astype(jnp.float32) / schedule.period
    left_share = (schedule.period - past).astype(jnp.float32) / schedule.period
    fall = jnp.where(
        2 * past < schedule.period,
        jnp.cos(0.5 * jnp.pi * past_share) ** 2,
        jnp.sin(0.5 * jnp.pi * left_share) ** 2,
    )
    share = jnp.where(number < schedule.warmup, rise, fall)
    return jnp.float32(schedule.lowest) + jnp.float32(highest - schedule.lowest) * share
