"""A clip: the pixels of one dive and what is needed to sample them, without any labels.

A clip comes from a record of the built data set (`from_record`, for `dives.DiveSource`) or from a
folder of frames (`read_folder`), such as that of a released or rendered dive. A dive whose score
and stages are known is a clip with labels, `dives.Dive`. Another kind of recording, such as a video
file, gets a function of its own here that returns a `Clip`: what comes after never asks where the
pixels are from.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, UnidentifiedImageError

from finecausal_jax.data.images import MOST_PIXELS, ImageError, open_image
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.errors import InputError

Key = tuple[str, int]  # a clip's name: (competition, index) of a dive, or any name and number

_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """One dive's images, either still encoded or already resized.

    Attributes:
      key: its name, (competition, index) or any name and number.
      frame_numbers: int64 [n], ascending: numbers of the frames in the untrimmed recording,
        consecutive, or their times.
      frames: RGB, one a frame: the bytes of an encoded image, or resized pixels.
      masks: grey, as `frames`; None where there are none. Encoded ones may be in colour.
      resize: how the pixels were resized, neither flipped nor cropped; None of encoded images.
      timed: whether `frame_numbers` are times, in any unit, between which there may be gaps.
    """

    key: Key
    frame_numbers: Int64[np.ndarray, " n"]
    frames: tuple[bytes, ...] | UInt8[np.ndarray, "n h w 3"]
    masks: tuple[bytes, ...] | UInt8[np.ndarray, "n h w"] | None = None
    resize: Resize | None = None
    timed: bool = False

    def check(self, **labels: int) -> None:
        """Checks that the parts fit each other.

        Args:
          **labels: how many there are of what else comes one a frame, by what it is called.

        Raises:
          InputError: something is missing for a frame, the numbers do not ascend, or pixels come
            without their resize.
        """
        counts = {"frame numbers": len(self.frame_numbers), **labels, "frames": len(self.frames)}
        if self.masks is not None:
            counts["masks"] = len(self.masks)
        if len(set(counts.values())) != 1:
            *first, last = (f"{count} {name}" for name, count in counts.items())
            raise InputError(
                f"dive {self.key} has {', '.join(first)} and {last}, expected one of each a frame: "
                "build the data set again, or read the images again"
            )
        falls = np.flatnonzero(np.diff(self.frame_numbers) <= 0)
        if len(falls):
            before, after = self.frame_numbers[falls[0] : falls[0] + 2]
            raise InputError(
                f"dive {self.key} has frame number {after} after {before}, expected ascending ones"
            )
        images = (self.frames,) if self.masks is None else (self.frames, self.masks)
        if any(isinstance(one, tuple) != (self.resize is None) for one in images):
            raise InputError(
                f"dive {self.key} has {'' if self.resize is None else 'no '}pixels but "
                f"{'no ' if self.resize is None else 'a '}resize: expected resized pixels with "
                "the resize they were made by, or encoded images without one"
            )

    def decode(self, row: int, kind: str) -> Image.Image:
        """Decodes one encoded image.

        Args:
          row: which one, 0..n-1.
          kind: "frame", to RGB, or "mask", to one grey channel.

        Raises:
          InputError: it cannot be decoded; the text names the clip and the frame's number.
        """
        mode, images = ("RGB", self.frames) if kind == "frame" else ("L", self.masks)
        try:
            # No draft mode: it lets the JPEG decoder shrink the image, which changes the pixels.
            image = open_image(images[row])
            image.load()
        except Exception as error:  # broken files make Pillow raise nearly anything
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(
                f"dive {self.key}: {kind} {self.frame_numbers[row]:05d} cannot be decoded "
                f"({reason}), expected an intact JPEG or PNG file: build the data set again from "
                "an intact release, or mend that file"
            ) from error
        return image if image.mode == mode else image.convert(mode)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a folder of images may hold. Checked before any image is decoded.

    Attributes:
      images: how many; the longest dive of the real release has 273 frames, and this many are 100
        seconds at 30 frames a second.
      pixels: in one image; a frame of an 8K video has 33.2 million.
      size: of all files together, bytes.
    """

    images: int = 3000
    pixels: int = MOST_PIXELS
    size: int = 2**31


LIMITS = Limits()


def from_record(
    example: Mapping[str, Any],
    key: Key,
    frame_numbers: Int64[np.ndarray, " n"],
    resize: Resize | None,
) -> Clip:
    """Returns the clip of a record of the built data set.

    Args:
      example: the parsed features `frames` and `masks`, see `dives.image_features`; no masks where
        the dive has none.
      key: the dive's (competition, index).
      frame_numbers: int64 [n], of the dive's row of the table.
      resize: how stored pixels were resized; None where the release's bytes are stored.
    """
    if resize is None:
        return Clip(key, frame_numbers, tuple(example["frames"]), tuple(example["masks"]) or None)
    frames, masks = (
        np.frombuffer(example[kind]["value"], np.uint8).reshape(example[kind]["shape"])
        for kind in ("frames", "masks")
    )
    return Clip(key, frame_numbers, frames, masks if len(masks) else None, resize)


