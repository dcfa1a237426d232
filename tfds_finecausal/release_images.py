"""One dive's images in a release: folders of frames and masks, or a video, listed and decoded."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from finecausal_jax.data.images import ImageError, open_image
from finecausal_jax.data.video_files import SUFFIXES as VIDEO_SUFFIXES
from finecausal_jax.data.video_files import read_video

FRAMES, MASKS = "frames", "masks"
# A mask's foreground, after division by 255 and rounding: what the loss and the metrics see.
FOREGROUND = 128
FRAME_SUFFIXES, MASK_SUFFIXES = (".jpg",), (".jpg", ".jpeg", ".png")
_JPEG, _ANY = ("JPEG",), ("JPEG", "PNG")
_MASK_MODES = ("L", "RGB", "1", "P", "LA", "RGBA")
Report = Callable[[str, str], None]  # takes the offending path and what is wrong with it


def list_images(
    root: pathlib.Path, place: str, problem: Report, suffixes: Collection[str] = FRAME_SUFFIXES
) -> dict[str, int] | None:
    """Lists the image files of a dive's folder; other files are none of our business.

    Args:
      root: the release's folder.
      place: the dive's folder, relative to it.
      problem: takes what is wrong.
      suffixes: of image files, lower case.

    Returns:
      {file name: frame number}, or None where there is no file or no folder.
    """
    folder = root / place
    if not folder.is_dir():
        problem(place, "missing folder")
        return None
    files: dict[str, int] = {}
    stems: dict[str, str] = {}
    for entry in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(entry)
        if suffix.lower() not in suffixes or entry.startswith("."):
            continue
        if stem in stems:
            problem(f"{place}/{entry}", f"{stems[stem]} has the same name, expected one of them")
        elif stem.isdecimal() and stem.isascii():
            files[entry], stems[stem] = int(stem), entry
        else:
            problem(f"{place}/{entry}", "extra file, expected a frame number as its name")
    if not files:
        kinds = "JPEG" if suffixes == FRAME_SUFFIXES else "JPEG or PNG"
        problem(place, f"no {kinds} files")
        return None
    return files


def find_video(root: pathlib.Path, place: str, problem: Report) -> str | None:
    """Finds the video of a dive that has no folder of frames.

    Args:
      root: the release's folder.
      place: where the dive's folder of frames would be, relative to it.
      problem: takes what is wrong.

    Returns:
      The video's path relative to the release's folder; None where there is none.
    """
    found = [place + suffix for suffix in VIDEO_SUFFIXES if (root / (place + suffix)).is_file()]
    if found and (root / place).is_dir():
        problem(found[0], "a video beside a folder of frames, expected one of the two")
    if len(found) > 1:
        problem(found[1], f"a second video beside {found[0]}, expected one")
    return found[0] if found else None


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a dive's images are.

    Attributes:
      num_bytes: what the data set takes of them, about.
      images_hash: hash of what the files hold.
      foreground: whether any pixel of any mask is foreground.
      mask_scale: what masks are multiplied by: 255 of PNG files of 0 and 1 alone, else 1.
    """

    num_bytes: int
    images_hash: str
    foreground: bool
    mask_scale: int


def check_images(
    root: pathlib.Path,
    files: Mapping[str, Sequence[str]],
    problem: Report,
    video: str | None = None,
    size: tuple[int, int] | None = None,
) -> Checked:
    """Decodes every frame and mask of a dive and compares their sizes.

    Args:
      root: the release's folder.
      files: by kind (`FRAMES`, `MASKS`) the files in the order of the frames, relative to it; no
        masks where the dive has none, no frames where they are in a video.
      problem: takes what is wrong.
      video: the video's path, relative to the release's folder.
      size: width and height of its frames.
    """
    num_bytes, peak = 0, 0
    digest = hashlib.blake2b(digest_size=16)
    expected = size
    if video is not None:
        _hash_file(root / video, digest)
    kinds = [kind for kind, names in files.items() if names]
    for row in range(max((len(names) for names in files.values()), default=0)):
        sizes = {}
        for kind in kinds:
            name = files[kind][row]
            modes, formats = (("RGB",), _JPEG) if kind == FRAMES else (_MASK_MODES, _ANY)
            try:
                data = (root / name).read_bytes()
                num_bytes += len(data)
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
                found, mode, brightest = _decode(data, formats)
                if kind == MASKS and peak < FOREGROUND:
                    peak = max(peak, brightest)
                    if peak < FOREGROUND:
                        peak = max(peak, _peak(data))
            except ImageError as error:
                problem(name, str(error))
                continue
            except Exception as error:  # broken files make Pillow raise nearly anything
                # Its text for the first case holds the address of a buffer.
                unknown = isinstance(error, UnidentifiedImageError)
                reason = "not whole" if unknown else str(error) or "broken"
                problem(name, f"does not decode ({reason})")
                continue
            sizes[kind] = found
            if mode not in modes:
                problem(name, f"colour mode {mode}, expected {' or '.join(modes)}")
        frame, mask = sizes.get(FRAMES, size), sizes.get(MASKS)
        if frame and expected and frame != expected:
            what = f"{_size(frame)}, the dive's first frame has {_size(expected)}"
            problem(files[FRAMES][row], what)
        if frame and mask and frame != mask:
            what = f"mask of {_size(mask)}, its frame has {_size(frame)}"
            problem(files[MASKS][row], what)
        expected = expected or frame
    # A tool that knows no greys writes 0 and 1. Of a JPEG, 1 may be what compressing left of 0.
    exact = all(name.lower().endswith(".png") for name in files[MASKS])
    scale = 255 if peak == 1 and exact else 1
    return Checked(num_bytes, digest.hexdigest(), peak * scale >= FOREGROUND, scale)


