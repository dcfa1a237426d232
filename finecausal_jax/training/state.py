"""The training state: all that a step changes, and its first value."""

from collections.abc import Collection
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from finecausal_jax.models.finecausal import FineCausal
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


def init_variables(
    model: FineCausal, frame_size: int, key: jax.Array, wanted: Collection[str] | None = None
) -> dict[str, Any]:
    """Initial parameters and statistics, the values that `model.init` gives.

    Initialisation is traced as a whole and cut down to the draws: `model.init` would compute a
    forward pass, and compiling that or all draws as one program takes minutes on a CPU. One by one
    they share a few kernels.

    Args:
      model: the network.
      frame_size: height and width of its frames, pixels.
      key: fixes every random value.
      wanted: names of leaves, "collection/path/..."; None means all of them.

    Returns:
      {"params", "batch_stats"}, nested dicts of float32 arrays; the wanted leaves only.
    """
    shape = (1, model.frames, frame_size, frame_size, 3)
    video = jax.ShapeDtypeStruct(shape, jnp.float32)

    def init(key: jax.Array, video: Any) -> Any:
        return model.init(key, video, video)

    traced, shapes = jax.make_jaxpr(init, return_shape=True)(key, video)
    paths = [tuple(entry.key for entry in path) for path, _ in jax.tree.leaves_with_path(shapes)]
    chosen = [wanted is None or "/".join(path) in wanted for path in paths]
    needed, uses = partial_eval.dce_jaxpr(traced.jaxpr, chosen)
    arguments = [value for value, used in zip((key, None), uses, strict=True) if used]
    values = jax.core.eval_jaxpr(needed, traced.consts, *arguments)
    kept = (path for path, is_chosen in zip(paths, chosen, strict=True) if is_chosen)
    return flax.traverse_util.unflatten_dict(dict(zip(kept, values, strict=True)))


def init_state(variables: dict[str, Any], optimiser: ParameterUpdate) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimiser.init(variables["params"]),
    )