def read_folder(
    folder: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    *,
    key: Key | None = None,
    timed: bool = False,
    limits: Limits = LIMITS,
) -> Clip:
    """Reads a folder of frames, such as `FineDiving/<competition>/<index>` of a release.

    Frames are JPEG or PNG files; other files are passed over. Names that end in a number (and are
    else alike) are ordered by it, and it is the frame's number: `00489.jpg`, `frame_7.png`. All
    other names are ordered as text and numbered from 0.

    Args:
      folder: the folder of frames.
      masks: the folder of their masks: each has its frame's name, but for the suffix. Masks of
        other names are passed over.
      key: the clip's name; None is the folder's name and 0.
      timed: the numbers are times, between which there may be gaps.
      limits: how much there may be.

    Returns:
      The clip, of encoded images that were all decoded once to see whether they can be.

    Raises:
      InputError: a folder, a frame or a mask is missing, empty, larger than `limits`, of another
        size than the first frame, or cannot be decoded; the text names the file.
    """
    folder = pathlib.Path(folder)
    paths = _list_images(folder, limits)
    numbers = _numbers(folder, paths, timed)
    names = sorted(paths, key=numbers.__getitem__)
    frames, size = _read_images([paths[name] for name in names], None, limits)
    encoded_masks = None
    if masks is not None:
        masks = pathlib.Path(masks)
        mask_paths = _list_images(masks, limits)
        missing = [name for name in names if name not in mask_paths]
        if missing:
            raise InputError(
                f"{masks} has no mask for {len(missing)} of {len(names)} frames, the first being "
                f"{paths[missing[0]]}: expected a mask of the same name for each frame"
            )
        encoded_masks, _ = _read_images([mask_paths[name] for name in names], size, limits)
    return Clip(
        key or (folder.absolute().name, 0),
        np.array([numbers[name] for name in names], np.int64),
        frames,
        encoded_masks,
        timed=timed,
    )


def _list_images(folder: pathlib.Path, limits: Limits) -> dict[str, pathlib.Path]:
    """Returns a folder's image files by their names without suffix, in the order of the names."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}, expected a folder of JPEG or PNG files")
    paths: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")
        if hidden or path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        if path.stem in paths:
            raise InputError(f"{paths[path.stem]} and {path.name} have the same name, expected one")
        paths[path.stem] = path
    if not paths:
        raise InputError(f"{folder} has no images, expected files named {', '.join(_SUFFIXES)}")
    if len(paths) > limits.images:
        raise InputError(
            f"{folder} has {len(paths)} images, expected at most {limits.images}: keep those of "
            "the dive"
        )
    return paths


def _numbers(
    folder: pathlib.Path, paths: Mapping[str, pathlib.Path], timed: bool
) -> dict[str, int]:
    """Returns the frame number of each name."""
    # Fifteen digits are whole numbers in float64 too, which frames are sampled with.
    ends = {name: re.fullmatch("(.*?)([0-9]{1,15})", name, re.DOTALL) for name in paths}
    if len({end and end[1] for end in ends.values()}) > 1 or None in ends.values():
        return {name: place for place, name in enumerate(paths)}
    numbers = {name: int(end[2]) for name, end in ends.items() if end}
    names = sorted(numbers, key=numbers.__getitem__)
    for before, after in zip(names, names[1:], strict=False):
        gap = numbers[after] - numbers[before]
        if not gap:
            raise InputError(
                f"{paths[before]} and {paths[after].name} are both frame {numbers[after]}, "
                "expected one file a frame"
            )
        if gap > 1 and not timed:
            raise InputError(
                f"{folder} has no frame {numbers[before] + 1} between {paths[before].name} and "
                f"{paths[after].name}, expected consecutive numbers"
            )
    return numbers


def _read_images(
    paths: Sequence[pathlib.Path], size: tuple[int, int] | None, limits: Limits
) -> tuple[tuple[bytes, ...], tuple[int, int] | None]:
    """Reads and checks files; all must have the `size` (width, height), None being the first's."""
    total = sum(path.stat().st_size for path in paths)
    if total > limits.size:
        raise InputError(
            f"the {len(paths)} images in {paths[0].parent} have {total} bytes, expected at most "
            f"{limits.size}: keep those of the dive, or store them smaller"
        )
    images = []
    for path in paths:
        try:
            images.append(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from error
        found = _check_image(path, images[-1], limits)
        size = size or found
        if found != size:
            raise InputError(
                f"{path} is {found[0]} x {found[1]} pixels, expected {size[0]} x {size[1]} like "
                "the first frame"
            )
    return tuple(images), size


def _check_image(path: pathlib.Path, data: bytes, limits: Limits) -> tuple[int, int]:
    """Decodes an image to its end; returns its width and height."""
    try:
        with open_image(data, most_pixels=limits.pixels) as image:
            size = image.size
            # All of a JPEG is still read, but only an eighth of its width and height computed.
            image.draft(image.mode, (1, 1))
            image.load()
            return size
    except ImageError as error:
        raise InputError(f"{path} {error}") from error
    except UnidentifiedImageError as error:  # its text holds an address
        raise InputError(f"{path} is no whole JPEG or PNG file, expected one") from error
    except Exception as error:  # broken files make Pillow raise nearly anything
        raise InputError(f"{path} cannot be decoded ({str(error) or 'broken'})") from error
