"""The pure training step."""

import dataclasses
from collections.abc import Set
from typing import Any

import jax
import jax.numpy as jnp

from finecausal_jax.data.preprocessing import normalize, scale_mask
from finecausal_jax.models.finecausal import FineCausal, Outputs
from finecausal_jax.training import losses
from finecausal_jax.training.optimiser import ParameterUpdate
from finecausal_jax.training.state import TrainState

FROZEN_BASE = ("base_model", "segmenter")


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What a training step does besides the model and the optimiser.

    Attributes:
      freeze_base: keep the parameters of `base_model` and `segmenter`, and what the optimiser
        knows of them, as they are. Parity: the segmenter's running statistics still move.
      max_epoch: epochs of the schedule.
      steps_per_epoch: micro-batches an epoch.
      static_labels_until: share of `max_epoch` after which the static encoder is cut at predicted
        transitions instead of labelled ones; from 1 on, the reference's value, never, however
        long the training goes on.
      loss: how the losses are weighed.
    """

    freeze_base: bool = False
    max_epoch: int = 300
    steps_per_epoch: int = 1126
    static_labels_until: float = 1.0
    loss: losses.LossSettings = losses.AS_REFERENCE


def train_step(
    state: TrainState,
    batch: dict[str, Any],
    key: jax.Array,
    *,
    model: FineCausal,
    optimiser: ParameterUpdate,
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
    from_prediction = None
    if settings.static_labels_until < 1:
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
        parts = pair_losses(model, params, out, videos, mask, settings.loss)
        return parts.loss, (parts, updates["batch_stats"])

    gradients, (parts, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
    params, opt_state = optimiser.apply(gradients, state.opt_state, state.params)
    if settings.freeze_base:
        before = state.params, state.opt_state
        params, opt_state = _with_frozen((params, opt_state), before, state.params.keys())
    new_state = TrainState(
        step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
    )
    return new_state, parts


def pair_losses(
    model: Any,
    params: Any,
    out: Outputs,
    videos: dict[str, Any],
    mask: jax.Array,
    settings: losses.LossSettings = losses.AS_REFERENCE,
) -> losses.Losses:
    """The losses of a batch of pairs.

    Args:
      model: a `FineCausal`, which says what is regressed and how losses are added.
      params: for the learned weights, `awl`.
      out: what the model says, v = 2b videos.
      videos: "completeness" [v], where the score is regressed "difficulty" [v], and "transitions"
        [v, 2], queries first; where some have no mask, "has_mask" [v].
      mask: foreground [v, t, h, w] in 0..1.
      settings: how the losses are weighed.
    """
    known = videos["completeness"]
    if model.target == "score":
        known = known * videos["difficulty"]
    parts = (
        sum(losses.delta_loss(out.delta, *jnp.split(known, 2))),
        losses.transition_loss(out.transition_probability, videos["transitions"]),
        losses.mask_loss(
            out.mask_logits,
            mask,
            model.window_stride,
            settings.mask_foreground,
            videos.get("has_mask"),
        ),
    )
    if model.loss_weighting == "sum":
        return losses.plain_sum(*parts)
    return losses.total_loss(params["awl"], *parts, settings.weights)


def _with_frozen(after: Any, before: Any, modules: Set[str]) -> Any:
    """Puts the frozen modules of every tree like the parameters back, Adam's moments among them.

    Zero gradients alone would not do: Adam goes on moving parameters by the moments they have, such
    as those of a converted checkpoint. PyTorch passes over parameters without a gradient.

    Args:
      after: any tree, with dicts by module inside.
      before: the same tree before the step.
      modules: names of all modules, by which those dicts are known.
    """

    def is_by_module(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == modules

    def restore(new: Any, old: Any) -> Any:
        if not is_by_module(new):
            return new
        return {**new, **{module: old[module] for module in FROZEN_BASE if module in old}}

    return jax.tree.map(restore, after, before, is_leaf=is_by_module)
