"""What a conversion did, as a table a module at a time."""

from __future__ import annotations

import collections
import json
import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finecausal_jax.interop import names
from finecausal_jax.interop.checkpoint_files import KINETICS
from finecausal_jax.interop.conversion import Converted, model_to_json
from finecausal_jax.interop.order import MODULES
from finecausal_jax.runtime.console import add_columns, make_console


def print_conversion(converted: Converted, console: Console | None = None) -> None:
    """Prints tensors and parameters by module: mapped, dropped, and left at initial values.

    Args:
      converted: from `conversion.convert_file`.
      console: where to; the terminal where None.
    """
    console = console or make_console()
    rows = count_by_module(converted)
    source = converted.source
    table = Table(title=Text(f"{source.path.name}: {source.kind}"))  # a name may hold brackets
    add_columns(table, ["module"])
    add_columns(table, _COLUMNS, justify="right")
    for module, row in rows.items():
        table.add_row(module, *(f"{row[name]:,}" if row[name] else "-" for name in _COLUMNS))
    total = {name: sum(row[name] for row in rows.values()) for name in _COLUMNS}
    table.add_section()
    table.add_row("all", *(f"{total[name]:,}" if total[name] else "-" for name in _COLUMNS))
    console.print(table)

    reasons = collections.Counter(converted.conversion.dropped.values())
    for reason, count in reasons.items():
        console.print(f"dropped {count}: {reason}")
    if source.kind == KINETICS:
        console.print("each tensor of the file fills both trunks, base_model and segmenter")
    taken = json.loads(json.dumps(model_to_json(converted.model)))  # as read: no tuples
    for name, value in source.config.get("model", {}).items():
        if taken.get(name) != value:
            line = f"model.{name}: {taken.get(name)} of --config is taken, config.json says {value}"
            console.print(Text(line))
    whole = [m for m, row in rows.items() if row["fresh"] and not row["mapped"]]
    part = [m for m, row in rows.items() if row["fresh"] and row["mapped"]]
    if whole:
        console.print(f"fresh, not in the file: {', '.join(whole)}")
    if part:
        console.print(f"fresh in part, not in the file: {', '.join(part)}")
    if converted.adam is not None:
        steps = int(converted.adam["count"])
        console.print(f"Adam's moments: converted; training goes on after their {steps} steps")
    elif source.kind.endswith("checkpoint"):
        console.print("Adam's moments: none converted; training begins at step 0")


_COLUMNS = ("mapped", "values", "dropped", "fresh", "fresh values")


def count_by_module(converted: Converted) -> dict[str, dict[str, int]]:
    """Counts of tensors and of the values in them, by module in a released file's order."""
    rows: dict[str, Any] = {module: collections.Counter() for module in MODULES}
    fresh = set(converted.fresh)
    for (module, key), want in converted.expected.items():
        row, size = rows[module], math.prod(want.shape)
        if (module, key) in converted.conversion.sources:
            row.update({"mapped": 1, "values": size})
        elif want.target is not None and want.target.name in fresh:
            row.update({"fresh": 1, "fresh values": size})
    for module, key in converted.conversion.dropped:
        if names.drop_reason(module, key):
            rows[module].update({"dropped": 1})
    return {module: row for module, row in rows.items() if row}