def _hash_file(path: pathlib.Path, digest: Any) -> None:
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)


def _peak(data: bytes) -> int:
    """A mask's largest value at its full size: a small diver is lost in an eighth of it."""
    with open_image(data, _ANY) as image:
        return int(np.asarray(_grey(image)).max(initial=0))


def _grey(image: Image.Image) -> Image.Image:
    """A mask's values: of a palette the numbers of its colours, else the brightness."""
    if image.mode == "P":
        return Image.fromarray(np.asarray(image))
    return image if image.mode == "L" else image.convert("L")


@dataclasses.dataclass(frozen=True)
class GreyMask:
    """A mask file as what the data set stores: a grey one as it is, else a grey PNG of its values.

    TFDS reads it like an open file. The data set's feature has one channel, and a JPEG in colour
    would come out of TFDS's own reader with three.

    Attributes:
      path: the file.
      scale: what its values are multiplied by, see `Checked`.
    """

    path: pathlib.Path
    scale: int = 1

    def read(self) -> bytes:
        """The file's content, or what takes its place."""
        data = self.path.read_bytes()
        with open_image(data, _ANY) as image:
            if image.mode == "L" and self.scale == 1:
                return data
            values = np.asarray(_grey(image)) * np.uint8(self.scale)
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG")
        return buffer.getvalue()


class VideoFrames:
    """The frames of a video, decoded once when the first of them is read, by whichever thread.

    Args:
      path: the video.
      count: how many frames it has.
    """

    def __init__(self, path: pathlib.Path, count: int):
        self._path, self._count = path, count
        self._frames: tuple[bytes, ...] = ()
        self._read: set[int] = set()
        self._lock = threading.Lock()  # frames are resized by several threads

    def __iter__(self) -> Iterator[VideoFrame]:
        return (VideoFrame(self, row) for row in range(self._count))

    def read(self, row: int) -> bytes:
        """A frame as a PNG file; after each was read once, nothing is kept."""
        with self._lock:
            if not self._frames:
                frames = read_video(self._path).clip.frames
                assert isinstance(frames, tuple)
                self._frames = frames
            data = self._frames[row]
            self._read.add(row)
            if len(self._read) == self._count:
                self._frames, self._read = (), set()
            return data


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFrame:
    """One of `VideoFrames`, which TFDS reads like an open file."""

    frames: VideoFrames
    row: int

    def read(self) -> bytes:
        """The frame as a PNG file."""
        return self.frames.read(self.row)


@contextlib.contextmanager
def strict_decoding() -> Iterator[None]:
    """Makes Pillow refuse truncated images, whatever other code has switched on."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode(data: bytes, formats: Collection[str]) -> tuple[tuple[int, int], str, int]:
    """Decodes an image to its end; returns its width and height, its colour mode, and the largest
    of its values, where a JPEG is computed at an eighth of its size."""
    with open_image(data, formats) as image:
        size, mode = image.size, image.mode
        # Every coefficient is still read, so a truncated file still fails, but only an eighth of
        # the width and height is computed: twice as fast on frames of 455 x 256.
        image.draft(mode, (1, 1))
        image.load()
        return size, mode, int(np.asarray(_grey(image)).max(initial=0))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
