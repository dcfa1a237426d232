"""Checks of the forward pass, whole and from stored features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from finecausal_jax.models.finecausal import Features, FineCausal, Outputs
from finecausal_jax.scoring.metrics import add_counts, mask_counts, mask_metrics
from finecausal_jax.training.losses import mask_loss
from finecausal_jax.verification import checks
from finecausal_jax.verification.checks import Check
from finecausal_jax.verification.reference import Reference

# Of a map [2b, 9, 16, 112, 112], what the cases hold.
_SAMPLED = (slice(None), slice(None, None, 2), slice(None, None, 5)) + (slice(None, None, 8),) * 2

# Recorded name -> name of the metric; training cases call some of them otherwise.
SEGMENTATION = {
    "seg_iou": "mask_iou",
    "seg_iou_scores": "mask_iou",
    "seg_f1": "mask_f1",
    "seg_f1_scores": "mask_f1",
    "seg_f2": "mask_f2",
    "seg_f2_scores": "mask_f2",
    "seg_accuracy": "mask_accuracy",
    "seg_recall": "mask_recall",
}


def forward(reference: Reference, name: str) -> Iterator[Check]:
    """`forward_pair` or `forward_batch`: every named tensor, from frames, in evaluation mode."""
    case = reference.case(name)
    seed, batch = int(case["seed"]), int(case["batch"])
    model = FineCausal(graph_scope="batch" if name == "forward_batch" else "pair")
    query, query_mask = reference.clip(seed, "query", batch)
    exemplar, exemplar_mask = reference.clip(seed, "exemplar", batch)
    mask = np.concatenate([query_mask, exemplar_mask])

    @jax.jit
    def apply(variables: Any, query: Any, exemplar: Any, mask: Any) -> Any:
        out = model.apply(variables, query, exemplar)
        loss = mask_loss(out.mask_logits, mask, model.window_stride)
        return out, loss, mask_counts(out.mask_logits[-1], mask, model.window_stride)

    out, loss, counts = apply(reference.variables(seed), query, exemplar, mask)
    yield checks.compare(name, "loss_mask", loss[None], case["loss_mask"], checks.MEAN_LOSS)
    yield from segmentation(name, case, counts)
    yield from tensors(name, case, out)


def compare(reference: Reference) -> Iterator[Check]:
    """`compare`: everything after the encoders, each pair in its own graph."""
    case = reference.case("compare")
    model = FineCausal(graph_scope="pair")
    query, exemplar = stored_features(reference, int(case["seed"]), int(case["batch"]))
    apply = jax.jit(lambda v, q, e: model.apply(v, q, e, method="compare"))
    yield from tensors(
        "compare", case, apply(reference.variables(int(case["seed"])), query, exemplar)
    )


def stored_features(reference: Reference, seed: int, batch: int) -> tuple[Features, Features]:
    """The seeded features of `batch` queries and as many exemplars."""
    video, mask, frame = reference.features(seed, batch)
    rows = (slice(None, batch), slice(batch, None))
    query, exemplar = (Features(video[row], mask[row], frame[row]) for row in rows)
    return query, exemplar


def tensors(name: str, case: Mapping[str, Any], out: Outputs) -> Iterator[Check]:
    """Compares every recorded tensor of the model's outputs."""
    for tensor, want in case.items():
        if tensor in ("seed", "batch", "loss_mask") or tensor in SEGMENTATION:
            continue
        if tensor.startswith("mask_logits_"):
            logits = np.asarray(out.mask_logits[int(tensor.split("_")[2])])
            yield checks.compare(name, tensor, logits[_SAMPLED], want)
        elif tensor == "transitions":
            yield checks.exact(name, tensor, out.transitions, want)
        elif tensor.startswith("spatial_attention"):
            yield checks.compare(name, tensor, attention_matrix(out, tensor), want)
        else:
            yield checks.compare(name, tensor, getattr(out, tensor, None), want)


def attention_matrix(out: Outputs, layer: str) -> np.ndarray | None:
    """The weights of one graph's edges as the cases hold them, zero where there is no edge.

    Args:
      out: of pairs that share one graph.
      layer: "spatial_attention_layer1" or "spatial_attention_layer2".

    Returns:
      [head, target node, source node], float32; None where there is no graph.
    """
    if out.graph is None:
        return None
    (weights,) = np.asarray(getattr(out, layer))  # [head, e]
    v, windows, _ = out.causal_feature.shape
    edges = out.graph.connect(windows, samples=v // 2)
    (nodes,) = edges.n_node
    matrix = np.zeros((len(weights), nodes, nodes), weights.dtype)
    matrix[:, edges.receivers, edges.senders] = weights
    return matrix


def segmentation(name: str, case: Mapping[str, Any], counts: Any) -> Iterator[Check]:
    """Compares the recorded mask metrics."""
    metrics = mask_metrics(add_counts([jax.tree.map(np.asarray, counts)]))
    for tensor, metric in SEGMENTATION.items():
        if tensor in case:
            want = np.asarray(case[tensor]).reshape(-1)
            found = np.full(want.shape, metrics[metric])
            yield checks.within(name, tensor, found, want, checks.MASK_METRIC)
