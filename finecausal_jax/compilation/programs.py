"""The programs that run on an accelerator, lowered from shapes alone: no array is made."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.runtime.layout import Layout
from finecausal_jax.scoring.features import compare_batch, encode_batch
from finecausal_jax.training.optimiser import ParameterUpdate
from finecausal_jax.training.state import init_state

PROGRAMS = ("train", "score")
# Only the period of the learning rate depends on it.
STEPS_PER_EPOCH = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What the programs are made of.

    Attributes:
      model: the network.
      shapes: gives those of its parameters and statistics, by tracing it.
      frame_size: height and width of a frame, pixels.
      make_step: gives the jitted training step for a layout, and its optimiser.
      layout: the devices, which need not exist.
    """

    model: FineCausal
    shapes: Callable[[], Any]
    frame_size: int
    make_step: Callable[[Layout], tuple[Any, ParameterUpdate]]
    layout: Layout


def lower(program: str, parts: Parts, batch_size: int) -> Any:
    """Lowers a program for the devices of a layout; arguments and errors as of `trace`.

    Returns:
      What `jax.jit(...).lower` returns.
    """
    return trace(program, parts, batch_size).lower()


def trace(program: str, parts: Parts, batch_size: int) -> Any:
    """Traces a program for the devices of a layout.

    Args:
      program: "train", a training step that updates its state in place; or "score", what the test
        protocol computes of a pair, from the frames and labelled masks of query and exemplar to
        pixel counts, differences in completeness and transitions. (The protocol runs it in two
        parts, since it encodes a video once for all its pairs.)
      parts: what it is made of.
      batch_size: pairs over all devices.

    Returns:
      What `jax.jit(...).trace` returns.

    Raises:
      InputError: the devices cannot share the batch.
    """
    layout = parts.layout
    layout.check_batch_size("batch_size", batch_size)
    videos = _videos(parts, batch_size)
    if program == "train":
        step, optimiser = parts.make_step(layout)
        state = jax.eval_shape(lambda x: init_state(x, optimiser), parts.shapes())
        key = jax.eval_shape(lambda: jax.random.key(0))
        return step.trace(state, {"query": videos, "exemplar": videos}, key)

    whole, split = layout.whole, layout.batch
    score = functools.partial(score_pairs, parts.model)
    jitted = jax.jit(score, in_shardings=(whole, split, split), out_shardings=split)
    side = {name: videos[name] for name in ("frames", "mask")}
    return jitted.trace(parts.shapes(), side, side)


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


def _videos(parts: Parts, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """One side of a batch, as `pipeline.training_batches` yields it."""
    size, frames = parts.frame_size, parts.model.frames
    shapes = {
        "frames": ((count, frames, size, size, 3), jnp.uint8),
        "mask": ((count, frames, size, size), jnp.uint8),
        "transitions": ((count, 2), jnp.int32),
        "completeness": ((count,), jnp.float32),
        "difficulty": ((count,), jnp.float32),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
