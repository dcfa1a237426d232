"""One dive's frame and mask files, listed and decoded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from finecausal_jax.data.images import ImageError, open_image

FRAMES, MASKS = "frames", "masks"
# A mask's foreground, after division by 255 and rounding: what the loss and the metrics see.
FOREGROUND = 128
Report = Callable[[str, str], None]  # takes the offending path and what is wrong with it


def list_images(root: pathlib.Path, place: str, problem: Report) -> dict[str, int] | None:
    """Lists the JPEG files of a dive's folder; other files are none of our business.

    Args:
      root: the release's folder.
      place: the dive's folder, relative to it.
      problem: takes what is wrong.

    Returns:
      {file name: frame number}, or None where there is no file or no folder.
    """
    folder = root / place
    if not folder.is_dir():
        problem(place, "missing folder")
        return None
    files = {}
    for entry in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(entry)
        if suffix.lower() != ".jpg" or entry.startswith("."):
            continue
        if stem.isdecimal() and stem.isascii():
            files[entry] = int(stem)
        else:
            problem(f"{place}/{entry}", "extra file, expected a frame number as its name")
    if not files:
        problem(place, "no JPEG files")
        return None
    return files


def check_images(
    root: pathlib.Path, places: dict[str, str], names: list[str], problem: Report
) -> tuple[int, str, bool]:
    """Decodes every frame and mask of a dive and compares their sizes.

    Args:
      root: the release's folder.
      places: the dive's folders relative to it, by kind (`FRAMES`, `MASKS`).
      names: the file names that both folders have.
      problem: takes what is wrong.

    Returns:
      The size of all these files together, bytes; a hash of what they hold; and whether any pixel
      of any mask is foreground.
    """
    num_bytes = 0
    digest = hashlib.blake2b(digest_size=16)
    expected: tuple[int, int] | None = None
    foreground = False
    for name in names:
        sizes = {}
        for kind, place in places.items():
            path = root / place / name
            modes = ("RGB",) if kind == FRAMES else ("L", "RGB")
            try:
                data = path.read_bytes()
                num_bytes += len(data)
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
                size, mode, brightest = _decode(data)
                if kind == MASKS and not foreground:
                    foreground = brightest >= FOREGROUND or _has_foreground(data)
            except ImageError as error:
                problem(f"{place}/{name}", str(error))
                continue
            except Exception as error:  # broken files make Pillow raise nearly anything
                # Its text for the first case holds the address of a buffer.
                unknown = isinstance(error, UnidentifiedImageError)
                reason = "not whole" if unknown else str(error) or "broken"
                problem(f"{place}/{name}", f"does not decode ({reason})")
                continue
            sizes[kind] = size
            if mode not in modes:
                what = f"colour mode {mode}, expected {' or '.join(modes)}"
                problem(f"{place}/{name}", what)
        frame, mask = sizes.get(FRAMES), sizes.get(MASKS)
        if frame and expected and frame != expected:
            what = f"{_size(frame)}, the dive's first frame has {_size(expected)}"
            problem(f"{places[FRAMES]}/{name}", what)
        if frame and mask and frame != mask:
            what = f"mask of {_size(mask)}, its frame has {_size(frame)}"
            problem(f"{places[MASKS]}/{name}", what)
        expected = expected or frame
    return num_bytes, digest.hexdigest(), foreground


def _has_foreground(data: bytes) -> bool:
    """Whether a mask has foreground at its full size: a small diver is lost in an eighth of it."""
    with open_image(data, ("JPEG",)) as image:
        return _brightest(image) >= FOREGROUND


def _brightest(image: Image.Image) -> int:
    return int(np.asarray(image.convert("L")).max(initial=0))


class GreyMask:
    """A mask in colour as the grey PNG of the same pixels; a grey one as it is.

    TFDS reads it like an open file. The data set's feature has one channel, and a JPEG in colour
    would come out of TFDS's own reader with three.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path

    def read(self) -> bytes:
        """The file's content, or what takes its place."""
        data = self._path.read_bytes()
        with open_image(data, ("JPEG",)) as image:
            if image.mode == "L":
                return data
            buffer = io.BytesIO()
            image.convert("L").save(buffer, "PNG")
            return buffer.getvalue()


@contextlib.contextmanager
def strict_decoding() -> Iterator[None]:
    """Makes Pillow refuse truncated images, whatever other code has switched on."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode(data: bytes) -> tuple[tuple[int, int], str, int]:
    """Decodes a JPEG to its end; returns its width and height, its colour mode, and the value of
    the brightest of its pixels, where it is computed at an eighth of its size."""
    with open_image(data, ("JPEG",)) as image:
        size, mode = image.size, image.mode
        # Every coefficient is still read, so a truncated file still fails, but only an eighth of
        # the width and height is computed: twice as fast on frames of 455 x 256.
        image.draft(mode, (1, 1))
        image.load()
        return size, mode, _brightest(image)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
