"""The three losses and how they are added, as the reference trains them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Of the difference, the transitions and the masks, in the order of the learned weights `awl`.
LOSS_WEIGHTS = (5.0, 1.0, 1.0)
FOCAL_GAMMA = 2.0


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """How the losses are weighed, besides what is learned; the defaults are the reference's.

    Attributes:
      weights: of the difference, the transitions and the masks, where weights are learned too.
      mask_foreground: see `mask_loss`.
    """

    weights: tuple[float, ...] = LOSS_WEIGHTS
    mask_foreground: float = 0.5


AS_REFERENCE = LossSettings()


@flax.struct.dataclass
class Losses:
    """Scalars, float32: what is minimised, and its three parts before weighting."""

    loss: Any
    loss_aqa: Any
    loss_tas: Any
    loss_mask: Any


def delta_loss(
    delta: Float[Array, "v 1"], query: Float[Array, " b"], exemplar: Float[Array, " b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean squared errors of the predicted differences.

    Args:
      delta: predictions, rows as in `Outputs.delta`.
      query: completeness of each query (or score, where that is the network's target), points.
      exemplar: the same of each exemplar, points.

    Returns:
      The errors query -> exemplar and exemplar -> query, points squared. Training sums both;
      evaluation reports the first.
    """
    b = query.shape[0]
    difference = query - exemplar
    forward = jnp.mean(jnp.square(delta[:b, 0] - difference))
    backward = jnp.mean(jnp.square(delta[b:, 0] + difference))
    return forward, backward


def transition_loss(
    probability: Float[Array, "v t 2"], transitions: Int[Array, "v 2"]
) -> Float[Array, ""]:
    """Mean binary cross-entropy of each frame against the labelled frame of each transition."""
    frames = jnp.arange(probability.shape[1])[None, :, None]
    target = frames == transitions[:, None, :]
    chosen = jnp.where(target, probability, 1 - probability)
    return -jnp.mean(_bounded_log(chosen))


def mask_loss(
    mask_logits: Sequence[Float[Array, "v n f h w"]],
    mask: Float[Array, "v t h w"],
    stride: int,
    foreground: float = 0.5,
    known: Bool[Array, " v"] | None = None,
) -> Float[Array, ""]:
    """Sum over the maps of logits of the mean binary focal loss (Lin et al., ICCV 2017).

    Args:
      mask_logits: the five maps.
      mask: foreground in 0..1; rounded here.
      stride: frames from one window to the next.
      foreground: share of the weight that a pixel of the foreground has, one of the background the
        rest; their alpha. Parity: 0.5, where both have the weight 1.
      known: which videos have a mask; the loss is the mean over these, 0 where there is none. None:
        all of them.
    """
    target = window_masks(mask, mask_logits[0].shape[1], mask_logits[0].shape[2], stride)
    if known is None:
        return sum((_focal(logits, target, foreground) for logits in mask_logits), jnp.float32(0))
    by_video = jax.vmap(lambda logits, target: _focal(logits, target, foreground))
    total = sum((by_video(logits, target) for logits in mask_logits), jnp.float32(0))
    return jnp.sum(jnp.where(known, total, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def window_masks(
    mask: Float[Array, "v t h w"], windows: int, frames: int, stride: int
) -> Float[Array, "v n f h w"]:
    """Cuts masks into the model's windows and rounds them to 0 or 1 (half to even)."""
    starts = range(0, windows * stride, stride)
    return jnp.round(jnp.stack([mask[:, s : s + frames] for s in starts], axis=1))


def total_loss(
    weights: Float[Array, " 3"],
    loss_aqa: Float[Array, ""],
    loss_tas: Float[Array, ""],
    loss_mask: Float[Array, ""],
    fixed: Sequence[float] = LOSS_WEIGHTS,
) -> Losses:
    """Weighs the losses by learned p and fixed w: sum of w (L / (2 p^2) + log(1 + p^2)).

    After Liebel and Koerner, Auxiliary Tasks in Multi-task Learning (2018).
    """
    squared = jnp.square(weights)
    parts = (loss_aqa, loss_tas, loss_mask)
    loss = sum(
        (
            weight * (0.5 / squared[i] * part + jnp.log1p(squared[i]))
            for i, (weight, part) in enumerate(zip(fixed, parts, strict=True))
        ),
        jnp.float32(0),
    )
    return Losses(loss, loss_aqa, loss_tas, loss_mask)


def plain_sum(
    loss_aqa: Float[Array, ""], loss_tas: Float[Array, ""], loss_mask: Float[Array, ""]
) -> Losses:
    """Adds the losses up as they are, as FineParser does."""
    return Losses(loss_aqa + loss_tas + loss_mask, loss_aqa, loss_tas, loss_mask)


@jax.custom_jvp
def _bounded_log(x: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """The logarithm as PyTorch's cross-entropy takes it: a certain mistake stays finite.

    At least -100, and with a derivative of at most 1e12. The derivative of the plain logarithm is
    infinite at 0, and times the zero one of a saturated sigmoid that is not a number.
    """
    return jnp.maximum(jnp.log(x), -100.0)


@_bounded_log.defjvp
def _bounded_log_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    (x,), (tangent,) = primals, tangents
    return _bounded_log(x), tangent / jnp.maximum(x, 1e-12)


# Without it the backward pass would keep several arrays as large as each map.
@functools.partial(jax.checkpoint, static_argnums=(2,))
def _focal(
    logits: Float[Array, "*m"], target: Float[Array, "*m"], foreground: float
) -> Float[Array, ""]:
    # softplus(-x) for foreground, softplus(x) for background: the cross-entropy without overflow.
    error = jax.nn.softplus(jnp.where(target > 0.5, -logits, logits))
    loss = (1 - jnp.exp(-error)) ** FOCAL_GAMMA * error
    if foreground != 0.5:
        loss = loss * jnp.where(target > 0.5, 2 * foreground, 2 * (1 - foreground))
    return jnp.mean(loss)
