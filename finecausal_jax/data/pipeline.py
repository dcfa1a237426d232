"""Batches for training and evaluation, loaded with Grain.

A batch is planned before it is loaded: Grain's shuffle lists (epoch, row) in an order fixed by the
seed, the list is cut into global batches, and only then are dives read and decoded. All random
choices are keyed by (seed, epoch, dive), see `seeding`. So worker processes and hosts share out the
work without changing a single pixel: N hosts together load what one would.

Where the work happens: `workers=0` decodes in one background thread of this process, ahead of the
step. That suits machines of few cores, where decoding and XLA compete anyway, and starts at once.
More workers are processes that each prepare whole batches; they take seconds to start, and since
they import the main module, a script that uses them needs `if __name__ == "__main__":`.
docs/data.md has measured rates.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from finecausal_jax.data import exemplars, seeding
from finecausal_jax.data.batches import Batches
from finecausal_jax.data.dives import Dive, DiveInfo
from finecausal_jax.data.preprocessing import (
    Preprocessing,
    Video,
    evaluation_video,
    training_video,
)
from finecausal_jax.data.sources import Clips, Dives
from finecausal_jax.runtime.errors import InputError

# Grain's `repeat()` without a number overflows `len` after `batch`. Its shuffle has this many
# different epochs.
_ENDLESS = 2**32


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of each batch a host loads: number `index` of `count` equal ones.

    Raises:
      ValueError: there is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"index must be 0..{self.count - 1} (count is {self.count}), got {self.index}"
            )

    def of(self, batch_size: int) -> slice:
        """Returns the places of this part in a batch.

        Raises:
          ValueError: a batch cannot be cut into so many equal parts.
        """
        if batch_size % self.count:
            raise ValueError(
                f"batch_size counts all hosts together and must be divisible by their count "
                f"({self.count}), got {batch_size}"
            )
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Share()


def training_batches(
    source: Dives,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    workers: int = 0,
    share: Share = WHOLE,
    crop_range: float = 1.0,
) -> Batches:
    """Returns pairs of a query and an exemplar, reshuffled every epoch.

    Each epoch visits every dive once as a query. Batches run on across epochs, so no dive is
    dropped; where `epochs` passes do not fill the last batch, the first dives of the next one do.

    Args:
      source: the training dives.
      preprocessing: sizes of a video.
      batch_size: pairs in a batch over all hosts together.
      seed: fixes the order, the exemplars, and each video's end, flip and crop.
      epochs: passes over the data; None never ends.
      workers: processes that prepare batches; 0 uses a thread of this process.
      share: the part of each batch that this host loads.
      crop_range: see `training_video`.

    Returns:
      Iterator of {"query": video, "exemplar": video}; a video is a dict of arrays whose first axis
      is `b`, this host's share of `batch_size`: "frames" uint8 [b, t, h, w, 3], "mask" uint8
      [b, t, h, w], "transitions" int32 [b, 2] (frames), "completeness" float32 [b] (points),
      "difficulty" float32 [b], "row" int32 [b] (of `source.infos`). Where a dive of the source has
      no masks also "has_mask" bool [b]; the mask of one without is black.

    Raises:
      ValueError: an argument is out of range or the source is empty. While iterating: a dive
        cannot be used; the text names it.
    """
    dives = _count(source, "training")
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, seed=seed, workers=workers)
    if epochs is not None:
        _check_at_least(1, epochs=epochs)
    some_without = not all(info.has_masks for info in source.infos)
    load = _LoadPairs(source, preprocessing, seed, share.of(batch_size), crop_range, some_without)
    batches = (
        grain.MapDataset.range(dives)
        .map_with_index(functools.partial(_with_epoch, dives))
        # Grain shuffles epoch e with seed + e: neighbouring seeds would share most orders.
        .shuffle(seed=seeding.digest("order", seed) % 2**32)
        .repeat(_ENDLESS)
        .batch(batch_size, batch_fn=list)
    )
    if epochs is not None:
        batches = batches[: -(-dives * epochs // batch_size)]
    identity = {"seed": int(seed), "batch_size": int(batch_size), "dives": dives}
    videos = 2 * len(range(batch_size)[share.of(batch_size)])
    return Batches(batches.map(load), workers, identity, videos * _bytes_of(preprocessing))


def evaluation_videos(
    source: Clips,
    preprocessing: Preprocessing,
    rows: Sequence[int],
    *,
    batch_size: int,
    workers: int = 0,
) -> Batches:
    """Returns the videos of the given rows, in that order, none dropped.

    Args:
      source: the clips, with labels or without.
      preprocessing: sizes of a video.
      rows: rows of `source`.
      batch_size: videos in a batch. The last batch is filled with copies of its last video.
      workers: processes that prepare batches; 0 uses a thread of this process.

    Returns:
      Iterator of dicts as the videos of `training_batches`, b = batch_size. "frames", "row" and
      "valid" bool [b], False for the copies that fill the last batch, are always there; "mask" in
      batches with a clip that has masks, and "has_mask" bool [b] where another has none;
      "transitions", "completeness" and "difficulty" in those
      whose clips all have labels.

    Raises:
      ValueError: an argument is out of range. While iterating: a clip cannot be used; the text
        names it.
    """
    clips = _count(source, "evaluation")
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, workers=workers)
    rows = [int(row) for row in rows]
    wrong = [row for row in rows if not 0 <= row < clips]
    if wrong:
        raise ValueError(f"rows to evaluate must be 0..{clips - 1}, got {wrong[:5]}")
    load = _LoadVideos(source, preprocessing, tuple(rows), batch_size)
    batches = grain.MapDataset.range(-(-len(rows) // batch_size)).map(load)
    identity = {
        "batch_size": int(batch_size),
        "dives": len(rows),
        "rows": seeding.digest("rows", rows) % 2**32,
    }
    return Batches(batches, workers, identity, batch_size * _bytes_of(preprocessing))


def _bytes_of(preprocessing: Preprocessing) -> int:
    """Of a video's frames and masks."""
    return preprocessing.frames * preprocessing.frame_size**2 * (3 + 1)


