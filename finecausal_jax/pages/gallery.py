"""A page that leads to the pages of some dives."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.pages import html


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A dive with a page.

    Attributes:
      why: what it is an example of.
      page: its page, relative to the gallery.
      info: what is known of it.
      score: predicted, points.
    """

    why: str
    page: str
    info: DiveInfo
    score: float


def write_page(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    *,
    data_name: str,
    evaluation: str = "",
) -> pathlib.Path:
    """Writes the page, whole or not at all; returns its path.

    Args:
      path: where it goes.
      entries: the dives.
      data_name: what they are, such as "rendered data".
      evaluation: the evaluation's page, relative to this one; empty where there is none.
    """
    return html.write_html(
        path,
        "gallery.html",
        title="Dives, and why they are scored so",
        entries=entries,
        is_rendered="rendered" in data_name,
        evaluation=evaluation,
    )
