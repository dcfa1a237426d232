"""Check the port against recorded reference cases, or compare two sets of weights.

--reference=DIR runs every case in DIR/cases at full size: forward pass, training step,
preprocessing, stage pooling, schedule. Weights and inputs are made by DIR/seeded.py, which is
executed: name only folders that you trust. For each tensor it prints the largest absolute error,
that error relative to the tensor's largest value, and whether it is within its limit.

    python launch.py verify --reference=tests/reference
    python launch.py verify --reference=tests/reference --cases=compare,forward_pair --only_misses

--checkpoint=A --against=B prints the differences between two sets of weights, tensor by tensor,
largest first. Each is a workdir, a .pth or a .safetensors file. Of a workdir it takes the best
checkpoint; DIR:latest and DIR:STEP name another.

    python launch.py verify --checkpoint=runs/released --against=best.pth

The exit code is 1 where a tensor misses its limit, or where the weights differ.
"""

from __future__ import annotations

from typing import Any

from finecausal_jax.runtime.errors import InputError

NEEDS_CONFIG = False
ONLY_READS_WORKDIR = True


def define_flags() -> None:
    """Defines --reference, --cases, --only_misses, --checkpoint and --against."""
    from absl import flags

    flags.DEFINE_string("reference", None, "Folder of reference cases; its seeded.py is executed.")
    flags.DEFINE_list("cases", [], "Names of the cases to run; all where left out.")
    flags.DEFINE_bool("only_misses", False, "Print only tensors that miss their limit.")
    flags.DEFINE_string("checkpoint", None, "Weights: DIR, DIR:latest, DIR:STEP, or a file.")
    flags.DEFINE_string("against", None, "The weights to compare --checkpoint with.")


def run(flags: Any) -> int:
    """Checks; returns the exit code."""
    if flags.checkpoint or flags.against:
        if not (flags.checkpoint and flags.against) or flags.reference:
            raise InputError("verify takes --checkpoint and --against together, or --reference")
        return _compare(flags.checkpoint, flags.against)
    if not flags.reference:
        raise InputError("verify needs --reference=DIR, or --checkpoint=A and --against=B")
    from finecausal_jax.verification.verify import verify

    checks = verify(flags.reference, flags.cases, only_misses=flags.only_misses)
    missed = [check for check in checks if not check.passed]
    print(f"{len(checks) - len(missed)} of {len(checks)} checks within limits")
    for check in missed:
        print(check)
    return 1 if missed else 0


def _compare(first: str, second: str) -> int:
    from finecausal_jax.interop.difference import differences, read_any

    (one, what), (two, what_else) = read_any(first), read_any(second)
    print(f"{what}, against {what_else}")
    rows, only_first, only_second, equal = differences(one, two)
    for row in rows:
        print(row)
    for where, names in ((first, only_first), (second, only_second)):
        for name in names:
            print(f"only in {where}: {name}")
    print(f"{equal} tensors are equal bit for bit, {len(rows)} differ")
    return 1 if rows or only_first or only_second else 0
