"""The training state: all that a step changes, and its first value."""

from typing import Any

import flax.struct
import jax.numpy as jnp

from finecausal_jax.training.optimiser import ParameterUpdate


@flax.struct.dataclass
class TrainState:
    """All that a training step changes.

    Attributes:
      step: int32 [], micro-batches done.
      params: parameters, float32.
      batch_stats: running statistics of every BatchNorm.
      opt_state: optax's state, with gradients accumulated so far.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The state as `FineCausal.apply` takes it."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(variables: dict[str, Any], optimiser: ParameterUpdate) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimiser.init(variables["params"]),
    )
