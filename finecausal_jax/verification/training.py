"""Checks of training: losses, every parameter's gradient, running statistics after the step.

Dropout is off, since no two libraries draw the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finecausal_jax.interop.pytorch import rename_to_pytorch
from finecausal_jax.models.finecausal import FineCausal, Outputs
from finecausal_jax.scoring.metrics import mask_counts, temporal_iou
from finecausal_jax.training.losses import Losses, delta_loss, total_loss, transition_loss
from finecausal_jax.training.steps import pair_losses
from finecausal_jax.verification import checks
from finecausal_jax.verification.checks import Check
from finecausal_jax.verification.forward import segmentation, stored_features
from finecausal_jax.verification.reference import Reference

_LIMITS = {
    "loss": checks.DELTA_LOSS,
    "loss_aqa": checks.DELTA_LOSS,
    "loss_tas": checks.MEAN_LOSS,
    "loss_mask": checks.MEAN_LOSS,
}


def compare_train(reference: Reference) -> Iterator[Check]:
    """`compare_train`: a step on everything after the encoders, with a mask loss that is given."""
    record = reference.case("compare_train")
    case = record["case"]
    model = _without_dropout(case)
    labels = _Labels(case)
    features = stored_features(reference, case["seed"], case["batch"])

    def forward(variables: Any, query: Any, exemplar: Any) -> tuple[Losses, Any]:
        out, updates = model.apply(
            variables,
            query,
            exemplar,
            method="compare",
            train=True,
            transitions=labels.transitions,
            mutable=["batch_stats"],
        )
        # Put together here and not by `pair_losses`, since the masks' loss is given.
        loss_aqa = sum(delta_loss(out.delta, labels.query, labels.exemplar))
        loss_tas = transition_loss(out.transition_probability, labels.transitions)
        loss_mask = jnp.float32(case["loss_mask"])
        losses = total_loss(variables["params"]["awl"], loss_aqa, loss_tas, loss_mask)
        return losses, (out, updates, None)

    yield from _step(reference, "compare_train", record, forward, features, labels)


def train_step(reference: Reference) -> Iterator[Check]:
    """`train_step`: a step on the whole model, from frames. Takes minutes and several GB."""
    record = reference.case("train_step")
    case = record["case"]
    model = _without_dropout(case)
    labels = _Labels(case)
    query, query_mask = reference.clip(case["seed"], "query", case["batch"])
    exemplar, exemplar_mask = reference.clip(case["seed"], "exemplar", case["batch"])
    mask = np.concatenate([query_mask, exemplar_mask])
    videos = {
        "completeness": jnp.concatenate([labels.query, labels.exemplar]),
        "transitions": jnp.asarray(labels.transitions),
    }

    def forward(variables: Any, query: Any, exemplar: Any, mask: Any) -> tuple[Losses, Any]:
        out, updates = model.apply(
            variables,
            query,
            exemplar,
            train=True,
            transitions=labels.transitions,
            mutable=["batch_stats"],
        )
        # The training step's own function, so that what it puts together is what is checked.
        losses = pair_losses(model, variables["params"], out, videos, mask)
        counts = mask_counts(out.mask_logits[-1], mask, model.window_stride)
        out = out.replace(mask_logits=None)  # 290 MB a pair that nothing below reads
        return losses, (out, updates, counts)

    yield from _step(reference, "train_step", record, forward, (query, exemplar, mask), labels)


class _Labels:
    """What a training case says about its pairs."""

    def __init__(self, case: Mapping[str, Any]):
        self.query = np.array(case["query_completeness"], np.float32)
        self.exemplar = np.array(case["exemplar_completeness"], np.float32)
        both = np.array(case["query_transitions"] + case["exemplar_transitions"])
        self.transitions = both.astype(np.int32)
        self.difficulty = np.array(case.get("difficulty", np.ones_like(self.query)), np.float32)


def _without_dropout(case: Mapping[str, Any]) -> FineCausal:
    frozen = case.get("base_model_batch_norm", "frozen") == "frozen"
    return FineCausal(
        # Parity: the reference trains with the whole batch in one graph.
        graph_scope=case.get("graph_scope", "batch"),
        base_batch_norm="running" if frozen else "batch",
        graph_dropout=0.0,
        attention_dropout=0.0,
        dropout=0.0,
    )


def _step(
    reference: Reference,
    name: str,
    record: Mapping[str, Any],
    forward: Callable[..., tuple[Losses, Any]],
    inputs: tuple[Any, ...],
    labels: _Labels,
) -> Iterator[Check]:
    """Differentiates `forward`, compares everything that the case records."""
    variables = reference.variables(record["case"]["seed"])

    @jax.jit
    def step(params: Any, batch_stats: Any, *inputs: Any) -> Any:
        def loss_of(params: Any) -> Any:
            losses, rest = forward({"params": params, "batch_stats": batch_stats}, *inputs)
            return losses.loss, (losses, rest)

        return jax.grad(loss_of, has_aux=True)(params)

    result = step(variables["params"], variables["batch_stats"], *inputs)
    gradients, (losses, (out, updates, counts)) = jax.tree.map(np.asarray, result)
    yield from _outputs(name, record["outputs"], losses, out, labels)
    if counts is not None:
        yield from segmentation(name, record["outputs"], counts)

    found: dict[str, tuple[float, float] | None] = {}
    for module, tensors in rename_to_pytorch({"params": gradients}).items():
        for key, value in tensors.items():
            if f"{module}/{key}" in record["gradients"]:
                exact, probe = value.astype(np.float64), reference.probe(module, key, value.shape)
                product = float(np.vdot(exact, probe))
                found[f"{module}/{key}"] = float(np.linalg.norm(exact)), product
    yield from checks.gradients(name, found, record["gradients"])

    statistics = rename_to_pytorch(updates)
    for tensor, want in record["running_statistics_after"].items():
        module, key = tensor.split("/", 1)
        value = statistics.get(module, {}).get(key)
        if value is None:
            yield checks.compare(name, tensor, None, want)
        else:
            probe = reference.probe(module, key, value.shape)
            yield checks.statistic(name, tensor, value, probe, want)


def _outputs(
    name: str, outputs: Mapping[str, Any], losses: Losses, out: Outputs, labels: _Labels
) -> Iterator[Check]:
    """Losses, and what else the case records of the forward pass."""
    b = len(labels.query)
    for tensor, limit in _LIMITS.items():
        if tensor in outputs:
            yield checks.compare(name, tensor, getattr(losses, tensor), outputs[tensor], limit)
    if "delta" in outputs:
        yield checks.compare(name, "delta", out.delta[:, 0], outputs["delta"])
    if "transitions" in outputs:
        yield checks.exact(name, "transitions", out.transitions, outputs["transitions"])
    if "score" in outputs:
        score = (out.delta[:b, 0] + labels.exemplar) * labels.difficulty
        yield checks.compare(name, "score", score, outputs["score"])
    overlap = temporal_iou(out.transitions[:b], labels.transitions[:b])
    for tensor, threshold in (("tiou_50", 0.5), ("tiou_75", 0.75)):
        if tensor in outputs:
            reached = (overlap >= threshold).astype(np.float64)
            # The reference counts the queries of a batch that reach the threshold.
            found = reached if len(outputs[tensor]) == b else reached.sum(keepdims=True)
            yield checks.exact(name, tensor, found, outputs[tensor])
