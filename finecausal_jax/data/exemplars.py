"""Which dives a query is compared with.

An exemplar is a training dive of the same dive number whose score is known. The reference shuffles
one shared list in place, so its exemplars, and with them its scores, depend on the number of worker
processes and on the order of the queries. Here every candidate gets a rank from the seed, the query
and itself (`seeding.digest`) and the lowest ranks win: nothing else has a say, and a dive added to
the training split leaves the other choices as they were unless it wins itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from finecausal_jax.data import seeding
from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.runtime.errors import InputError


def training_exemplar(infos: Sequence[DiveInfo], query_row: int, *, seed: int, epoch: int) -> int:
    """Returns the row of a random other dive of the query's dive number.

    Args:
      infos: the training dives.
      query_row: row of the query in `infos`.
      seed: the run's seed.
      epoch: number of the pass over the data; each draws anew.

    Returns:
      A row of `infos`; `query_row` itself if no other dive has its dive number.
    """
    query = infos[query_row]
    rows = _ranked(infos, query, ("training exemplar", seed, epoch))
    return rows[0] if rows else int(query_row)


def evaluation_exemplars(
    query_info: DiveInfo, train_infos: Sequence[DiveInfo], *, count: int, seed: int
) -> Int64[np.ndarray, " k"]:
    """Returns the rows of random training dives of the query's dive number, none twice.

    Args:
      query_info: the dive to score. Where it is one of the training dives, it is not its own
        exemplar unless no other dive has its dive number.
      train_infos: the training dives.
      count: how many exemplars to choose, at least 1.
      seed: the seed of the choice.

    Returns:
      int64 [min(count, candidates)], rows of `train_infos`.

    Raises:
      InputError: no training dive has the query's dive number, or `count` is below 1.
    """
    if count < 1:
        raise InputError(f"the number of exemplars must be at least 1, got {count}")
    rows = _ranked(train_infos, query_info, ("evaluation exemplar", seed))
    if not rows:
        rows = [row for row, info in enumerate(train_infos) if info.key == query_info.key]
    if not rows:
        known = len({info.dive_number for info in train_infos})
        raise InputError(
            f"dive {query_info.key} has dive number {query_info.dive_number!r}, which none of the "
            f"{len(train_infos)} training dives has (they have {known} others): a dive is scored "
            "against training dives of its own dive number, so leave it out (a split's "
            "/with_exemplars leaves out all such dives) or add one to the training split"
        )
    return np.array(rows[:count], np.int64)


def _ranked(infos: Sequence[DiveInfo], query: DiveInfo, purpose: tuple[Any, ...]) -> list[int]:
    """Returns the rows of other dives of the query's dive number, in random but fixed order."""
    rows = [
        row
        for row, info in enumerate(infos)
        if info.dive_number == query.dive_number and info.key != query.key
    ]
    return sorted(rows, key=lambda row: seeding.digest(*purpose, query.key, infos[row].key))
