"""What scoring keeps of a video and of a pair, and the two programs that compute it.

Each video passes the encoders once; any number of comparisons follow from its features.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from finecausal_jax.data import preprocessing
from finecausal_jax.data.clips import Key as Key
from finecausal_jax.models.finecausal import STAGE_WEIGHTS
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.metrics import MaskCounts


@runtime_checkable
class Network(Protocol):
    """What scoring takes of a network; `FineCausal` is the usual one. Hashable, since static.

    Attributes:
      window_stride: frames from one window to the next.
      graph_scope: "pair", or "batch" where the pairs of a batch see each other.
    """

    @property
    def window_stride(self) -> int: ...

    @property
    def graph_scope(self) -> str: ...

    def apply(self, variables: Any, *arguments: Any, method: str) -> Any:
        """Calls `encode` of videos, or `compare` of two `Features`."""
        ...


class Encoding(NamedTuple):
    """What the comparison and the metrics need of one video; arrays on the host.

    Attributes:
      features: the network's `Features` of the video without the leading axis and without
        `mask_logits`, float32; at full size 0.27 MB.
      counts: pixel counts of its predicted mask; None of a clip without a mask.
      transitions: int [2], labelled transitions, frames; None of a clip without labels.
    """

    features: Any
    counts: MaskCounts | None
    transitions: np.ndarray | None


class Comparison(NamedTuple):
    """What the network says of pairs; one row a pair.

    Attributes:
      delta: float32 [p], of the query, points.
      stage_delta: float32 [p, 3], its shares by stage.
      transitions: int32 [p, 2], predicted transitions of the query, frames.
    """

    delta: Any
    stage_delta: Any
    transitions: Any


def encode_batch(
    model: Network,
    variables: Any,
    frames: Any,
    mask: Any,
    mask_threshold: float = metrics.LOGIT_THRESHOLD,
) -> tuple[Any, MaskCounts | None]:
    """Encodes v videos; to be traced.

    Args:
      model: static.
      variables: {"params": ..., "batch_stats": ...}.
      frames: uint8 [v, t, h, w, 3].
      mask: uint8 [v, t, h, w]; None where there are none.
      mask_threshold: logit from which a pixel counts as foreground; static.

    Returns:
      The network's `Features` without mask logits, and the pixel counts where there are masks;
      leading axis v.
    """
    features = model.apply(variables, preprocessing.normalize(frames), method="encode")
    counts = None
    if mask is not None:
        counts = metrics.mask_counts(
            features.mask_logits[-1],  # the fused map
            preprocessing.scale_mask(mask),
            model.window_stride,
            mask_threshold,
        )
    return features.replace(mask_logits=None), counts


def compare_batch(model: Network, variables: Any, query: Any, exemplar: Any) -> Comparison:
    """Compares b pairs from the `Features` of both sides; to be traced.

    Keeps the first b rows of the network's 2b, the queries'.
    """
    out = model.apply(variables, query, exemplar, method="compare")
    b = out.delta.shape[0] // 2
    stages = (out.stage_delta_dynamic[:b] + out.stage_delta_static[:b]) / 2
    return Comparison(
        delta=out.delta[:b, 0],
        stage_delta=stages * np.array([STAGE_WEIGHTS], np.float32),
        transitions=out.transitions[:b],
    )
