"""Each video once through the encoders, then any number of comparisons from its features.

`encode_videos` turns dives into host arrays, `compare_pairs` runs the rest of the model on pairs of
them. Both work in batches of one static shape, so each compiles once; padding is cut off again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from finecausal_jax.data import pipeline, preprocessing
from finecausal_jax.models.finecausal import STAGE_WEIGHTS
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.metrics import MaskCounts

Key = tuple[str, int]  # a dive's (competition, index)


class Encoding(NamedTuple):
    """What the comparison and the metrics need of one video; arrays on the host.

    Attributes:
      features: the model's `Features` of the video without the leading axis and without
        `mask_logits`, float32; at full size 0.27 MB.
      counts: pixel counts of its predicted mask.
      transitions: int [2], labelled transitions, frames.
    """

    features: Any
    counts: MaskCounts
    transitions: np.ndarray


class Comparison(NamedTuple):
    """What the model says of pairs; one row a pair.

    Attributes:
      delta: float32 [p], of the query, points.
      stage_delta: float32 [p, 3], its shares by stage.
      transitions: int32 [p, 2], predicted transitions of the query, frames.
    """

    delta: Any
    stage_delta: Any
    transitions: Any


def encode_videos(
    model: Any,
    variables: Any,
    source: pipeline.Dives,
    settings: preprocessing.Preprocessing,
    rows: Sequence[int],
    **options: Any,
) -> dict[Key, Encoding]:
    """Returns what `iterate_encodings` yields as a dictionary."""
    return dict(iterate_encodings(model, variables, source, settings, rows, **options))


def iterate_encodings(
    model: Any,
    variables: Any,
    source: pipeline.Dives,
    settings: preprocessing.Preprocessing,
    rows: Sequence[int],
    *,
    batch_size: int,
    workers: int = 0,
    mask_threshold: float = metrics.LOGIT_THRESHOLD,
    sharding: jax.sharding.Sharding | None = None,
    progress: bool = True,
    label: str = "videos",
) -> Iterator[tuple[Key, Encoding]]:
    """Yields the encodings of some rows of a source with the dives' keys, in the order of `rows`.

    Args:
      model: a `FineCausal`, or anything hashable with its `apply` and `window_stride`.
      variables: {"params": ..., "batch_stats": ...}.
      source: the dives.
      settings: sizes of a video; they must be the model's.
      rows: rows of `source`.
      batch_size: videos encoded at once; the last batch is padded.
      workers: processes that decode videos; 0 uses a thread of this process.
      mask_threshold: logit from which a pixel counts as foreground.
      sharding: layout of a batch on devices; None leaves it to the default device.
      progress: show a progress bar where standard error is a terminal.
      label: what the progress bar calls the videos.

    Raises:
      ValueError: a dive cannot be decoded, or windows and masks do not fit each other.
    """
    if not len(rows):
        return
    batches = pipeline.evaluation_videos(
        source, settings, rows, batch_size=batch_size, workers=workers
    )
    with contextlib.closing(batches), _bar(len(rows), label, progress) as bar:
        for batch in batches:
            frames, mask = _place((batch["frames"], batch["mask"]), sharding)
            encoded = jax.device_get(_encode(model, variables, frames, mask, mask_threshold))
            for i in np.flatnonzero(batch["valid"]):
                # A copy each: a view would keep its whole padded batch alive.
                features, counts = jax.tree.map(lambda values, i=i: np.array(values[i]), encoded)
                key = source.infos[int(batch["row"][i])].key
                yield key, Encoding(features, counts, np.array(batch["transitions"][i]))
                bar.update()


def compare_pairs(
    model: Any,
    variables: Any,
    encodings: Mapping[Key, Encoding],
    pairs: Sequence[tuple[Key, Key]],
    *,
    batch_size: int,
    sharding: jax.sharding.Sharding | None = None,
    progress: bool = True,
) -> Comparison:
    """Returns what the model says of some pairs; the other arguments are as for `encode_videos`.

    Args:
      encodings: the encoding of every video named in `pairs`.
      pairs: (key of the query, key of the exemplar), at least one.
      batch_size: pairs compared at once. The last batch is filled with copies of its last pair.

    Returns:
      One row a pair, in the order of `pairs`.
    """
    parts = []
    with _bar(len(pairs), "pairs", progress) as bar:
        for first in range(0, len(pairs), batch_size):
            batch = pairs[first : first + batch_size]
            count = len(batch)
            padded = [*batch, *[batch[-1]] * (batch_size - count)]
            sides = [
                jax.tree.map(lambda *one: np.stack(one), *(encodings[key].features for key in side))
                for side in zip(*padded, strict=True)
            ]
            query, exemplar = _place(sides, sharding)
            compared = jax.device_get(_compare(model, variables, query, exemplar))
            parts.append(jax.tree.map(lambda values, count=count: values[:count], compared))
            bar.update(count)
    return jax.tree.map(lambda *one: np.concatenate(one), *parts)


def encode_batch(
    model: Any,
    variables: Any,
    frames: Any,
    mask: Any,
    mask_threshold: float = metrics.LOGIT_THRESHOLD,
) -> tuple[Any, MaskCounts]:
    """Encodes v videos; to be traced.

    Args:
      model, variables, mask_threshold: as for `iterate_encodings`.
      frames: uint8 [v, t, h, w, 3].
      mask: uint8 [v, t, h, w].

    Returns:
      The model's `Features` without mask logits, and the pixel counts; leading axis v.
    """
    features = model.apply(variables, preprocessing.normalize(frames), method="encode")
    counts = metrics.mask_counts(
        features.mask_logits[-1],  # the fused map
        preprocessing.scale_mask(mask),
        model.window_stride,
        mask_threshold,
    )
    return features.replace(mask_logits=None), counts


def compare_batch(model: Any, variables: Any, query: Any, exemplar: Any) -> Comparison:
    """Compares b pairs from the `Features` of both sides; to be traced.

    Keeps the first b rows of the model's 2b, the queries'.
    """
    out = model.apply(variables, query, exemplar, method="compare")
    b = out.delta.shape[0] // 2
    stages = (out.stage_delta_dynamic[:b] + out.stage_delta_static[:b]) / 2
    return Comparison(
        delta=out.delta[:b, 0],
        stage_delta=stages * np.array([STAGE_WEIGHTS], np.float32),
        transitions=out.transitions[:b],
    )


# Compiled once per model and shape: a validation in the midst of training reuses the last one's.
_encode = jax.jit(encode_batch, static_argnames=("model", "mask_threshold"))
_compare = jax.jit(compare_batch, static_argnames=("model",))


def _place(batch: Any, sharding: jax.sharding.Sharding | None) -> Any:
    return batch if sharding is None else jax.device_put(batch, sharding)


def _bar(total: int, label: str, progress: bool) -> Any:
    # tqdm's `disable=None` hides the bar where standard error is no terminal.
    return tqdm(total=total, desc=label, leave=False, disable=None if progress else True)
