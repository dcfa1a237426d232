"""Shows estimates: a table for the terminal, JSON for everything else."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from finecausal_jax.compilation.estimate import Estimate, Search
from finecausal_jax.compilation.hardware import Topology
from finecausal_jax.runtime.console import add_columns, make_console
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.runtime.json_files import not_expected, read_json
from finecausal_jax.runtime.memory import GIB


def print_estimates(
    estimates: Sequence[Estimate], topology: Topology, console: Console | None = None
) -> None:
    """Prints a row an estimate, per device, and below what the columns leave out.

    Args:
      estimates: one a row.
      topology: what they were compiled for.
      console: where to print; None is standard output.
    """
    console = console or make_console()
    chip = topology.chip
    table = Table(title=f"{topology.name}: {topology.devices} x {chip.name}, per device")
    add_columns(table, ("program", "dtype"))
    sizes = ("remat", "pairs", "arguments", "temporaries", "total GiB")
    speeds = ("fits", "TFLOP", "GB moved", "roofline s", "compiled in s")
    add_columns(table, (*sizes, *speeds), justify="right")
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
    console.print(table)
    for one in estimates:
        console.print(_detail(one), highlight=False, soft_wrap=True)


def search_line(program: str, search: Search) -> str:
    """One line on the largest batch, and on what the search left open."""
    head = f"{program}: "
    if not search.fits:
        return head + f"not even {search.too_many} pair a device fits"
    head += f"largest that fits: {search.fits} pair{'s' * (search.fits > 1)} a device; "
    if search.too_many is None:
        return head + "not bounded, the search was cut short: raise --compiles"
    head += f"{search.too_many} does not"
    return head if search.ended else head + "; the search was cut short: raise --compiles"


def file_name(topology: Topology, program: str, dtype: str, remat: str, batch_size: int) -> str:
    """A name of its own for all that a user compares, so that no result replaces another.

    Args:
      topology, program, dtype, remat: what is compiled for what, and how.
      batch_size: pairs over all devices; 0: a search for the largest number.
    """
    batch = f"batch_{batch_size}" if batch_size else "largest"
    parts = (topology.name.replace(":", "_"), program, dtype, remat)
    return "_".join((*parts, batch)) + ".json"


def earlier_estimates(
    path: pathlib.Path,
    differences: Callable[[dict[str, Any]], list[str]],
    made_with: Mapping[str, str | None],
) -> list[Estimate]:
    """What an earlier run of the command compiled, so that none of it need be compiled again.

    Args:
      path: its file.
      differences: tells what of a config, as nested dicts, is not that of the results.
      made_with: from `provenance.compiled_with`.

    Returns:
      The file's estimates; an empty list where it is not there, or was made with other code, as it
      may have been where changes are not committed, which look all the same.

    Raises:
      InputError: the file holds results of another config, whose differences are listed, or
        something else.
    """
    if not path.exists():
        return []
    expected, mend = "results of `compile`", "choose another --workdir"
    content = read_json(path, expected, mend)
    try:
        saved = dict(content["config"])
        found = [Estimate.from_json(row) for row in content["estimates"]]
    except (ValueError, KeyError, TypeError) as error:
        raise not_expected(path, expected, error, mend) from error
    changed = differences(saved)
    if changed:
        raise InputError(
            f"{path} holds results of another config; choose another --workdir, or set back:\n  "
            + "\n  ".join(changed)
        )
    uncommitted = (made_with["commit"] or "").endswith("-dirty")
    return found if not uncommitted and content.get("made_with") == made_with else []


def write_json(
    estimates: Sequence[Estimate],
    topology: Topology,
    config: dict[str, Any],
    path: pathlib.Path,
    searches: Mapping[str, Search] | None = None,
    *,
    made_with: Mapping[str, str | None],
) -> None:
    """Writes everything; an earlier file stays whole until this one is.

    Args:
      estimates: made so far.
      topology, config: what for, of what.
      path: where to.
      searches: by program, for "largest", "too_many" (pairs a device, null where not known) and
        "cut_short", true also while a search goes on. None: there is no search.
      made_with: from `provenance.compiled_with`.
    """
    chip = topology.chip
    known = searches or {}
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
        "made_with": dict(made_with),
        "config": config,
        "largest": {program: search.fits for program, search in known.items()},
        "too_many": {program: search.too_many for program, search in known.items()},
        "cut_short": {program: not search.ended for program, search in known.items()},
        "estimates": [one.to_json() for one in estimates],
    }
    text = json.dumps(content, indent=2, default=list) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


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
