"""The pure training step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from finecausal_jax.data.preprocessing import normalize, scale_mask
from finecausal_jax.models.finecausal import FineCausal, Outputs
from finecausal_jax.training import losses
from finecausal_jax.training.state import TrainState

FROZEN_BASE = ("base_model", "segmenter")


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What a training step does besides the model and the optimiser.

    Attributes:
      freeze_base: stop the gradients of `base_model` and `segmenter`. Parity: the segmenter's
        running statistics still move.
      max_epoch: epochs of the schedule.
      steps_per_epoch: micro-batches an epoch.
      static_labels_until: share of `max_epoch` after which the static encoder is cut at predicted
        transitions instead of labelled ones; 1, the reference's value, is never.
    """

    freeze_base: bool = False
    max_epoch: int = 300
    steps_per_epoch: int = 1126
    static_labels_until: float = 1.0


def train_step(
    state: TrainState,
    batch: dict[str, Any],
    key: jax.Array,
    *,
    model: FineCausal,
    optimiser: optax.GradientTransformation,
    settings: StepSettings,
) -> tuple[TrainState, losses.Losses]:
    """One micro-batch: forward, backward, and an optimiser step where one is due.

    Args:
      state: the state before.
      batch: {"query": video, "exemplar": video} as `pipeline.training_batches` yields them.
      key: the run's key; dropout draws from it folded with the step, so that a resumed run draws
        what the unbroken one would have.
      model, optimiser, settings: static.

    Returns:
      The state after, and the losses of this micro-batch.
    """
    videos = jax.tree.map(lambda q, e: jnp.concatenate([q, e]), batch["query"], batch["exemplar"])
    frames, mask = normalize(videos["frames"]), scale_mask(videos["mask"])
    rngs = {"dropout": jax.random.fold_in(key, state.step)}
    epoch = state.step // settings.steps_per_epoch
    from_prediction = epoch > settings.static_labels_until * settings.max_epoch

    def loss_of(params: Any) -> tuple[jax.Array, tuple[losses.Losses, Any]]:
        if settings.freeze_base:
            params = {
                module: jax.lax.stop_gradient(tree) if module in FROZEN_BASE else tree
                for module, tree in params.items()
            }
        out, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            *jnp.split(frames, 2),
            train=True,
            transitions=videos["transitions"],
            static_from_prediction=from_prediction,
            rngs=rngs,
            mutable=["batch_stats"],
        )
        parts = pair_losses(params, out, videos, mask, model.window_stride)
        return parts.loss, (parts, updates["batch_stats"])

    gradients, (parts, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    new_state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return new_state, parts


def pair_losses(
    params: Any, out: Outputs, videos: dict[str, Any], mask: jax.Array, window_stride: int
) -> losses.Losses:
    """The losses of a batch of pairs.

    Args:
      params: for the learned weights, `awl`.
      out: what the model says, v = 2b videos.
      videos: "completeness" [v] and "transitions" [v, 2], queries first.
      mask: foreground [v, t, h, w] in 0..1.
      window_stride: the model's.
    """
    query, exemplar = jnp.split(videos["completeness"], 2)
    loss_aqa = sum(losses.delta_loss(out.delta, query, exemplar))
    loss_tas = losses.transition_loss(out.transition_probability, videos["transitions"])
    loss_mask = losses.mask_loss(out.mask_logits, mask, window_stride)
    return losses.total_loss(params["awl"], loss_aqa, loss_tas, loss_mask)
