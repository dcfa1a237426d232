"""Small synthetic dives in memory, so that these tests need no built data set."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import sys

import numpy as np
from PIL import Image

from finecausal_jax.data.clips import Clip
from finecausal_jax.data.dives import Dive, DiveInfo

FIRST_FRAME = 489  # clips start in the middle of a broadcast


def encode(pixels: np.ndarray, file_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, file_format, **({"quality": 95} if "J" in file_format else {})
    )
    return buffer.getvalue()


def make_info(index: int, dive_number: str = "107b", frames: int = 12, **changes) -> DiveInfo:
    third = frames // 3
    values = {
        "competition": "Test Cup",
        "index": index,
        "dive_number": dive_number,
        "score": 60.0 + index,
        "difficulty": 3.0,
        "frame_numbers": np.arange(FIRST_FRAME, FIRST_FRAME + frames),
        "frame_labels": np.repeat([1, 20, 37], [third, third, frames - 2 * third]),
    }
    return DiveInfo(**{**values, **changes})


def make_dive(info: DiveInfo, size: tuple[int, int] = (18, 14)) -> Dive:
    """A dive whose images are steps in x: the left half tells the frame, the right the dive.

    The left half of frame i is grey 8 * i, the right half 255 - 4 * index; the mask is 8 * i.
    """
    width, height = size
    frames, masks = [], []
    for row in range(len(info.frame_numbers)):
        image = np.full((height, width, 3), 255 - 4 * info.index, np.uint8)
        image[:, : width // 2] = 8 * row
        frames.append(encode(image))
        masks.append(encode(np.full((height, width), 8 * row, np.uint8)))
    return labelled(info, frames, masks)


def labelled(info: DiveInfo, frames, masks) -> Dive:
    return Dive(info, Clip(info.key, info.frame_numbers, tuple(frames), tuple(masks)))


def with_images(dive: Dive, **changes) -> Dive:
    return dataclasses.replace(dive, clip=dataclasses.replace(dive.clip, **changes))


class SomeDives:
    """The dives of `infos`; in a worker process it refuses one that has imported too much."""

    def __init__(self, infos):
        self.infos = tuple(infos)
        self.keys = tuple(info.key for info in self.infos)
        self.fingerprint = ""
        self.dives = tuple(make_dive(info) for info in self.infos)

    def __len__(self) -> int:
        return len(self.dives)

    def __getitem__(self, row: int) -> Dive:
        if multiprocessing.parent_process() is not None:
            _check_worker()
        return self.dives[row]


def _check_worker() -> None:
    heavy = {"torch", "tensorflow"} & set(sys.modules)
    if heavy:
        raise ValueError(f"a worker process imported {heavy}")
