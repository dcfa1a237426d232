"""Shows estimates: a table for the terminal, JSON for everything else."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from finecausal_jax.compilation.estimate import Estimate
from finecausal_jax.compilation.hardware import GIB, Topology

_WIDTH = 140  # columns where the output is no terminal


def print_estimates(estimates: Sequence[Estimate], topology: Topology) -> None:
    """Prints a row an estimate, per device, and below what the columns leave out."""
    chip = topology.chip
    table = Table(title=f"{topology.name}: {topology.devices} x {chip.name}, per device")
    for column in ("program", "dtype", "remat", "pairs", "arguments", "temporaries", "total GiB"):
        table.add_column(column, justify="left" if column in ("program", "dtype") else "right")
    for column in ("fits", "TFLOP", "GB moved", "roofline s", "compiled in s"):
        table.add_column(column, justify="right")
    for one in estimates:
        table.add_row(
            one.program,
            one.dtype,
            one.remat,
            f"{one.batch_size / topology.devices:g}",
            _gib(one.memory.get("arguments")),
            _gib(one.memory.get("temporaries")),
            f"{_gib(one.memory.get('total'))} / {_gib(one.limit)}",
            "yes" if one.fits else "no",
            _number(one.flops, 1e12),
            _number(one.bytes_accessed, 1e9),
            f"{one.roofline['total']:.4f}" if one.roofline else "",
            f"{one.compile_seconds:.0f}",
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table)
    for one in estimates:
        console.print(_detail(one), highlight=False, soft_wrap=True)


def write_json(
    estimates: Sequence[Estimate], topology: Topology, config: dict[str, Any], path: pathlib.Path
) -> None:
    """Writes everything; an earlier file stays whole until this one is."""
    chip = topology.chip
    content = {
        "topology": topology.name,
        "devices": topology.devices,
        "chip": {
            "name": chip.name,
            "memory": chip.memory,
            "bandwidth": chip.bandwidth,
            "flops": chip.flops,
            "link": chip.link,
            "source": chip.source,
        },
        "config": config,
        "estimates": [one.to_json() for one in estimates],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=2, default=list) + "\n")
    os.replace(temporary, path)


def _detail(one: Estimate) -> str:
    """Collectives and the roofs of one estimate."""
    head = f"{one.program}, {one.batch_size} pairs: "
    if not one.roofline:
        return head + "refused by the compiler, out of memory"
    roofs = ", ".join(
        f"{name} {seconds * 1e3:.2f} ms"
        for name, seconds in one.roofline.items()
        if name != "total"
    )
    links = ", ".join(
        f"{part.count} {part.kind} of {part.bytes / 1e6:.1f} MB in all" for part in one.collectives
    )
    return f"{head}{roofs}; {links or 'no collectives'}"


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:.2f}"


def _number(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.2f}"
