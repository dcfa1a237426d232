"""Random choices that depend on what they are for, never on when or where they are made.

Every choice of the input pipeline is keyed by values that name it, such as (seed, epoch, dive).
Worker processes, hosts and the order in which dives are visited then change nothing, and a resumed
run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import hashlib
import json
import operator
from typing import Any

import numpy as np


def digest(*parts: Any) -> int:
    """Returns a number that is spread evenly over 0..2^128 - 1 and fixed by `parts`.

    Unlike Python's `hash`, it is the same in every process and on every machine.

    Args:
      *parts: strings, integers (NumPy's included) and tuples or lists of them. The order counts,
        and so do the borders between the parts: ("a", "b") and ("ab",) differ.
    """
    text = json.dumps(parts, default=operator.index)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*parts: Any) -> np.random.Generator:
    """Returns a random generator whose stream is fixed by `parts` (see `digest`)."""
    return np.random.Generator(np.random.Philox(key=digest(*parts)))
