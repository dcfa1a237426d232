"""Looks at the losses now and then: looking waits for the device."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from finecausal_jax.runtime.memory import peak_bytes
from finecausal_jax.runtime.metrics_log import MetricsLog
from finecausal_jax.training.losses import Losses

TERMS = ("loss_aqa", "loss_tas", "loss_mask", "loss")


class NotFiniteError(Exception):
    """A loss or a parameter is infinite or not a number; nothing after that step was saved.

    Attributes:
      step: the micro-batch, counted from 1.
      what: which loss or parameter, and its value.
    """

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} at step {step}")
        self.step, self.what = step, what


@dataclasses.dataclass(frozen=True)
class Work:
    """What a micro-batch is, for rates.

    Attributes:
      pairs: in it, over all devices.
      steps_per_epoch: micro-batches an epoch.
      flops: floating-point operations of a step on one device, by XLA's count; 0 if unknown. What
        the backward pass computes again counts too.
      peak_flops: most that the device is said to do in a second; None if unknown.
    """

    pairs: int
    steps_per_epoch: int
    flops: float = 0.0
    peak_flops: float | None = None


class Watch:
    """Collects losses on the device until they are looked at, and measures meanwhile.

    Args:
      log: where means and rates go.
      step: the step the run stands at.
    """

    def __init__(self, log: MetricsLog, step: int):
        self._log = log
        self._pending: list[tuple[int, Losses]] = []
        self._since = (step, time.monotonic())
        self._waited = 0.0
        self._text = ""

    def begin(self, step: int) -> None:
        """Counts time from here: what came before, such as compiling, was no step."""
        self._since, self._waited = (step, time.monotonic()), 0.0

    def waited(self, seconds: float) -> None:
        """Takes the time that a step waited for its batch."""
        self._waited += seconds

    def add(self, step: int, parts: Losses) -> None:
        """Takes the losses of a step without waiting for them."""
        self._pending.append((step, parts))

    def flush(self, work: Work) -> str:
        """Logs means and rates since the last look.

        Returns:
          A few words for people.

        Raises:
          NotFiniteError: one of the losses is not finite.
        """
        if not self._pending:
            return self._text
        steps = [step for step, _ in self._pending]
        parts = jax.device_get([parts for _, parts in self._pending])
        self._pending = []
        values = {
            name: np.array([getattr(part, name) for part in parts], np.float64) for name in TERMS
        }
        for row, step in enumerate(steps):
            for name in TERMS:
                if not math.isfinite(values[name][row]):
                    raise NotFiniteError(step, f"{name} is {values[name][row]}")
        means = {name: float(np.mean(values[name])) for name in TERMS}
        self._log.write(
            steps[-1],
            {f"train/{k}": v for k, v in means.items()}
            | {"train/epoch": steps[-1] / work.steps_per_epoch}
            | {f"speed/{k}": v for k, v in self._rates(steps[-1], work).items()},
        )
        self._text = f"loss {means['loss']:.3g}, difference {means['loss_aqa']:.3g}"
        return self._text

    def _rates(self, step: int, work: Work) -> Mapping[str, float]:
        before, then = self._since
        now = time.monotonic()
        seconds = max(now - then, 1e-9) / max(step - before, 1)
        rates = {
            "steps_per_second": 1 / seconds,
            "pairs_per_second": work.pairs / seconds,
            "step_seconds": seconds,
            "input_wait_share": self._waited / max(now - then, 1e-9),
        }
        if work.flops:
            rates["tflops_per_second"] = work.flops / seconds / 1e12
            if work.peak_flops:
                rates["flops_utilisation"] = work.flops / seconds / work.peak_flops
        if peak := peak_bytes(jax.local_devices()[0]):
            rates["device_peak_gib"] = peak / 2**30
        self.begin(step)
        return rates


def not_finite(tree: Any) -> list[str]:
    """Names of the arrays in a tree that hold a value which is infinite or not a number."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        # On the host: a program for it would take longer to compile than all checks take.
        if not np.isfinite(np.asarray(jax.device_get(leaf), np.float32)).all()
    ]
