"""The training step as one program over a layout of devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.runtime.layout import Layout
from finecausal_jax.runtime.memory import check_fits
from finecausal_jax.training.losses import Losses
from finecausal_jax.training.optimiser import ParameterUpdate
from finecausal_jax.training.state import TrainState
from finecausal_jax.training.steps import StepSettings, train_step

Step = Callable[..., tuple[TrainState, Losses]]


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledStep:
    """A training step for arguments of fixed shapes and places.

    Attributes:
      run: (state, batch, key) -> (state, losses).
      flops: floating-point operations on one device, by XLA's count; 0 if unknown.
    """

    run: Step
    flops: float = 0.0


def make_step(
    model: FineCausal, optimiser: ParameterUpdate, settings: StepSettings, layout: Layout
) -> Any:
    """The jitted training step, with a donated state.

    Args:
      model: the network.
      optimiser: from `optimiser.make_optimiser`.
      settings: what a step does besides.
      layout: where batches and state lie; without rules, which need the state's shapes, the state
        is on every device.

    Returns:
      A function (state, batch, key) -> (state, losses).
    """
    step = functools.partial(train_step, model=model, optimiser=optimiser, settings=settings)
    whole = layout.whole
    return jax.jit(
        step,
        in_shardings=(whole, layout.batch, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def compile_step(
    step: Any, state: TrainState, batch: dict[str, Any], key: jax.Array
) -> CompiledStep:
    """Compiles a training step for arguments like these, and drops what only compiling needs.

    JAX's traces of the whole network stay in memory otherwise, and nothing reads them again.

    Args:
      step: from `make_step`.
      state, batch, key: placed on their devices.

    Returns:
      The same function of arguments of these shapes and places.

    Raises:
      InputError: by XLA's plan, it needs more memory than there is.
    """
    compiled = step.lower(state, batch, key).compile()
    jax.clear_caches()
    pairs = len(jax.tree.leaves(batch)[0])
    check_fits(
        compiled,
        jax.devices()[0],
        f"a training step of {pairs} pairs",
        "it takes less with a smaller --config.train.batch_size, --config.model.dtype=bfloat16 or "
        "(on a GPU or TPU) --config.model.remat=blocks; `launch.py compile` looks for the largest "
        "batch",
    )
    costs = compiled.cost_analysis() or {}
    return CompiledStep(compiled, max(float(costs.get("flops", 0.0)), 0.0))
