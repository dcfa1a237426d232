"""Runs every recorded case of a reference folder and says how far off each tensor is."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.progress import progress, say
from finecausal_jax.verification import forward, parts, training
from finecausal_jax.verification.checks import Check
from finecausal_jax.verification.reference import Reference

_RUNNERS: dict[str, Callable[[Reference], Iterator[Check]]] = {
    "schedule": parts.schedule,
    "preprocessing": parts.preprocessing,
    "stage_pooling": parts.stage_pooling,
    "compare": forward.compare,
    "compare_train": training.compare_train,
    "forward_pair": lambda reference: forward.forward(reference, "forward_pair"),
    "forward_batch": lambda reference: forward.forward(reference, "forward_batch"),
    "train_step": training.train_step,
}

# What a user is told before a case that keeps a two-core CPU busy for a while.
_SLOW = {
    "forward_pair": "two full-size videos",
    "forward_batch": "four full-size videos",
    "train_step": "a full-size step, forward and backward: minutes on a CPU, several GB of memory",
}


def verify(
    folder: str | pathlib.Path,
    cases: Sequence[str] = (),
    *,
    report: Callable[[str], None] = say,
    only_misses: bool = False,
) -> list[Check]:
    """Checks the port against recorded cases, at full size.

    Weights and inputs are made by the folder's own `seeded.py`, which is executed. Matrix products
    are computed in full float32 on every device.

    Args:
      folder: holds `seeded.py`, `manifest.json` and `cases/`.
      cases: which to run, by name; all that the folder has where empty.
      report: takes each line of the report as soon as it is known.
      only_misses: report a tensor only where it misses its limit.

    Returns:
      All checks, in order.

    Raises:
      InputError: the folder has no cases, or not one of those asked for.
    """
    reference = Reference(folder)
    unknown = [name for name in cases if name not in reference.cases]
    if unknown:
        raise InputError(
            f"{folder}: no case {', '.join(unknown)}; it has {', '.join(reference.cases)}"
        )
    results: list[Check] = []
    names = [name for name in reference.cases if not cases or name in cases]
    with progress(len(names), "verifying", "cases") as shown:
        for name in names:
            report(f"{name}: {_SLOW.get(name, 'running')}")
            shown.note(name)
            start = time.monotonic()
            checks = []
            # TF32 and bfloat16 products would miss every limit.
            with jax.default_matmul_precision("highest"):
                for check in _RUNNERS[name](reference):
                    checks.append(check)
                    if not (only_misses and check.passed):
                        report(str(check))
            missed = sum(not check.passed for check in checks)
            took = f"{time.monotonic() - start:.1f} s"
            report(f"{name}: {len(checks) - missed} of {len(checks)} within limits, {took}")
            results += checks
            shown.update()
    return results
