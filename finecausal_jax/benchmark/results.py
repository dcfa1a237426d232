"""From seconds to medians, ratios and targets; pure functions of plain values."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Largest error relative to a tensor's largest value. Of float32: as `launch.py verify` demands.
# Shorter floats: what some dozens of roundings of 8 bits leave, enough to notice another network.
LIMITS = {"float32": 2e-4, "bfloat16": 5e-2, "float16": 2e-2}
# In training mode batch statistics are summed in another order and precision (channels-last).
_TRAIN_LIMIT = 2e-3

REFERENCE = "PyTorch reference"
BEST = "best PyTorch setting"


class DisagreementError(ValueError):
    """Two workers computed different things: their times must not be compared."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A wished-for ratio of times, of a benchmark on two CPU cores.

    Attributes:
      what: the row's title.
      section: where it is measured.
      xla: XLA's quantity, see `quantities`.
      torch: PyTorch's quantity.
      against: `REFERENCE` or `BEST`.
      at_least: PyTorch's median over XLA's.
      memory_at_most: XLA's peak memory over PyTorch's; None for any.
    """

    what: str
    section: str
    xla: str
    torch: str
    against: str
    at_least: float
    memory_at_most: float | None = None


TARGETS = (
    Target("forward of a pair", "forward", "forward", "forward", REFERENCE, 2.5),
    Target("forward of a pair", "forward", "forward", "forward", BEST, 1.0),
    Target("training step", "train", "train", "train", REFERENCE, 2.5, 0.6),
    Target("training step", "train", "train", "train", BEST, 1.0),
    Target(
        "test protocol, a query, bank included",
        "evaluation",
        "test_protocol",
        "score_dive",
        REFERENCE,
        10.0,
    ),
    Target(
        "a new dive against a stored bank",
        "evaluation",
        "new_dive",
        "score_dive",
        REFERENCE,
        25.0,
    ),
)


def check_agreement(
    section: str, checks: Mapping[str, Mapping[str, Sequence[float]]], dtype: str
) -> dict[str, float]:
    """Compares what the workers computed with what the first one did.

    Args:
      section: for messages; training has a wider limit.
      checks: worker -> {tensor: flat values}.
      dtype: compute dtype; below float32 only what comes before the transitions' argmax counts,
        which may fall elsewhere.

    Returns:
      worker -> the largest error of any tensor, relative to its largest value.

    Raises:
      DisagreementError: an error is over the limit, or values are missing or not finite.
    """
    limit = LIMITS[dtype]
    if section == "train":
        limit = max(limit, _TRAIN_LIMIT)
    late = ("delta", "stage_delta_dynamic", "stage_delta_static")
    names = list(checks)
    errors: dict[str, float] = {}
    for name in names:
        for tensor, values in checks[name].items():
            if not np.isfinite(values).all():
                raise DisagreementError(f"{section}: {name}'s {tensor} is not finite")
            first = checks[names[0]].get(tensor)
            if name == names[0] or first is None or (dtype != "float32" and tensor in late):
                continue
            if len(first) != len(values):
                raise DisagreementError(
                    f"{section}: {tensor} has {len(first)} values in {names[0]}, {len(values)} in "
                    f"{name}"
                )
            scale = float(np.abs(first).max())
            error = float(np.abs(np.subtract(first, values)).max()) / (scale or 1.0)
            if error > limit:
                raise DisagreementError(
                    f"{section}: {names[0]} and {name} disagree on {tensor} by {error:.1e} of its "
                    f"largest value, the limit is {limit:g}; the times of a wrong result mean "
                    "nothing, run launch.py verify"
                )
            errors[name] = max(errors.get(name, 0.0), error)
    return errors


def quantities(found: Mapping[str, Any], section: str, worker: str) -> dict[str, list[float]]:
    """Seconds of every complete round by quantity; of the pipeline, pairs a second.

    XLA's `test_protocol` is the cost of a query in the whole protocol: the query's and its share of
    the exemplars' encodings, each video being encoded once, and one comparison with all exemplars.
    """
    config = found["config"]
    entry = found["sections"].get(section, {}).get("workers", {}).get(worker)
    if entry is None:
        return {}
    seconds = entry["seconds"]
    if section == "pipeline":
        return {
            f"pairs_a_second_{stored}": [entry["pairs_a_run"] / s for s in runs]
            for stored, runs in seconds.items()
        }
    values = {name: list(runs) for name, runs in seconds.items() if runs}
    if "encode_batch" in values and "compare" in values:
        dives = config["benchmark"]["test_dives"]
        encodings = (dives + config["benchmark"]["train_dives"]) / dives
        values["encode"] = [s / entry["video_batch"] for s in values.pop("encode_batch")]
        values["test_protocol"] = [
            encodings * encode + compare
            for encode, compare in zip(values["encode"], values["compare"], strict=False)
        ]
    return values


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarize(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a benchmark found, for JSON.

    Args:
      found: from `throughput.run`.

    Returns:
      `found` with, for each section, "summary": {worker: {quantity: {"median", "min", "max"} and,
      where known, "share_of_matmul_peak"}}, and with "targets", see `judge`.
    """
    sections = {}
    for section, result in found["sections"].items():
        flops, source = _flops(result, section)
        peak = max(
            (entry["matmul_flops_per_second"] for entry in result["workers"].values()), default=0.0
        )
        summary: dict[str, Any] = {}
        for worker in result["workers"]:
            summary[worker] = {}
            for quantity, values in quantities(found, section, worker).items():
                if not values:
                    continue
                row: dict[str, Any] = spread(values)
                if flops and peak and quantity == section:
                    row["share_of_matmul_peak"] = flops / row["median"] / peak
                summary[worker][quantity] = row
        extra = {"flops_of_a_run": flops, "flops_counted_by": source} if flops else {}
        sections[section] = {**result, **extra, "summary": summary}
    whole = {**found, "sections": sections}
    return {**whole, "targets": judge(whole)}


