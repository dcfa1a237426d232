"""An edited test set's figures for people and programs: a table and a JSON file."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

from rich.console import Console

from finecausal_jax.explain.swap import Swapped, to_json
from finecausal_jax.runtime.console import add_columns, make_console
from finecausal_jax.runtime.files import write_atomically
from finecausal_jax.scoring.assessment_report import decided
from finecausal_jax.scoring.report import new_table, plain


def print_table(
    found: Sequence[Swapped], *, data_name: str, console: Console | None = None
) -> None:
    """Prints one line an edit.

    Args:
      found: the figures.
      data_name: what was scored, such as "rendered data".
      console: where to print; None is standard output.
    """
    table = new_table(f"Edited test dives ({data_name})")
    add_columns(
        table,
        (
            "edit",
            "exemplars",
            "execution Spearman",
            "95%",
            "less than put back",
            "95%",
            "R-l2 x100",
        ),
    )
    for one in found:
        said = "undecided" if decided(one.less_than_control) == "undecided" else "decided"
        low, high = one.execution.by_dives
        less, more = one.less_than_control.by_dives
        table.add_row(
            one.setting.edit,
            one.setting.exemplars,
            f"{one.execution.value:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{one.less_than_control.value:.3f} {said}",
            f"{less:.3f} to {more:.3f}",
            f"{one.r_l2_x100.value:.2f}",
        )
    (console or make_console()).print(table)


def write_json(
    found: Sequence[Swapped],
    path: str | os.PathLike[str],
    *,
    data_name: str,
    scored_by: str,
    masks: str,
) -> pathlib.Path:
    """Writes every figure, and the predicted completeness of every dive.

    Args:
      found: the figures.
      path: the file.
      data_name: what was scored.
      scored_by: the network's name.
      masks: where the diver was taken from.
    """
    content = {
        "data": data_name,
        "scored_by": scored_by,
        "masks": masks,
        "dives": [list(info.key) for info in found[0].predictions.infos] if found else [],
        "edits": to_json(found),
    }
    text = json.dumps(plain(content), indent=1, allow_nan=False)
    return write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))
