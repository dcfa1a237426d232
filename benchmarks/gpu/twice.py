"""A training step twice from the same state, compared bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.child import Emit, Options, serve
from benchmarks.gpu.inputs import make_task
from benchmarks.xla_worker import Train

# XLA's names, newest first, for leaving out operations whose result may differ from run to run.
DETERMINISTIC = ("xla_gpu_exclude_nondeterministic_ops", "xla_gpu_deterministic_ops")


def measure(options: Options, emit: Emit) -> None:
    """Emits the "option" that was set, and how many "arrays" "differ" after one step."""
    chosen = known_option(DETERMINISTIC) if options["deterministic"] else None
    if options["deterministic"] and chosen is None:
        raise ValueError(f"this jaxlib knows none of {', '.join(DETERMINISTIC)}")
    emit(device=jax.devices()[0].device_kind, option=chosen)
    step, (state, batch, key) = Train(make_task(options, "train", options["pairs"])).program()
    compiled = step.lower(state, batch, key).compile({chosen: True} if chosen else None)
    layouts = jax.tree.map(lambda x: x.sharding, state)
    start = jax.device_get(state)
    del state
    results = []
    for _ in range(2):
        # A fresh copy: the step takes the place of its state.
        results.append(jax.device_get(compiled(jax.device_put(start, layouts), batch, key)))
    emit(**differences(*results))


def known_option(names: Sequence[str]) -> str | None:
    """The first compiler option that the installed XLA knows; asked, since names come and go."""
    lowered = jax.jit(lambda x: x + 1).lower(jnp.float32(0))
    for name in names:
        try:
            lowered.compile({name: True})
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
        else:
            return name
    return None


def differences(first: Any, second: Any) -> dict[str, Any]:
    """Compares two trees of arrays of the same structure bit for bit.

    Returns:
      "arrays" in each, how many "differ", the "worst" of them by the largest difference relative
      to the array's largest value, and the "digest" of the first: another process's can be
      compared with it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(first)
    digest, worst, differ = hashlib.sha256(), ("", 0.0), 0
    for (path, one), other in zip(leaves, jax.tree.leaves(second), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        digest.update(one.tobytes())
        if one.tobytes() == other.tobytes():
            continue
        differ += 1
        off = np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0)
        share = float(off / (np.max(np.abs(one), initial=0.0) or 1.0))
        if not share <= worst[1]:
            worst = jax.tree_util.keystr(path), share
    return {
        "arrays": len(leaves),
        "differ": differ,
        "worst": {"array": worst[0], "relative": worst[1]} if differ else None,
        "digest": digest.hexdigest()[:16],
    }


if __name__ == "__main__":
    serve(measure)
