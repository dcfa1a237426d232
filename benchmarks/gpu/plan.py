"""Which measurements a part consists of, in the order in which they tell most."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

XLA = "XLA"
PYTORCH = ("PyTorch reference", "PyTorch channels_last", "PyTorch compiled")
# The plain baseline first: it takes seconds, and with XLA's it makes the first ratio.
WORKERS = (PYTORCH[0], XLA, *PYTORCH[1:])


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One process that measures.

    Attributes:
      name: in the record.
      module: in this package; run with the options as JSON.
      options: what is measured.
      full_size: whether it exists at full size only, as the recorded cases and the PyTorch baseline
        do.
    """

    name: str
    module: str
    options: Mapping[str, Any]
    full_size: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """What one call runs.

    Attributes:
      letter: parts of one letter belong together in the report.
      minutes: that it is expected to take on an H100 with 16 cores, compiling included; a guess
        until it has run there.
      what: for people.
      measurements: most telling first.
    """

    letter: str
    minutes: int
    what: str
    measurements: tuple[Measurement, ...]


def _verify(case: str, products: str, dtype: str = "float32") -> Measurement:
    options = {"case": case, "products": products, "dtype": dtype}
    name = f"{case}/{products if dtype == 'float32' else dtype}"
    return Measurement(name, "precision", options, full_size=case not in ("compare",))


def _time(section: str, pairs: int, dtype: str = "float32") -> tuple[Measurement, ...]:
    return tuple(
        Measurement(
            f"{section}/{dtype}/{pairs}/{worker}",
            "timing",
            {"section": section, "pairs": pairs, "dtype": dtype, "worker": worker},
            full_size=worker != XLA,
        )
        for worker in WORKERS
    )


def _memory(program: str, pairs: int) -> Measurement:
    options = {"program": program, "pairs": pairs, "dtype": "float32"}
    return Measurement(f"memory/{program}/{pairs}", "memory", options)


def _twice(deterministic: bool) -> Measurement:
    name = "twice/" + ("deterministic" if deterministic else "as it is")
    options = {"deterministic": deterministic, "pairs": 1, "dtype": "float32"}
    return Measurement(name, "twice", options)


def _profile(section: str) -> Measurement:
    options = {"section": section, "pairs": 1, "dtype": "float32"}
    return Measurement(f"kernels/{section}", "kernels", options)


PARTS = {
    "verify": Part(
        "a",
        6,
        "recorded forward cases: float32 products, then TF32 and bfloat16",
        (
            _verify("forward_pair", "highest"),
            _verify("compare", "highest"),
            _verify("forward_pair", "default"),
            _verify("forward_pair", "default", "bfloat16"),
            _verify("compare", "default"),
            _verify("compare", "default", "bfloat16"),
            _verify("forward_batch", "highest"),
        ),
    ),
    "forward": Part("b", 6, "a forward pass of a pair, against PyTorch", _time("forward", 1)),
    "scoring": Part(
        "b",
        8,
        "encode, compare, a new dive against a bank, against PyTorch",
        _time("evaluation", 1),
    ),
    "train": Part("c", 9, "a training step of 1 pair, against PyTorch", _time("train", 1)),
    "train8": Part("c", 9, "a training step of 8 pairs, against PyTorch", _time("train", 8)),
    "bfloat16": Part(
        "d", 6, "a forward pass in bfloat16, against autocast", _time("forward", 1, "bfloat16")
    ),
    "bfloat16_train": Part(
        "d", 9, "a training step in bfloat16, against autocast", _time("train", 1, "bfloat16")
    ),
    "memory": Part(
        "e",
        9,
        "the memory that programs take, against the compiler's plan",
        (_memory("score", 16), _memory("train", 1), _memory("train", 8), _memory("train", 17)),
    ),
    "twice": Part(
        "e", 8, "a training step twice, compared bit for bit", (_twice(True), _twice(False))
    ),
    "profile": Part(
        "f",
        4,
        "the largest kernels of a forward pass and of a training step",
        (_profile("forward"), _profile("train")),
    ),
    "gradients": Part(
        "a",
        8,
        "recorded training cases: losses, every gradient, statistics",
        (_verify("compare_train", "highest"), _verify("train_step", "highest")),
    ),
}
