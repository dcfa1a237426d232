"""Looks at the losses now and then: looking waits for the device."""

from __future__ import annotations

import math
import time

import jax
import numpy as np

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.metrics_log import MetricsLog
from finecausal_jax.training.losses import Losses


class NonFiniteLossError(InputError):
    """A loss is infinite or not a number; nothing after the last checkpoint was saved."""


class Watch:
    """Collects losses on the device until they are looked at.

    Args:
      log: where means go.
      steps_per_epoch: micro-batches an epoch.
      step: the step the run stands at.
    """

    def __init__(self, log: MetricsLog, steps_per_epoch: int, step: int):
        self._log = log
        self._steps_per_epoch = steps_per_epoch
        self._pending: list[tuple[int, Losses]] = []
        self._since = (step, time.monotonic())
        self._text = ""

    def add(self, step: int, parts: Losses) -> None:
        """Takes the losses of a step without waiting for them."""
        self._pending.append((step, parts))

    def flush(self) -> str:
        """Logs means since the last look.

        Returns:
          A few words for people.

        Raises:
          NonFiniteLossError: one of the losses is not finite; the text names it and its step.
        """
        if not self._pending:
            return self._text
        steps = [step for step, _ in self._pending]
        parts = jax.device_get([parts for _, parts in self._pending])
        self._pending = []
        means = {}
        for name in ("loss", "loss_aqa", "loss_tas", "loss_mask"):
            values = np.array([getattr(part, name) for part in parts], np.float64)
            bad = [s for s, v in zip(steps, values, strict=True) if not math.isfinite(v)]
            if bad:
                raise NonFiniteLossError(
                    f"{name} is {values[steps.index(bad[0])]} at step {bad[0]}; the last "
                    "checkpoint is from before. Lower config.train.base_lr or set "
                    "config.train.clip_norm, then run the same command with a new --workdir"
                )
            means[name] = float(np.mean(values))
        before, then = self._since
        now = time.monotonic()
        rate = (steps[-1] - before) / max(now - then, 1e-9)
        self._since = (steps[-1], now)
        self._log.write(
            steps[-1],
            {f"train/{k}": v for k, v in means.items()}
            | {"train/epoch": steps[-1] / self._steps_per_epoch, "train/steps_per_second": rate},
        )
        self._text = f"loss {means['loss']:.3g}, difference {means['loss_aqa']:.3g}"
        return self._text
