"""From seconds to medians, ratios and targets; pure functions of plain values."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Largest error relative to a tensor's largest value. Of float32: as `launch.py verify` demands.
# Shorter floats: what some dozens of roundings of 8 bits leave, enough to notice another network.
LIMITS = {"float32": 2e-4, "bfloat16": 5e-2}
# In training mode batch statistics are summed in another order and precision (channels-last).
_TRAIN_LIMIT = 2e-3

_LATE = ("delta", "stage_delta_dynamic", "stage_delta_static")  # behind the transitions' argmax

XLA = "XLA"
REFERENCE = "PyTorch reference"
BEST = "best PyTorch setting"


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
) -> tuple[dict[str, float], dict[str, str]]:
    """Compares what the workers computed with what the first one did.

    Args:
      section: training has a wider limit.
      checks: worker -> {tensor: flat values}.
      dtype: compute dtype; below float32 only what comes before the transitions' argmax counts,
        which may fall elsewhere.

    Returns:
      worker -> the largest error of any tensor, relative to its largest value, for all that agree;
      and worker -> what is wrong, for those whose times mean nothing: they are off by more than the
      limit, or have values that are missing or not finite. Where nobody agrees with the first, it
      is among them.
    """
    limit = max(LIMITS[dtype], _TRAIN_LIMIT if section == "train" else 0.0)
    errors: dict[str, float] = {}
    faults: dict[str, str] = {}
    for name, tensors in checks.items():
        broken = [tensor for tensor, values in tensors.items() if not np.isfinite(values).all()]
        if broken:
            faults[name] = f"{name}'s {', '.join(broken)} is not finite"
    names = [name for name in checks if name not in faults]
    for name in names[1:]:
        fault = None
        for tensor, values in checks[name].items():
            first = checks[names[0]].get(tensor)
            if first is None or (dtype != "float32" and tensor in _LATE):
                continue
            if len(first) != len(values):
                fault = f"{tensor} has {len(first)} values in {names[0]}, {len(values)} in {name}"
                break
            scale = float(max(np.abs(first).max(), np.abs(values).max()))
            error = float(np.abs(np.subtract(first, values)).max()) / (scale or 1.0)
            if error > limit:
                fault = (
                    f"{names[0]} and {name} disagree on {tensor} by {error:.1e} of its largest "
                    f"value, the limit is {limit:g}; the times of a wrong result mean nothing, run "
                    "launch.py verify"
                )
                break
            errors[name] = max(errors.get(name, 0.0), error)
        if fault is not None:
            errors.pop(name, None)
            faults[name] = fault
    if len(names) > 1 and all(name in faults for name in names[1:]):
        faults[names[0]] = faults[names[1]]  # which of them is wrong, nobody knows
    return errors, faults


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
      where known, "flops" of a run and "share_of_matmul_peak"}}, and with "targets", see `judge`.
      The share is that of the model's operations a second, see `_flops`, in the section's fastest
      matrix product, which differs from run to run.
    """
    sections = {}
    for section, result in found["sections"].items():
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
                flops = _flops(result, worker, quantity)
                if flops and peak:
                    row["flops"] = flops
                    row["share_of_matmul_peak"] = flops / row["median"] / peak
                summary[worker][quantity] = row
        sections[section] = {**result, "summary": summary}
    whole = {**found, "sections": sections}
    return {**whole, "targets": judge(whole)}


def judge(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a target whose section was measured in both; `met` is None off the CPU.

    "ratio" is that of the medians, "ratio_min" and "ratio_max" are the least and largest of the
    rounds'.
    """
    rows = []
    for target in TARGETS:
        section = whole["sections"].get(target.section, {})
        summary = section.get("summary", {})
        xla = summary.get(XLA, {}).get(target.xla)
        others = {
            name: values[target.torch]["median"]
            for name, values in summary.items()
            if name != XLA and target.torch in values
        }
        if target.against == REFERENCE:
            others = {name: s for name, s in others.items() if name == REFERENCE}
        if xla is None or not others:
            continue
        name = min(others, key=lambda one: others[one])
        ratio = others[name] / xla["median"]
        own = quantities(whole, target.section, XLA)[target.xla]
        others_runs = quantities(whole, target.section, name)[target.torch]
        by_round = [other / mine for mine, other in zip(own, others_runs, strict=False)]
        met = ratio >= target.at_least
        row = {
            "what": target.what,
            "against": target.against,
            "setting": name,
            "xla_seconds": xla["median"],
            "torch_seconds": others[name],
            "ratio": ratio,
            "ratio_min": min(by_round),
            "ratio_max": max(by_round),
            "at_least": target.at_least,
        }
        if target.memory_at_most is not None:
            peaks = [section["workers"][one].get("peak_bytes") for one in (XLA, name)]
            known = None not in peaks
            row["memory_ratio"] = peaks[0] / peaks[1] if known else None
            row["memory_at_most"] = target.memory_at_most
            met = met and known and row["memory_ratio"] <= target.memory_at_most
        # The targets were set for a CPU; elsewhere the ratio is told without a verdict.
        row["met"] = met if whole["device"] == "cpu" else None
        rows.append(row)
    return rows


def _flops(result: Mapping[str, Any], worker: str, quantity: str) -> float:
    """Of one run, or 0, each convolution counted as it is written; fewer may be computed.

    XLA's see `xla_worker.plain_flops`. PyTorch's are its reference setting's: compiled code hides
    its operations, and the settings compute the same ones.
    """
    counted = result["workers"].get(worker if worker == XLA else REFERENCE, {}).get("flops", {})
    return counted.get(quantity, 0.0)
