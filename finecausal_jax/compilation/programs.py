"""The programs that run on an accelerator, lowered from shapes alone: no array is made."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from finecausal_jax import settings
from finecausal_jax.data.preprocessing import normalize
from finecausal_jax.training import loop, sharding
from finecausal_jax.training.state import init_state, init_variables

PROGRAMS = ("train", "score")
# Only the period of the learning rate depends on it.
STEPS_PER_EPOCH = 1000


def lower(
    program: str, config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, batch_size: int
) -> Any:
    """Lowers a program for the devices of a mesh, which need not exist.

    Args:
      program: "train", a training step that updates its state in place; or "score", from the frames
        of query and exemplar to differences in completeness and transitions.
      config: sizes, optimiser and compute dtype.
      mesh: one axis, `data`, over which pairs are split; the rest is on every device.
      batch_size: pairs over all devices.

    Returns:
      What `jax.jit(...).lower` returns.

    Raises:
      ValueError: the devices cannot share the batch, or the config is wrong.
    """
    sharding.check_batch_size("batch_size", batch_size, mesh)
    model = settings.make_model(config)
    variables = jax.eval_shape(
        lambda: init_variables(model, config.data.frame_size, jax.random.key(0))
    )
    videos = _videos(config, batch_size)
    if program == "train":
        step, optimiser = loop.make_step(config, model, STEPS_PER_EPOCH, mesh)
        state = jax.eval_shape(lambda: init_state(_zeros(variables), optimiser))
        key = jax.eval_shape(lambda: jax.random.key(0))
        return step.lower(state, {"query": videos, "exemplar": videos}, key)

    def score(variables: Any, query: jax.Array, exemplar: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = model.apply(variables, normalize(query), normalize(exemplar))
        return out.delta[:batch_size, 0], out.transitions[:batch_size]

    whole, split = sharding.replicated(mesh), sharding.over_data(mesh)
    jitted = jax.jit(score, in_shardings=(whole, split, split), out_shardings=split)
    return jitted.lower(variables, videos["frames"], videos["frames"])


def _videos(config: ml_collections.ConfigDict, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """One side of a batch, as `pipeline.training_batches` yields it."""
    size, frames = config.data.frame_size, config.data.frames
    shapes = {
        "frames": ((count, frames, size, size, 3), jnp.uint8),
        "mask": ((count, frames, size, size), jnp.uint8),
        "transitions": ((count, 2), jnp.int32),
        "completeness": ((count,), jnp.float32),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
