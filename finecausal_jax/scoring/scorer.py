"""The scorer: a network with its weights, and how videos come to it and lie on devices.

Everything that scores takes one: the test protocol, the bank of features, a new dive. Work is done
in batches of one static shape, so each program compiles once; padding is cut off again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int64

from finecausal_jax.data import pipeline
from finecausal_jax.data.clips import Clip
from finecausal_jax.data.dives import Dive, DiveInfo
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.sources import ClipList, Clips
from finecausal_jax.interop import weights as weight_files
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.layout import Layout, make_layout
from finecausal_jax.runtime.progress import progress
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.features import (
    Comparison,
    Encoding,
    Key,
    Network,
    compare_batch,
    encode_batch,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """What a query's comparison with k exemplars says.

    Attributes:
      target: what was regressed, "completeness" (score over difficulty) or "score".
      exemplars: keys of the exemplars.
      exemplar_targets: float64 [k], the exemplars' known values of it, points.
      deltas: float64 [k], predicted value of the query less that of the exemplar, points.
      stage_deltas: float64 [k, 3], shares of forward, twist and entry in `deltas`; they add up.
      transitions: int64 [k, 2], predicted transitions of the query (they depend on the exemplar),
        frames.
    """

    target: str
    exemplars: tuple[Key, ...]
    exemplar_targets: Float[np.ndarray, " k"]
    deltas: Float[np.ndarray, " k"]
    stage_deltas: Float[np.ndarray, "k 3"]
    transitions: Int64[np.ndarray, "k 2"]

    @property
    def votes(self) -> Float[np.ndarray, " k"]:
        """What each exemplar makes of the query: delta plus its own known value, points."""
        return self.deltas + self.exemplar_targets

    @property
    def predicted_target(self) -> float:
        """Mean of the votes, points."""
        return float(np.mean(self.votes))

    def points(self, difficulty: float) -> float:
        """The predicted score, points.

        Args:
          difficulty: of the query's dive, by which completeness is multiplied.
        """
        predicted = self.predicted_target
        return predicted if self.target == "score" else predicted * difficulty


def make_score(
    query: Key, exemplars: Sequence[DiveInfo], compared: Comparison, target: str
) -> Score:
    """Gathers a query's result from its comparisons, one a row, with exemplars.

    Raises:
      InputError: a prediction is not finite; the text names the dives.
    """
    keys = tuple(exemplar.key for exemplar in exemplars)
    if not np.isfinite(compared.delta).all():
        wrong = [keys[i] for i in np.flatnonzero(~np.isfinite(compared.delta))]
        raise InputError(
            f"the prediction for dive {query} is not finite, compared with {len(wrong)} of its "
            f"{len(keys)} exemplars, the first being {wrong[0]}: check the weights, a diverged "
            "training run leaves such behind"
        )
    return Score(
        target=target,
        exemplars=keys,
        exemplar_targets=np.array([getattr(one, target) for one in exemplars], np.float64),
        deltas=compared.delta.astype(np.float64),
        stage_deltas=compared.stage_delta.astype(np.float64),
        transitions=compared.transitions.astype(np.int64),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """What scores.

    Attributes:
      model: the network.
      variables: {"params": ..., "batch_stats": ...}, on the devices of `layout`.
      preprocessing: sizes of a video; they must be the network's.
      layout: where batches lie; the number of devices must divide both batch sizes.
      video_batch: videos encoded at once.
      pair_batch: pairs compared at once. A network whose `graph_scope` is "batch" is given one pair
        at a time, as in the reference: its pairs would see each other.
      workers: processes that decode videos; 0 uses a thread of this process.
      mask_threshold: logit from which a pixel counts as foreground.
      made_with: settings that features depend on, by name, for a bank to tell others by.
      progress: whether to show how far the work is.
    """

    model: Network
    variables: Any
    preprocessing: Preprocessing
    layout: Layout = dataclasses.field(default_factory=make_layout)
    video_batch: int = 4
    pair_batch: int = 16
    workers: int = 0
    mask_threshold: float = metrics.LOGIT_THRESHOLD
    made_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("video_batch", "pair_batch"):
            self.layout.check_batch_size(name, getattr(self, name))

    @classmethod
    def load(
        cls, weights: str | os.PathLike[str], *, layout: Layout | None = None, **options: Any
    ) -> Scorer:
        """A scorer with weights from a file.

        Args:
          weights: an exported `.safetensors` file, a folder with one, or the name of weights that
            come with this package, such as "rendered".
          layout: where batches and weights lie; None is over all devices.
          **options: other attributes, such as `video_batch`.

        Raises:
          InputError: there is no such file, it cannot be read, or nothing beside it says what
            network it is and how its videos are cut.
        """
        file = weight_files.load(weights)
        sizes = file.config.get("preprocessing")
        if sizes is None:
            beside = file.path.with_name("config.json")
            raise InputError(
                f"{beside}: expected the entry preprocessing of weights that `launch.py export` "
                "wrote from a run, found none: make a Scorer of the network, its variables and a "
                "Preprocessing instead"
            )
        try:
            preprocessing = Preprocessing(**sizes)
        except TypeError as error:
            raise InputError(f"{file.path.with_name('config.json')}: {error}") from error
        layout = make_layout() if layout is None else layout
        variables = layout.place(file.variables)
        return cls(file.model, variables, preprocessing, layout, **options)

    def score(self, query: Clip | Dive, exemplars: Sequence[Dive]) -> Score:
        """Scores one clip by comparison with exemplars, dives of its dive number.

        Args:
          query: the clip; a dive's labels are not looked at.
          exemplars: dives whose scores are known, at least one; another key each than the query's.

        Raises:
          InputError: there is no exemplar, two clips have the same key, one cannot be decoded, or
            a prediction is not finite.
        """
        if not exemplars:
            raise InputError("there are no exemplars: expected at least one dive to compare with")
        # Without masks, which take no part, one program serves clips that have them or not.
        clips = [
            dataclasses.replace(one.clip if isinstance(one, Dive) else one, masks=None)
            for one in (query, *exemplars)
        ]
        known = dict(self.encode(ClipList(clips), range(len(clips)), "query and exemplars"))
        compared = self.compare(known, [(query.key, one.key) for one in exemplars])
        infos = [one.info for one in exemplars]
        return make_score(query.key, infos, compared, self.model.target)

    def encode(
        self, source: Clips, rows: Sequence[int], label: str = "videos"
    ) -> Iterator[tuple[Key, Encoding]]:
        """Yields the encodings of some rows of a source with the clips' keys, in their order.

        Args:
          source: the clips, with labels and masks or without.
          rows: rows of `source`.
          label: what the progress calls the videos.

        Raises:
          InputError: a clip cannot be decoded, or windows and masks do not fit each other.
        """
        for batch, (frames, mask) in self.batches(source, rows, f"encoding {label}"):
            # Without masks, which batches of clips may lack, nothing is counted.
            encoded = jax.device_get(
                _encode(self.model, self.variables, frames, mask, self.mask_threshold)
            )
            for i in np.flatnonzero(batch["valid"]):
                # A copy each: a view would keep its whole padded batch alive.
                features, counts = jax.tree.map(lambda values, i=i: np.array(values[i]), encoded)
                if not batch.get("has_mask", [True] * len(batch["row"]))[i]:
                    counts = None
                labels = batch.get("transitions")
                transitions = None if labels is None else np.array(labels[i])
                key = source.keys[int(batch["row"][i])]
                yield key, Encoding(features, counts, transitions)

    def batches(
        self, source: Clips, rows: Sequence[int], label: str
    ) -> Iterator[tuple[dict[str, Any], tuple[Any, Any]]]:
        """Yields some rows of a source in batches of one shape, and shows how far they are.

        Args:
          source: the clips, with labels and masks or without.
          rows: rows of `source`.
          label: what the progress calls the work.

        Yields:
          A batch as `pipeline.evaluation_videos` has it, and its frames and masks (None where there
          are none) on the devices.
        """
        if not len(rows):
            return
        batches = pipeline.evaluation_videos(
            source,
            self.preprocessing,
            rows,
            batch_size=self.video_batch,
            workers=self.workers,
        )
        shown = progress(len(rows), label, "videos", show=self.progress)
        with contextlib.closing(batches), shown as bar:
            for batch in batches:
                yield batch, self.layout.place_batch((batch["frames"], batch.get("mask")))
                bar.update(int(np.count_nonzero(batch["valid"])))

    def compare(
        self, encodings: Mapping[Key, Encoding], pairs: Sequence[tuple[Key, Key]]
    ) -> Comparison:
        """Returns what the network says of some pairs, one row a pair, in their order.

        Args:
          encodings: the encoding of every video named in `pairs`.
          pairs: (key of the query, key of the exemplar), at least one. The last batch is filled
            with copies of its last pair.
        """
        alone = self.model.graph_scope == "batch"
        batch_size = 1 if alone else self.pair_batch
        parts = []
        with progress(len(pairs), "comparing", "pairs", show=self.progress) as bar:
            for first in range(0, len(pairs), batch_size):
                batch = pairs[first : first + batch_size]
                count = len(batch)
                padded = [*batch, *[batch[-1]] * (batch_size - count)]
                sides = [
                    jax.tree.map(
                        lambda *one: np.stack(one), *(encodings[key].features for key in side)
                    )
                    for side in zip(*padded, strict=True)
                ]
                # One pair cannot be spread over devices.
                query, exemplar = sides if alone else self.layout.place_batch(sides)
                compared = _compare(self.model, self.variables, query, exemplar)
                parts.append(
                    jax.tree.map(lambda x, count=count: x[:count], jax.device_get(compared))
                )
                bar.update(count)
        return jax.tree.map(lambda *one: np.concatenate(one), *parts)


# Compiled once a network and shape: a validation in the midst of training reuses the last one's.
_encode = jax.jit(encode_batch, static_argnames=("model", "mask_threshold"))
_compare = jax.jit(compare_batch, static_argnames=("model",))
