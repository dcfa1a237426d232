"""Holds the network against recorded cases: in full float32, and with shorter products.

At "highest" this is `launch.py verify`, with its limits. TF32 (a GPU's default for products and
convolutions of float32: 10 bits) and bfloat16 (7 bits) have no limit: what they change is told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.child import Emit, Options, serve
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.verification import forward
from finecausal_jax.verification.checks import Check
from finecausal_jax.verification.reference import Reference
from finecausal_jax.verification.verify import verify


def measure(options: Options, emit: Emit) -> None:
    """Emits "rows", one a tensor, and what they were computed with."""
    emit(device=jax.devices()[0].device_kind)
    name, start = options["case"], time.perf_counter()
    if options["products"] == "highest":
        checks = verify(options["reference"], [name], report=lambda line: None)
    else:
        with jax.default_matmul_precision(options["products"]):
            checks = shortened(Reference(options["reference"]), name, options["dtype"])
    emit(rows=[row(check) for check in checks], whole_seconds=time.perf_counter() - start)


def shortened(reference: Reference, name: str, dtype: str) -> list[Check]:
    """The checks of a forward case whose network computes in `dtype`."""
    case = reference.case(name)
    seed, batch = int(case["seed"]), int(case["batch"])
    model = FineCausal(
        graph_scope="batch" if name == "forward_batch" else "pair", dtype=jnp.dtype(dtype)
    )
    if name == "compare":
        query, exemplar = forward.stored_features(reference, seed, batch)
        return errors(name, case, model, reference.variables(seed), query, exemplar, "compare")
    (query, _), (exemplar, _) = (
        reference.clip(seed, side, batch) for side in ("query", "exemplar")
    )
    return errors(name, case, model, reference.variables(seed), query, exemplar)


def errors(
    name: str,
    case: Mapping[str, Any],
    model: Any,
    variables: Any,
    query: Any,
    exemplar: Any,
    method: str | None = None,
) -> list[Check]:
    """How far a network's outputs are from recorded ones, tensor by tensor.

    Videos are cut at the recorded transitions: where an argmax falls on a neighbouring frame, all
    that comes after would differ for that reason alone. The predicted ones are a row of their own.

    Args:
      name: of the case.
      case: recorded arrays by the names of `Outputs`, among them "transitions" [v, 2].
      model: a `FineCausal`.
      variables: {"params", "batch_stats"}.
      query, exemplar: normalised frames [b, t, h, w, 3]; for the method "compare", `Features`.
      method: "compare", or None for the whole network.
    """
    cut_at = jnp.asarray(np.asarray(case["transitions"]), jnp.int32)

    @jax.jit
    def apply(variables: Any, query: Any, exemplar: Any, cut_at: jax.Array) -> Any:
        return model.apply(variables, query, exemplar, transitions=cut_at, method=method)

    return list(forward.tensors(name, case, apply(variables, query, exemplar, cut_at)))


def row(check: Check) -> dict[str, Any]:
    """A check as plain values."""
    return {
        "tensor": check.tensor + (f" ({check.note})" if check.note else ""),
        "absolute": check.absolute,
        "relative": check.relative,
        "limit": check.limit,
        "counts": check.counts,
        "passed": check.passed,
    }


if __name__ == "__main__":
    serve(measure)
