"""Which process of a run leads, and how the others wait for it and share what they have.

A run on one host is one process, which leads. Nothing here starts JAX's devices before a run does:
without `jax.distributed.initialize` there is one process.
"""

from __future__ import annotations

import sys
from typing import Any


def count() -> int:
    """How many processes the run has."""
    return sys.modules["jax"].process_count() if _is_distributed() else 1


def index() -> int:
    """The number of this process; 0 leads."""
    return sys.modules["jax"].process_index() if _is_distributed() else 0


def leads() -> bool:
    """Whether this process writes files and talks to people."""
    return index() == 0


def wait(name: str) -> None:
    """Waits until every process is here.

    Args:
      name: of the place in the program, the same in all processes.
    """
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def gather(tree: Any) -> Any:
    """Arrays of all processes, as NumPy arrays with a leading axis of processes.

    Args:
      tree: arrays of the same shapes in every process.
    """
    if count() > 1:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(tree)
    import jax
    import numpy as np

    return jax.tree.map(lambda x: np.asarray(x)[None], tree)


def _is_distributed() -> bool:
    jax = sys.modules.get("jax")  # what has not imported JAX has not started several processes
    return jax is not None and jax.distributed.is_initialized()
