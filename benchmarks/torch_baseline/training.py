"""Training steps: losses, gradients summed over micro-batches, Adam with two rates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.torch_baseline.losses import mask_loss, score_loss, transition_loss
from benchmarks.torch_baseline.model import (
    WINDOW_FRAMES,
    WINDOW_STARTS,
    FineCausal,
)
from benchmarks.torch_baseline.outputs import Outputs
from benchmarks.torch_baseline.schedule import Schedule


class Batch(NamedTuple):
    """A micro-batch of `b` pairs.

    Attributes:
        query: float32 [b, 3, 96, 112, 112], normalised frames.
        exemplar: float32 [b, 3, 96, 112, 112].
        mask: float32 [2b, 96, 112, 112] in 0..1, queries first.
        transitions: [2b, 2], labelled frames, queries first.
        query_completeness: float32 [b]; exemplar_completeness: float32 [b].
    """

    query: Tensor
    exemplar: Tensor
    mask: Tensor
    transitions: Tensor
    query_completeness: Tensor
    exemplar_completeness: Tensor


class StepLosses(NamedTuple):
    """Float32 scalars without gradient."""

    loss_aqa: Tensor
    loss_tas: Tensor
    loss_mask: Tensor
    loss: Tensor


class Trainer:
    """Trains a model in place.

    Args:
        model: is put into training mode.
        schedule: learning rates by micro-batch.
        accumulate: micro-batches whose gradients are summed before a step; 2 in the reference.
        freeze_base: stops the gradients of `base_model` and `segmenter`; the segmenter's running
            statistics still move.
        dtype: to compute in; below float32 the forward pass runs under autocast.

    Raises:
        ValueError: where `accumulate` is below 1.
    """

    def __init__(
        self,
        model: FineCausal,
        *,
        schedule: Schedule | None = None,
        accumulate: int = 2,
        freeze_base: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if accumulate < 1:
            raise ValueError(
                f"accumulate of the PyTorch trainer: expected at least 1 micro-batch a step, got"
                f" {accumulate}; 1 steps after each."
            )
        self.model = model.train()
        self.model.frozen_encoders = freeze_base
        self.schedule = schedule or Schedule()
        self.accumulate = accumulate
        self.dtype = dtype
        self.micro_batches = 0
        base = list(model.base_model.parameters())
        of_base = {id(parameter) for parameter in base}
        rest = [p for p in model.parameters() if id(p) not in of_base]
        base_rate, rest_rate = self.schedule.rates(0)
        self.optimizer = torch.optim.Adam(
            [{"params": base, "lr": base_rate}, {"params": rest, "lr": rest_rate}]
        )

    def step(self, batch: Batch) -> StepLosses:
        """One micro-batch: forward, backward and, every `accumulate` of them, an update.

        Args:
            batch: the pairs.

        Returns:
            The losses before the update.
        """
        losses = self.backward(batch)
        self.micro_batches += 1
        if self.micro_batches % self.accumulate == 0:
            rates = self.schedule.rates(self.micro_batches)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return losses

    def backward(self, batch: Batch) -> StepLosses:
        """Adds a micro-batch's gradients to the parameters' `grad`, without an update."""
        device = batch.query.device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            outputs = self.model(batch.query, batch.exemplar, transitions=batch.transitions)
        # Without autocast, which refuses this cross-entropy on a GPU and knows no backward pass.
        losses = compute_losses(self.model, outputs, batch)
        losses.loss.backward()
        return StepLosses(*(loss.detach() for loss in losses))


def compute_losses(model: FineCausal, outputs: Outputs, batch: Batch) -> StepLosses:
    """The losses of a micro-batch, with gradients.

    Args:
        model: has the loss weights.
        outputs: of the model for the batch; in shorter floats, they are lengthened first.
        batch: the pairs; its frames are not read.

    Returns:
        The losses, float32 scalars.

    Raises:
        ValueError: where the outputs have no mask logits.
    """
    if outputs.mask_logits is None:
        raise ValueError(
            "Mask loss of the PyTorch baseline: expected outputs with 5 mask maps, got none;"
            " take the outputs from frames, not from stored features."
        )
    mask = torch.stack([batch.mask[:, i : i + WINDOW_FRAMES] for i in WINDOW_STARTS], dim=1)
    delta, probability = outputs.delta.float(), outputs.transition_probability.float()
    aqa = score_loss(delta, batch.query_completeness, batch.exemplar_completeness)
    tas = transition_loss(probability, batch.transitions)
    masks = mask_loss([logits.float() for logits in outputs.mask_logits], mask)
    return StepLosses(aqa, tas, masks, model.awl((aqa, tas, masks)))
