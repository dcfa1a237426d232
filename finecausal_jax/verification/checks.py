"""How a computed value is compared with a recorded one, and how far apart they may be.

The limits are what float32 allows. An independent implementation in JAX matched every forward
tensor within 6e-6 of its largest value, `loss_aqa` and `loss` within 2e-5 and the other losses
within 6e-7; the limits below leave room for another order of summation, not for another formula.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

# Largest error of a forward tensor, as a share of the tensor's largest value: sums of up to 1e5
# terms in float32, through some 60 layers.
FORWARD = 2e-4
# Mask metrics are ratios of counts of 4e6 pixels: a share of 1e-4 is what pixels whose logit is
# within rounding of the threshold can move. Absolute.
MASK_METRIC = 1e-4
# The regression's outputs differ by 1e-5, their squares and the weighted sum by more. Relative.
DELTA_LOSS = 2e-4
# Means over many bounded terms, no large differences. Relative.
MEAN_LOSS = 1e-5
# One formula in float64 there, float32 here. Relative.
LEARNING_RATE = 1e-6
# PIL's resize rounds to whole grey levels; another version may round the other way.
GREY_LEVELS = 1.0
# Changing the input by 1e-7 moves gradient norms by up to 1.7% and products with a probe by up to
# 4% of the norm (max-pools and ReLUs switch), so single tensors get 5% and 10%; most are far
# better, which the second pair demands of 95% of them.
GRADIENT_NORM, GRADIENT_PROBE = 0.05, 0.10
MOST_GRADIENT_NORMS, MOST_GRADIENT_PROBES, MOST = 0.01, 0.03, 0.95
# A gradient that is zero but for rounding has no meaningful relative error: its norm must be below
# this share of its module's.
ZERO_GRADIENT = 1e-4
# Of |statistic| * |probe| / sqrt(n), the size that a product of the two has by chance.
STATISTIC = 5e-5


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
      case: name of the case.
      tensor: name of the tensor, or what was measured of it.
      absolute: largest absolute error.
      relative: the error relative to the recorded tensor's largest value, or to what `note` says.
      limit: largest allowed value of the error that counts.
      counts: which error counts, "relative" or "absolute".
      note: what the relative error is relative to, where not the largest value.
    """

    case: str
    tensor: str
    absolute: float
    relative: float
    limit: float
    counts: str = "relative"
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the limit."""
        return bool(getattr(self, self.counts) <= self.limit)  # false for NaN

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "MISS"
        tail = f"  ({self.note})" if self.note else ""
        return (
            f"{verdict} {self.case:14s} {self.tensor:46s} abs {self.absolute:9.2e}  "
            f"rel {self.relative:9.2e}  {self.counts[:3]} <= {self.limit:.0e}{tail}"
        )


def compare(case: str, tensor: str, found: Any, want: Any, limit: float = FORWARD) -> Check:
    """Compares arrays: the largest error as a share of the largest recorded value.

    Args:
      case, tensor: for the report.
      found: computed array, or None where the model gives none.
      want: recorded array.
      limit: largest share.
    """
    want = np.asarray(want, np.float64)
    found = np.asarray(math.nan if found is None else found, np.float64)
    if found.shape != want.shape:
        note = f"shape: expected {list(want.shape)}, found {list(found.shape)}"
        return Check(case, tensor, math.nan, math.nan, limit, note=note)
    absolute = float(np.max(np.abs(found - want), initial=0.0))
    largest = float(np.max(np.abs(want), initial=0.0))
    return Check(case, tensor, absolute, _share(absolute, largest), limit)


def exact(case: str, tensor: str, found: Any, want: Any) -> Check:
    """Compares arrays that must be equal."""
    return dataclasses.replace(compare(case, tensor, found, want, 0.0), counts="absolute")


def within(case: str, tensor: str, found: Any, want: Any, limit: float, note: str = "") -> Check:
    """Compares arrays with a limit on the absolute error."""
    check = compare(case, tensor, found, want, limit)
    return dataclasses.replace(check, counts="absolute", note=check.note or note)


def gradients(
    case: str, found: dict[str, tuple[float, float] | None], want: dict[str, list[float] | None]
) -> list[Check]:
    """Compares gradients by their norms and their products with a probe.

    Args:
      case: for the report.
      found: "module/key" -> (norm, product), or None where there is no such parameter.
      want: "module/key" -> [norm, product], or None where the reference has no gradient.
    """
    modules: dict[str, float] = {}
    for name, pair in want.items():
        if pair is not None:
            module = name.split("/")[0]
            modules[module] = math.hypot(modules.get(module, 0.0), pair[0])
    checks, norms, probes = [], [], []
    for name, pair in want.items():
        mine = found.get(name)
        if pair is None:
            # The reference never calls this parameter: the model must not hold it, or not use it.
            norm = mine[0] if mine else 0.0
            checks.append(Check(case, name, norm, norm, 0.0, "absolute", "no gradient"))
            continue
        norm, product = mine if mine else (math.nan, math.nan)
        of_module = modules[name.split("/")[0]]
        if is_zero_gradient(name) or pair[0] == 0.0:
            note = "norm, of its module's; zero but for rounding"
            share = _share(norm, of_module)
            checks.append(Check(case, name, norm, share, ZERO_GRADIENT, note=note))
            continue
        off = abs(norm - pair[0])
        norms.append(off / pair[0])
        checks.append(Check(case, name, off, norms[-1], GRADIENT_NORM, note="norm"))
        off = abs(product - pair[1])
        probes.append(off / pair[0])
        checks.append(Check(case, name, off, probes[-1], GRADIENT_PROBE, note="probe, of the norm"))
    for what, errors, limit in (
        ("norms", norms, MOST_GRADIENT_NORMS),
        ("probes", probes, MOST_GRADIENT_PROBES),
    ):
        if errors:
            # "higher": the error that at least 95% of the tensors do not exceed.
            most = float(np.quantile(errors, MOST, method="higher"))
            note = f"{MOST:.0%} of {len(errors)} tensors are within this"
            checks.append(Check(case, f"all gradients: {what}", most, most, limit, note=note))
    return checks


def is_zero_gradient(name: str) -> bool:
    """Whether a parameter's gradient vanishes by construction, "module/key".

    A bias in front of a BatchNorm with batch statistics is subtracted again. The memory tokens of
    the dynamic decoders are all one vector, so what decides the attention between them has no
    effect. A key's bias adds the same to all logits of a softmax.
    """
    module, key = name.split("/", 1)
    double_conv = module in ("psnet_model", "video_encoder") or module.startswith("dim_reducer")
    if double_conv and key.endswith((".conv.0.bias", ".conv.3.bias")):
        return True
    if module in ("decoder2", "decoder4"):
        return any(part in key for part in (".norm_q.", ".attn.q_map.", ".attn.k_map."))
    return key.endswith("key_projection.bias")


def statistic(case: str, name: str, value: np.ndarray, probe: np.ndarray, want: float) -> Check:
    """Compares a running statistic by its product with a probe."""
    value, probe = np.asarray(value, np.float64).ravel(), np.asarray(probe, np.float64).ravel()
    off = abs(float(value @ probe) - want)
    size = float(np.linalg.norm(value) * np.linalg.norm(probe) / math.sqrt(value.size))
    return Check(case, name, off, _share(off, size), STATISTIC, note="probe, of its usual size")


def _share(error: float, size: float) -> float:
    if size > 0:
        return error / size
    return 0.0 if error == 0 else math.inf
