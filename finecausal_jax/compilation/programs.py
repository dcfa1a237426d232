"""The programs that run on an accelerator, lowered from shapes alone: no array is made."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from finecausal_jax import settings
from finecausal_jax.models.initial_values import init_variables
from finecausal_jax.runtime import layout
from finecausal_jax.scoring.encoding import compare_batch, encode_batch
from finecausal_jax.training import loop
from finecausal_jax.training.state import init_state

PROGRAMS = ("train", "score")
# Only the period of the learning rate depends on it.
STEPS_PER_EPOCH = 1000


def lower(
    program: str, config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, batch_size: int
) -> Any:
    """Lowers a program for the devices of a mesh, which need not exist; arguments as `trace`.

    Returns:
      What `jax.jit(...).lower` returns.
    """
    return trace(program, config, mesh, batch_size).lower()


def trace(
    program: str, config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, batch_size: int
) -> Any:
    """Traces a program for the devices of a mesh.

    Args:
      program: "train", a training step that updates its state in place; or "score", what the test
        protocol computes of a pair, from the frames and labelled masks of query and exemplar to
        pixel counts, differences in completeness and transitions. (The protocol runs it in two
        parts, since it encodes a video once for all its pairs.)
      config: sizes, optimiser and compute dtype.
      mesh: one axis, `data`, over which pairs are split; the rest is on every device.
      batch_size: pairs over all devices.

    Returns:
      What `jax.jit(...).trace` returns.

    Raises:
      ValueError: the devices cannot share the batch, or the config is wrong.
    """
    layout.check_batch_size("batch_size", batch_size, mesh)
    model = settings.make_model(config)
    variables = jax.eval_shape(
        lambda: init_variables(model, config.data.frame_size, jax.random.key(0))
    )
    videos = _videos(config, batch_size)
    if program == "train":
        step, optimiser = loop.make_step(config, model, STEPS_PER_EPOCH, mesh)
        state = jax.eval_shape(lambda: init_state(_zeros(variables), optimiser))
        key = jax.eval_shape(lambda: jax.random.key(0))
        return step.trace(state, {"query": videos, "exemplar": videos}, key)

    whole, split = layout.replicated(mesh), layout.over_data(mesh)
    score = functools.partial(score_pairs, model)
    jitted = jax.jit(score, in_shardings=(whole, split, split), out_shardings=split)
    side = {name: videos[name] for name in ("frames", "mask")}
    return jitted.trace(variables, side, side)


def score_pairs(model: Any, variables: Any, query: Any, exemplar: Any) -> tuple[Any, Any]:
    """What the test protocol computes of b pairs, in one program; to be traced.

    Args:
      model: a `FineCausal`, or anything with its `apply` and `window_stride`.
      variables: {"params": ..., "batch_stats": ...}.
      query, exemplar: {"frames": uint8 [b, t, h, w, 3], "mask": uint8 [b, t, h, w]}.

    Returns:
      Pixel counts (`metrics.MaskCounts`) of 2b videos, a pair's query and exemplar next to each
      other, and the `encoding.Comparison` of b pairs.
    """

    def side_by_side(q: jax.Array, e: jax.Array) -> jax.Array:
        # All queries first would move videos between devices, each of which has some pairs.
        return jnp.stack([q, e], axis=1).reshape(-1, *q.shape[1:])

    videos = jax.tree.map(side_by_side, query, exemplar)
    features, counts = encode_batch(model, variables, videos["frames"], videos["mask"])
    first, second = (jax.tree.map(lambda x, side=side: x[side::2], features) for side in (0, 1))
    return counts, compare_batch(model, variables, first, second)


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
