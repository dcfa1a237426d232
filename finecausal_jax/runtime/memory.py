"""What a compiled program takes of a device's memory, and what there is."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

from finecausal_jax.runtime.errors import InputError

GIB = 2**30
_CONTAINER = pathlib.Path("/sys/fs/cgroup/memory.max")  # Linux: bytes, or "max"


def planned_memory(compiled: Any) -> dict[str, int]:
    """Bytes that a compiled program takes of each device, by XLA's plan.

    Returns:
      "arguments", "outputs" (without those that take an argument's place), "temporaries", "code"
      and "total"; empty where XLA does not tell.
    """
    plan = compiled.memory_analysis()
    if plan is None:
        return {}
    memory = {
        "arguments": plan.argument_size_in_bytes,
        "outputs": plan.output_size_in_bytes - plan.alias_size_in_bytes,
        "temporaries": plan.temp_size_in_bytes,
        "code": plan.generated_code_size_in_bytes,
    }
    return {**memory, "total": sum(memory.values())}


def machine_bytes() -> int | None:
    """Bytes of the machine's memory, or of its container's where that is less; None if unknown."""
    found = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        found.append(int(_CONTAINER.read_text()))
    return min(found, default=None)


def device_bytes(device: Any) -> int | None:
    """Bytes that programs may take of a device; None if unknown."""
    if device.platform == "cpu":
        return machine_bytes()
    return (device.memory_stats() or {}).get("bytes_limit")


def peak_bytes(device: Any) -> int | None:
    """The most that programs have held of a device's memory so far; None where nobody counts."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def check_fits(compiled: Any, device: Any, what: str, mend: str) -> None:
    """Raises InputError where a program's plan is larger than the memory there is.

    A program that fits may still fail: the plan leaves out what the process and others hold.

    Args:
      compiled: the program.
      device: one of the `jax.Device`s that it runs on.
      what: what it does, for the error.
      mend: what takes less.
    """
    needed, there = planned_memory(compiled).get("total"), device_bytes(device)
    if needed is not None and there is not None and needed > there:
        raise InputError(
            f"{what} takes {needed / GIB:.1f} GiB of memory by XLA's plan, {device.device_kind} "
            f"has {there / GIB:.1f}: {mend}"
        )
