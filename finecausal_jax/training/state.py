"""The training state and the optimiser, built from plain settings."""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval

from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.training.schedule import Schedule, optax_schedules


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


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam with the reference's rates; see `make_optimiser`.

    Attributes:
      schedule: learning rates by micro-batch.
      accumulate: micro-batches whose gradients one step adds up (sums, as the reference does).
      clip_norm: largest global norm of the summed gradient; 0 for no limit, as in the reference.

    Raises:
      ValueError: `clip_norm` is negative.
    """

    schedule: Schedule
    accumulate: int = 2
    clip_norm: float = 0.0

    def __post_init__(self):
        if not self.clip_norm >= 0:
            raise ValueError(
                f"optimiser: clip_norm is {self.clip_norm}, expected a norm, or 0 for no limit"
            )


def make_optimiser(settings: Optimiser) -> optax.GradientTransformation:
    """Adam without weight decay, with one rate for `base_model` and one for all else."""
    rates = optax_schedules(settings.schedule, settings.accumulate)
    scale = optax.multi_transform(
        {group: optax.scale_by_learning_rate(rate) for group, rate in rates.items()}, _groups
    )
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    adam = optax.chain(clip, optax.scale_by_adam(), scale)
    if settings.accumulate == 1:
        return adam
    steps = optax.MultiSteps(adam, settings.accumulate, use_grad_mean=False)
    return steps.gradient_transformation()


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


def init_state(variables: dict[str, Any], optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimiser.init(variables["params"]),
    )


def _groups(params: Any) -> Any:
    return {
        module: jax.tree.map(
            lambda _, m=module: "base_model" if m == "base_model" else "rest", tree
        )
        for module, tree in params.items()
    }
