"""From a clip's images to the frames and masks of one video.

The steps are the reference's, in its order: sample a fixed number of frames by frame number, flip
the whole clip or not, resize with PIL's bilinear filter, cut one square crop for the whole clip.
Clips that are stored resized give the same pixels, see `resizing`. What was labelled is read off
for the sampled rows elsewhere (`DiveInfo.transitions`). Images stay uint8, a quarter of the bytes
of float32, until `normalize` and `scale_mask` turn them into the model's input inside the jitted
step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from finecausal_jax.data import sampling
from finecausal_jax.data.clips import Clip
from finecausal_jax.data.dives import Dive
from finecausal_jax.data.resizing import Cut, Resize
from finecausal_jax.runtime.errors import InputError

# ImageNet's channel means and deviations, which the pretrained trunks were trained with.
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)

# The reference moves the last sampled frame back by up to this many frames while training.
MAX_SHIFT = 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Sizes of a preprocessed video.

    Attributes:
      frames: frames sampled from a dive (`t` below).
      frame_size: height and width of the square crop, pixels.
      resize_width: width every image is resized to before cropping, pixels.
      resize_height: height every image is resized to before cropping, pixels.
      keep_aspect: resize to `resize_height` and to the width that keeps the aspect ratio, and crop
        horizontally too; `resize_width` is then unused. Parity: off by default, because released
        weights have only seen frames squeezed to 112 x 200 (width x height).
    """

    frames: int = 96
    frame_size: int = 112
    resize_width: int = 112
    resize_height: int = 200
    keep_aspect: bool = False

    def __post_init__(self) -> None:
        # Two transitions need a first frame before them.
        for name, least in (("frames", 2), ("frame_size", 1), ("resize_width", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"preprocessing {name} must be at least {least}, got {value}")
        resized = {"resize_height": self.resize_height}
        if not self.keep_aspect:
            resized["resize_width"] = self.resize_width
        for name, value in resized.items():
            if value < self.frame_size:
                raise InputError(
                    f"preprocessing {name} must be at least frame_size ({self.frame_size}), so "
                    f"that the crop fits, got {value}: raise {name} or lower frame_size"
                )

    @property
    def resize(self) -> Resize:
        """The resize before the crop."""
        return Resize(None if self.keep_aspect else self.resize_width, self.resize_height)

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Returns the (width, height) that an image of `width` x `height` is resized to.

        Raises:
          InputError: the aspect ratio is to be kept and the image is too narrow for the crop.
        """
        resized = self.resize.size(width, height)
        if resized[0] < self.frame_size:
            raise InputError(
                f"an image of {width} x {height} resized to height {resized[1]} is {resized[0]} "
                f"pixels wide, expected at least frame_size ({self.frame_size}): raise "
                "resize_height, lower frame_size, or switch keep_aspect off"
            )
        return resized


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """One preprocessed clip.

    Attributes:
      frames: uint8 [t, h, w, 3], RGB.
      mask: uint8 [t, h, w], grey foreground mask of each frame; None where the clip has none.
      rows: int64 [t], which of the clip's frames were sampled, ascending.
    """

    frames: np.ndarray
    mask: np.ndarray | None
    rows: np.ndarray


def evaluation_video(clip: Clip, preprocessing: Preprocessing) -> Video:
    """Returns the clip's whole length, not flipped, cropped at the centre.

    Args:
      clip: the images.
      preprocessing: sizes.

    Raises:
      InputError: the clip's images or frame numbers cannot be used; the text names it.
    """
    return _video(clip, _sample(clip, preprocessing), preprocessing, flip=False, corner=None)


def training_video(
    dive: Dive, preprocessing: Preprocessing, rng: np.random.Generator, crop_range: float = 1.0
) -> Video:
    """Returns the dive with a random end, flip and crop, each drawn once for the whole clip.

    Args:
      dive: the dive; its labels say whether its end can be moved, nothing else.
      preprocessing: sizes.
      rng: source of the four draws (end, flip, left, top); always four, so that a setting does not
        shift the draws behind it.
      crop_range: share of the places that a crop can have, about the centre, that it is drawn from;
        1 is all of them, as in the reference, 0 the centre.

    Raises:
      InputError: as `evaluation_video`.
    """
    shift = -int(rng.integers(0, MAX_SHIFT, endpoint=True))
    flip = bool(rng.random() < 0.5)
    corner = tuple(
        float(rng.random()) * crop_range + 0.5 * (1.0 - crop_range) for _ in ("left", "top")
    )
    rows = _sample(dive.clip, preprocessing, shift)
    if len(set(dive.info.frame_labels[rows].tolist())) < 2:
        # A moved end may cut off the last stage of a very short dive, which has then no transition
        # left: such a dive keeps its end.
        rows = _sample(dive.clip, preprocessing)
    return _video(dive.clip, rows, preprocessing, flip=flip, corner=corner)


def preprocess_frames(
    frames: UInt8[np.ndarray, "*frames"],
    masks: UInt8[np.ndarray, "*masks"],
    preprocessing: Preprocessing,
    *,
    flip: bool = False,
    left: int | None = None,
    top: int | None = None,
) -> tuple[UInt8[np.ndarray, "t s s 3"], UInt8[np.ndarray, "t s s"]]:
    """Flips, resizes and crops decoded images.

    Args:
      frames: uint8 [t, h, w, 3], RGB.
      masks: uint8 [t, h, w], grey.
      preprocessing: sizes; `preprocessing.frames` is not used.
      flip: mirror left and right, before the resize.
      left: first column of the crop in the resized image; None is the centre.
      top: first row of the crop in the resized image; None is the centre.

    Returns:
      The frames, uint8 [t, s, s, 3], and the masks, uint8 [t, s, s]; s is the frame size.

    Raises:
      InputError: the shapes disagree, or the crop leaves the resized image.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or masks.shape != frames.shape[:3]:
        raise InputError(
            "expected frames [t, h, w, 3] and masks [t, h, w] of one size, got "
            f"{frames.shape} and {masks.shape}"
        )
    width, height = preprocessing.resized_size(frames.shape[2], frames.shape[1])
    size = preprocessing.frame_size
    left = (width - size) // 2 if left is None else left
    top = (height - size) // 2 if top is None else top
    if not (0 <= left <= width - size and 0 <= top <= height - size):
        raise InputError(
            f"a crop of {size} x {size} at left {left}, top {top} leaves the resized image: "
            f"expected left of 0..{width - size} and top of 0..{height - size}"
        )
    cut = Cut(preprocessing.resize, flip, (width - size - left) if flip else left, top, size)
    return (
        cut.mirrored(np.stack([cut(Image.fromarray(frame)) for frame in frames])),
        cut.mirrored(np.stack([cut(Image.fromarray(mask)) for mask in masks])),
    )


def normalize(frames: UInt8[Any, "*batch 3"]) -> Float32[Any, "*batch 3"]:
    """Returns the model's input: pixels over 255, less ImageNet's mean, over its deviation.

    Args:
      frames: uint8 [..., 3], a NumPy or JAX array (traced ones too).

    Returns:
      float32 [..., 3], about -2.1 to 2.6.
    """
    channels = (1,) * (frames.ndim - 1) + (3,)  # spelt out: rank promotion may be forbidden
    scaled = frames.astype(np.float32) / np.float32(255)
    return (scaled - MEAN.reshape(channels)) / DEVIATION.reshape(channels)


def scale_mask(mask: UInt8[Any, "*batch"]) -> Float32[Any, "*batch"]:
    """Returns masks (NumPy or JAX) as float32 of 0 to 1; greys, so not only the two ends."""
    return mask.astype(np.float32) / np.float32(255)


def _sample(clip: Clip, preprocessing: Preprocessing, shift: int = 0) -> np.ndarray:
    clip.check()
    try:
        return sampling.sample_frames(
            clip.frame_numbers, preprocessing.frames, shift=shift, timed=clip.timed
        )
    except InputError as error:
        raise InputError(f"dive {clip.key}: {error}") from error


def _video(
    clip: Clip,
    rows: np.ndarray,
    preprocessing: Preprocessing,
    *,
    flip: bool,
    corner: tuple[float, float] | None,
) -> Video:
    """Prepares some frames of a clip; `corner` is the crop's place in 0..1, None the centre."""
    prepare = _prepare_encoded if clip.resize is None else _prepare_resized
    frames, mask = prepare(clip, rows, preprocessing, flip, corner)
    return Video(frames, mask, rows)


def _prepare_encoded(
    clip: Clip,
    rows: np.ndarray,
    preprocessing: Preprocessing,
    flip: bool,
    corner: tuple[float, float] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes, resizes and cuts the frames and masks of `rows`."""
    # Each distinct frame is decoded once; a short dive repeats the prepared pixels.
    distinct, repeats = np.unique(rows, return_inverse=True)
    kinds = ("frame",) if clip.masks is None else ("frame", "mask")
    cut = None
    prepared: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for row in distinct.tolist():
        images = {kind: clip.decode(row, kind) for kind in kinds}
        if cut is None:
            size = images["frame"].size
            cut = _cut(clip, size, preprocessing, flip, corner)
        for kind, image in images.items():
            if image.size != size:
                raise InputError(
                    f"dive {clip.key}: {kind} {clip.frame_numbers[row]:05d} is "
                    f"{image.size[0]} x {image.size[1]}, expected {size[0]} x {size[1]} like the "
                    "dive's first frame"
                )
            prepared[kind].append(cut(image))
    assert cut is not None, "at least two frames are sampled"
    frames, masks = (
        cut.mirrored(np.stack(prepared[kind])[repeats]) if kind in prepared else None
        for kind in ("frame", "mask")
    )
    return frames, masks


def _prepare_resized(
    clip: Clip,
    rows: np.ndarray,
    preprocessing: Preprocessing,
    flip: bool,
    corner: tuple[float, float] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cuts the frames and masks of `rows` out of stored ones; nothing is left to resize."""
    if clip.resize != preprocessing.resize:
        raise InputError(
            f"dive {clip.key} was stored resized to {clip.resize}, expected "
            f"{preprocessing.resize}: open the data set with the preprocessing it is read with"
        )
    cut = _cut(clip, (clip.frames.shape[2], clip.frames.shape[1]), preprocessing, flip, corner)
    frames = cut.mirrored(cut.crop(clip.frames)[rows])
    return frames, None if clip.masks is None else cut.mirrored(cut.crop(clip.masks)[rows])


def _cut(
    clip: Clip,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    flip: bool,
    corner: tuple[float, float] | None,
) -> Cut:
    """Places the crop for images of `size` (width, height)."""
    try:
        width, height = preprocessing.resized_size(*size)
    except InputError as error:
        raise InputError(f"dive {clip.key}: {error}") from error
    free = (width - preprocessing.frame_size, height - preprocessing.frame_size)
    if corner is None:
        left, top = free[0] // 2, free[1] // 2
    else:  # every place from 0 to `free` alike
        left, top = int(corner[0] * (free[0] + 1)), int(corner[1] * (free[1] + 1))
    return Cut(
        preprocessing.resize, flip, free[0] - left if flip else left, top, preprocessing.frame_size
    )