def judge(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a target whose section was measured in both; `met` is None off the CPU."""
    rows = []
    for target in TARGETS:
        section = whole["sections"].get(target.section, {})
        summary = section.get("summary", {})
        xla = summary.get("XLA", {}).get(target.xla)
        others = {
            name: values[target.torch]["median"]
            for name, values in summary.items()
            if name != "XLA" and target.torch in values
        }
        if target.against == REFERENCE:
            others = {name: s for name, s in others.items() if name == REFERENCE}
        if xla is None or not others:
            continue
        name = min(others, key=lambda one: others[one])
        ratio = others[name] / xla["median"]
        met = ratio >= target.at_least
        row = {
            "what": target.what,
            "against": target.against,
            "setting": name,
            "xla_seconds": xla["median"],
            "torch_seconds": others[name],
            "ratio": ratio,
            "at_least": target.at_least,
        }
        if target.memory_at_most is not None:
            peaks = [section["workers"][one].get("peak_bytes") for one in ("XLA", name)]
            known = None not in peaks
            row["memory_ratio"] = peaks[0] / peaks[1] if known else None
            row["memory_at_most"] = target.memory_at_most
            met = met and known and row["memory_ratio"] <= target.memory_at_most
        # The targets were set for a CPU; elsewhere the ratio is told without a verdict.
        row["met"] = met if whole["device"] == "cpu" else None
        rows.append(row)
    return rows


def _flops(result: Mapping[str, Any], section: str) -> tuple[float, str]:
    """Of one run, one count for all: PyTorch's of the plain model, or that of XLA's program."""
    for worker in (REFERENCE, "XLA"):
        flops = result["workers"].get(worker, {}).get("flops", {}).get(section, math.nan)
        if flops > 0:
            return flops, worker
    return 0.0, ""
