"""What a network says of one dive beside its score: parts, attention, mask and interventions.

None of it is a cause of a real dive's quality. Parts add up to the output; attention shows where
weight was put; interventions show what a part does to this network's output.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from finecausal_jax.data import preprocessing
from finecausal_jax.data.clips import Clip, Key
from finecausal_jax.explain.interventions import Effect, effects_of, network_interventions, run_step
from finecausal_jax.models.finecausal import STAGE_WEIGHTS
from finecausal_jax.models.outputs import STEPS
from finecausal_jax.scoring.features import Encoding
from finecausal_jax.scoring.scorer import Scorer


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """A video as the network sees it.

    Attributes:
      encoding: its features.
      frames: uint8 [t, h, w, 3], the sampled and cut frames.
      rows: int64 [t], which of the clip's frames they are.
      mask: float32 [t, h, w], logits of the predicted mask; where windows overlap, the earlier's,
        and of a frame that none covers, those of the nearest one before.
    """

    encoding: Encoding
    frames: UInt8[np.ndarray, "t h w 3"]
    rows: Int64[np.ndarray, " t"]
    mask: Float32[np.ndarray, "t h w"]


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """What there is to say of a query's comparison with k exemplars.

    Attributes:
      static_parts, dynamic_parts: float64 [k, 3], what each stage adds to the difference from
      single
        frames and from motion, points of what is regressed; together they are the difference.
      node_kinds: names of the graph's kinds of node; none without a graph.
      graph_attention: float64 [layer, head, to, from], how much weight a node of one kind gives the
        nodes of another, in the mean over nodes and exemplars; over `from` they add up to 1.
      window_attention: float64 [layer, to, from], the same between windows: kind after kind, each
        with all its windows, in the mean over heads and exemplars.
      temporal_attention: float64 [layer, head, to, from], between the query's stages, in the mean
        over exemplars; empty without temporal attention.
      effects: of interventions on the network.
    """

    static_parts: Float[np.ndarray, "k 3"]
    dynamic_parts: Float[np.ndarray, "k 3"]
    node_kinds: tuple[str, ...]
    graph_attention: Float[np.ndarray, "2 head kinds kinds"]
    window_attention: Float[np.ndarray, "2 windows windows"]
    temporal_attention: Float[np.ndarray, "layer one 3 3"]
    effects: tuple[Effect, ...]


def see(scorer: Scorer, clip: Clip) -> Seen:
    """Encodes one clip and keeps what the network predicts of its mask.

    Raises:
      InputError: it cannot be decoded.
    """
    video = preprocessing.evaluation_video(clip, scorer.preprocessing)
    features, fused = jax.device_get(
        encode_frames(scorer.model, scorer.variables, video.frames[None])
    )
    windows, length = fused.shape[1:3]
    stride = scorer.model.window_stride
    place = {w * stride + f: (w, f) for w in reversed(range(windows)) for f in range(length)}
    last = (0, 0)
    shown = [last := place.get(frame, last) for frame in range(len(video.frames))]
    window, offset = np.array(shown).T
    encoding = Encoding(jax.tree.map(lambda x: x[0], features), None, None)
    return Seen(encoding, video.frames, video.rows, fused[0, window, offset])


def explain(
    scorer: Scorer, query: Encoding, exemplars: Sequence[Key], known: Mapping[Key, Encoding]
) -> Explanation:
    """Looks into a comparison.

    Args:
      scorer: whose network it is; its graph has to be one a pair.
      query: the dive's encoding.
      exemplars: keys of its exemplars.
      known: their encodings.
    """
    model, count = scorer.model, len(exemplars)
    features = [known[key].features for key in exemplars]
    theirs = jax.tree.map(lambda *one: np.stack(one), *features)
    both = jax.tree.map(
        lambda q, e: jnp.concatenate([jnp.repeat(jnp.asarray(q)[None], count, axis=0), e]),
        query.features,
        theirs,
    )
    out = both
    for step in STEPS:
        out = run_step(model, scorer.variables, out, step)
    weights = 0.5 * np.array([STAGE_WEIGHTS], np.float64)
    kinds, graph, windows = _graph_attention(model, jax.device_get(out), count)
    temporal = np.zeros((0, 0, 3, 3))
    if out.temporal_attention is not None:
        temporal = np.asarray(out.temporal_attention[:count], np.float64).mean(axis=0)
    interventions = network_interventions(model)
    effects = effects_of(model, scorer.variables, query.features, theirs, interventions)
    return Explanation(
        static_parts=np.asarray(out.stage_delta_static[:count], np.float64) * weights,
        dynamic_parts=np.asarray(out.stage_delta_dynamic[:count], np.float64) * weights,
        node_kinds=kinds,
        graph_attention=graph,
        window_attention=windows,
        temporal_attention=temporal,
        effects=tuple(effects),
    )


@functools.partial(jax.jit, static_argnames=("model",))
def encode_frames(model: Any, variables: Any, frames: Any) -> tuple[Any, Any]:
    """Features without mask logits, and the fused map [v, n, f, h, w], of uint8 [v, t, h, w, 3]."""
    features = model.apply(variables, preprocessing.normalize(frames), method="encode")
    return features.replace(mask_logits=None), features.mask_logits[-1]


def _graph_attention(
    model: Any, out: Any, count: int
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Kinds of node, and attention between them and between their windows."""
    if not model.graph_intervention:
        return (), np.zeros((2, 0, 0, 0)), np.zeros((2, 0, 0))
    graph, windows = model.message_graph(), model.windows
    edges = graph.connect(windows)
    size = len(graph.kinds) * windows
    kind = np.repeat(np.arange(len(graph.kinds)), windows)
    by_kind, by_window = [], []
    for weights in (out.spatial_attention_layer1, out.spatial_attention_layer2):
        heads = np.asarray(weights[:count], np.float64).mean(axis=0)  # [head, e]
        dense = np.zeros((len(heads), size, size))
        dense[:, edges.receivers, edges.senders] = heads
        by_window.append(dense.mean(axis=0))
        summed = np.stack([dense[:, :, kind == one].sum(axis=2) for one in set(kind.tolist())], -1)
        by_kind.append(
            np.stack([summed[:, kind == one].mean(axis=1) for one in set(kind.tolist())], 1)
        )
    return graph.kinds, np.stack(by_kind), np.stack(by_window)
