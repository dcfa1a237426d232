"""Reads compiled HLO text: what devices send each other, and what kernels read and write.

Only what XLA's own analysis does not tell, or not on every platform.
"""

import collections
import re
from typing import Any, NamedTuple

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.*?) (?P<op>[a-z][\w-]*)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
# The last result of a library's call (cuBLAS, cuDNN): memory it may use, not traffic.
_WORKSPACE = re.compile(r", [su]8\[\d+\](\{0\})?\)$")
# They name a value and move nothing.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")


def asked_flops(traced: Any, platform: str) -> float:
    """FLOPs of a whole program as it is asked for, before a compiler touched it, by XLA's count.

    Args:
      traced: from `programs.trace`, for a CPU: XLA counts nothing for a GPU that is not there.
      platform: whose program it is, such as "cuda"; it decides between ways to compute the same.
    """
    return traced.lower(lowering_platforms=(platform,)).cost_analysis()["flops"]


class Collective(NamedTuple):
    """All collectives of one kind.

    Attributes:
      kind: HLO's name, such as "all-reduce".
      count: how many the program holds.
      bytes: sum of their results on one device.
    """

    kind: str
    count: int
    bytes: int


def collectives(text: str) -> list[Collective]:
    """The collectives in a compiled module, by kind; an asynchronous one counts where it ends."""
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match and (kind := match["op"].removesuffix("-done")) in _COLLECTIVES:
            counts[kind] += 1
            sizes[kind] += shape_bytes(match["shape"])
    return [Collective(kind, counts[kind], sizes[kind]) for kind in sorted(counts)]


def bytes_accessed(text: str) -> int:
    """Operands and results of every instruction of the entry computation, fused ones as one.

    An estimate of the traffic with memory: what a cache keeps is counted as if it were read again.
    """
    entry = text[text.index("\nENTRY ") :]
    entry = entry[: entry.index("\n}")]
    sizes: dict[str, int] = {}
    total = 0
    for line in entry.splitlines():
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        shape = match["shape"]
        if match["op"] == "custom-call":
            shape = _WORKSPACE.sub("", shape)
        sizes[match["name"]] = size = shape_bytes(shape)
        if match["op"] in _FREE:
            continue
        operands = match["rest"].partition(")")[0]
        total += size + sum(sizes.get(name, 0) for name in re.findall(r"%([\w.-]+)", operands))
    return total


def shape_bytes(shape: str) -> int:
    """Bytes of an HLO shape, an array's or a tuple's, without padding."""
    total = 0
    for dtype, dimensions in _ARRAY.findall(shape):
        size = _dtype_bytes(dtype)
        for dimension in filter(None, dimensions.split(",")):
            size *= int(dimension)
        total += size
    return total


def _dtype_bytes(dtype: str) -> int:
    if dtype == "pred":
        return 1
    digits = re.search(r"\d+", dtype)  # f32, bf16, u8, c64, f8e4m3; token has none
    return max(1, int(digits[0]) // 8) if digits else 0