@dataclasses.dataclass(frozen=True)
class _LoadPairs(grain.transforms.Map):
    """Loads this host's share of a batch, given as [(epoch, row of the query), ...].

    Where `some_without` says that a dive of the source has no masks, each video says whether it
    has; one without gets black ones, so that shapes stay.
    """

    source: Dives
    preprocessing: Preprocessing
    seed: int
    share: slice
    crop_range: float
    some_without: bool

    def map(self, element: list[tuple[int, int]]) -> dict[str, Any]:
        queries, partners = [], []
        for epoch, row in element[self.share]:
            partner = exemplars.training_exemplar(
                self.source.infos, row, seed=self.seed, epoch=epoch
            )
            key = self.source.infos[row].key
            for role, chosen, videos in (("query", row, queries), ("exemplar", partner, partners)):
                # Keyed by role too: a dive that is its own exemplar comes with another crop.
                rng = seeding.generator("video", self.seed, epoch, key, role)
                dive = self.source[chosen]
                if dive.info.has_masks and dive.masks is None:
                    raise InputError(f"dive {dive.key} has no masks, though its table says so")
                video = training_video(dive, self.preprocessing, rng, self.crop_range)
                pixels = _pixels(video, chosen)
                if self.some_without:
                    pixels = _with_mask(pixels)
                videos.append(pixels | _labels(dive.info, video))
        return {"query": _stack(queries), "exemplar": _stack(partners)}


@dataclasses.dataclass(frozen=True)
class _LoadVideos(grain.transforms.Map):
    """Loads the evaluation batch of a number, the last one padded."""

    source: Clips
    preprocessing: Preprocessing
    rows: tuple[int, ...]
    batch_size: int

    def map(self, element: int) -> dict[str, np.ndarray]:
        rows = self.rows[element * self.batch_size : (element + 1) * self.batch_size]
        videos = [self._load(row) for row in rows]
        masked = sum("mask" in video for video in videos)
        if 0 < masked < len(videos):
            videos = [_with_mask(video) for video in videos]
        padding = self.batch_size - len(videos)
        batch = _stack(videos + videos[-1:] * padding)
        batch["valid"] = np.arange(self.batch_size) < len(videos)
        return batch

    def _load(self, row: int) -> dict[str, Any]:
        clip = self.source[row]
        if not isinstance(clip, Dive):
            return _pixels(evaluation_video(clip, self.preprocessing), row)
        video = evaluation_video(clip.clip, self.preprocessing)
        return _pixels(video, row) | _labels(clip.info, video)


def _pixels(video: Video, row: int) -> dict[str, Any]:
    mask = {} if video.mask is None else {"mask": video.mask}
    return {"frames": video.frames, "row": np.int32(row), **mask}


def _with_mask(video: dict[str, Any]) -> dict[str, Any]:
    """The same with a mask, black where it has none, and whether it has one."""
    if "mask" in video:
        return {**video, "has_mask": np.bool_(True)}
    mask = np.zeros(video["frames"].shape[:-1], np.uint8)
    return {**video, "mask": mask, "has_mask": np.bool_(False)}


def _labels(info: DiveInfo, video: Video) -> dict[str, Any]:
    return {
        "transitions": info.transitions(video.rows),
        "completeness": np.float32(info.completeness),
        "difficulty": np.float32(info.difficulty),
    }


def _stack(videos: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks what all videos have."""
    shared = [name for name in videos[0] if all(name in video for video in videos)]
    return {name: np.stack([video[name] for video in videos]) for name in shared}


def _with_epoch(dives: int, index: int, row: int) -> tuple[int, int]:
    return index // dives, row


def _count(source: Clips, purpose: str) -> int:
    if not len(source):
        raise ValueError(f"the {purpose} dives are an empty split, expected at least one dive")
    return len(source)


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
