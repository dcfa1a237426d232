"""What the model gives: per-video features and the named outputs of a batch of pairs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """What the encoders give for `v` videos.

    Attributes:
        video_feature: float32 [v, 9, 1024].
        mask_feature: float32 [v, 9, 1024].
        frame_feature: float32 [v, 96, 512].
        mask_logits: four side maps and the fused one, float32 [v, 9, 16, 112, 112] each.
    """

    video_feature: Tensor
    mask_feature: Tensor
    frame_feature: Tensor
    mask_logits: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Everything the model names for `v = 2b` videos, queries first; `g` graphs of `n` nodes.

    What belongs to the graph or to temporal attention is None in FineParser, which has neither.

    The first `b` rows of everything after `temporal_attention` have the query as the decoders'
    query and the exemplar as their memory, the last `b` rows the reverse.

    Attributes:
        video_feature: [v, 9, 1024].
        mask_feature: [v, 9, 1024].
        fused_feature: [v, 9, 1024].
        causal_feature: [v, 9, 1024].
        spatial_attention_layer1: [g, 4, n, n], as [graph, head, target, source].
        spatial_attention_layer2: [g, 4, n, n].
        transition_probability: [v, 96, 2].
        transitions: predicted, int64 [v, 2], frames.
        static_feature: [v, 3, 4, 64].
        stage_feature: [v, 12, 1024].
        stage_embedding: [v, 3, 12, 64].
        temporal_feature: [v, 3, 64].
        temporal_attention: [v, 2, 1, 3, 3].
        static_decoded: [v, 12, 64].
        dynamic_decoded: [v, 36, 64].
        stage_delta_dynamic: [v, 3], completeness.
        stage_delta_static: [v, 3], completeness.
        delta: [v, 1], completeness of the row's own video minus the other one's.
        mask_logits: as in `Features`.
    """

    video_feature: Tensor
    mask_feature: Tensor
    fused_feature: Tensor
    causal_feature: Tensor
    spatial_attention_layer1: Tensor | None
    spatial_attention_layer2: Tensor | None
    transition_probability: Tensor
    transitions: Tensor
    static_feature: Tensor
    stage_feature: Tensor
    stage_embedding: Tensor
    temporal_feature: Tensor | None
    temporal_attention: Tensor | None
    static_decoded: Tensor
    dynamic_decoded: Tensor
    stage_delta_dynamic: Tensor
    stage_delta_static: Tensor
    delta: Tensor
    mask_logits: tuple[Tensor, ...] | None
