"""A dive's images decoded and resized, for the builder config that stores pixels."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from finecausal_jax.data.images import open_image
from finecausal_jax.data.resizing import Resize
from finecausal_jax.data.video_files import Part, read_video
from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.release import ReleaseDive


class ResizedImages:
    """Images that are read and resized when NumPy asks for them as an array.

    Args:
      images: JPEG or PNG files of one size, each a path or an object with `read`; may be none.
      mode: "RGB" or "L" (grey), Pillow's name.
      resize: what to resize to.
    """

    def __init__(self, images: Sequence[Any], mode: str, resize: Resize):
        self._images = images
        self._mode = mode
        self._resize = resize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns uint8 [n, h, w, 3], or [n, h, w] of grey images.

        Raises:
          InputError: resizing does not commute with mirroring at this size.
        """
        if not self._images:
            return np.zeros((0, 1, 1) if self._mode == "L" else (0, 1, 1, 3), np.uint8)
        # Pillow decodes and resizes without Python's lock.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(self._read, self._images))).astype(dtype, copy=False)

    def _read(self, image_file: Any) -> np.ndarray:
        is_path = isinstance(image_file, pathlib.Path)
        with open_image(image_file.read_bytes() if is_path else image_file.read()) as opened:
            image = opened if opened.mode == self._mode else opened.convert(self._mode)
            pixels = self._resize(image)
            # Training mirrors before it resizes, a stored image can only be mirrored after. No
            # size is known where the two differ, and none may slip in.
            mirrored = self._resize(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        if not np.array_equal(mirrored[:, ::-1], pixels):
            raise InputError(
                f"{image_file}: resized to {self._resize} its mirror image is not the mirrored "
                "resized image, expected the same, so that stored pixels can be mirrored exactly: "
                "choose another config.data.resize_width, or build with "
                "--config.data.stored=release"
            )
        return pixels


def resized_bytes(dive: ReleaseDive, resize: Resize) -> int:
    """Returns the size of all resized frames and masks of a dive, bytes."""
    if dive.video is not None:
        found = read_video(dive.video, Part(end=1e-3), resize=resize)
        width, height = resize.size(found.width, found.height)
    else:
        with open_image(dive.frames[0].read_bytes(), ("JPEG",)) as image:
            width, height = resize.size(*image.size)
    return width * height * (3 + 1) * len(dive.info.frame_numbers)
