"""What comparing checksums adds to restoring the state of a full-size training.

python -m tests.reliability.checksum_cost
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np

from configs import finediving_hm
from finecausal_jax.runtime import checksums
from finecausal_jax.runtime.checkpoints import CheckpointStore
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.settings import read, things
from finecausal_jax.training.state import init_state

TURNS = 6


def main() -> None:
    """Restores with and without checksums in turn and prints the seconds."""
    settings, layout = read(finediving_hm.get_config()), make_layout()
    _, optimiser = things.make_training_step(settings, 1, layout)
    shapes = things.program_parts(settings, layout).shapes()
    state = layout.shapes(jax.eval_shape(lambda x: init_state(x, optimiser), shapes))
    wanted = {
        "variables": state.variables,
        "optimiser": {"step": state.step, "opt_state": state.opt_state},
    }
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda x: _values(rng, x), wanted)
    print(f"{sum(x.nbytes for x in jax.tree.leaves(values)) / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory() as name, CheckpointStore(name) as store:
        store.save(1, values)
        store.finish()
        folder = pathlib.Path(name) / "checkpoints" / "1"
        file, aside = folder / checksums.FILE, pathlib.Path(name) / "aside"
        began = time.monotonic()
        checksums.damaged(folder)
        print(f"comparing alone: {time.monotonic() - began:.2f} s")
        seconds: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(TURNS):
            for which, found in seconds.items():
                if which == "without":
                    file.rename(aside)
                began = time.monotonic()
                jax.block_until_ready(store.load(1, wanted))
                found.append(time.monotonic() - began)
                if which == "without":
                    aside.rename(file)
    for which, found in seconds.items():
        shown = ", ".join(f"{one:.2f}" for one in found)
        print(f"restored {which} checksums: median {statistics.median(found):.2f} s of {shown}")


def _values(rng: np.random.Generator, shape: Any) -> np.ndarray:
    if np.issubdtype(shape.dtype, np.floating):
        return rng.normal(size=shape.shape).astype(shape.dtype)
    return np.zeros(shape.shape, shape.dtype)


if __name__ == "__main__":
    main()
