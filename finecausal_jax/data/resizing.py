"""What is done to every image of a clip: one resize, a crop, a flip.

The resize is one rule for the pipeline and for the builder that stores its result.

Nothing random comes before it but the flip, which commutes with it: PIL's filter weighs a column
and its mirror image alike. So frames may be stored resized, unflipped and uncropped, and the
pipeline's pixels stay the same, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Resize:
    """The size that every image is resized to, with PIL's bilinear filter.

    Attributes:
      width: pixels; None keeps the image's aspect ratio.
      height: pixels.
    """

    width: int | None
    height: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Returns the (width, height) that an image of `width` x `height` is resized to."""
        if self.width is None:
            return round(width * self.height / height), self.height
        return self.width, self.height

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Returns the resized image, uint8 [h, w, 3] of an RGB image, [h, w] of a grey one."""
        return self.rows(image, 0, self.height)

    def rows(self, image: Image.Image, first: int, end: int) -> np.ndarray:
        """Returns only rows `first` to `end` (exclusive) of the resized image.

        Image rows that the filter does not reach from there are not resized; for the reference's
        crop these are two fifths of them.
        """
        width, height = self.size(*image.size)
        scale = image.height / height
        reach = max(scale, 1.0) + 1  # half the filter's support, and a row for rounding
        top = max(0, math.floor((first + 0.5) * scale - reach))
        bottom = min(image.height, math.ceil((end - 0.5) * scale + reach))
        # Parity: along the width first and rounded in between, as older versions of PIL do for
        # every size; newer ones take the cheaper order, which rounds differently.
        strip = image.crop((0, top, image.width, bottom))
        strip = strip.resize((width, bottom - top), Image.Resampling.BILINEAR)
        # The second step sees the whole height: PIL's `box` would compute the filter from other
        # numbers.
        columns = Image.new(image.mode, (width, image.height))
        columns.paste(strip, (0, top))
        return np.asarray(columns.resize((width, height), Image.Resampling.BILINEAR))[first:end]

    def __str__(self) -> str:
        if self.width is None:
            return f"height {self.height}, aspect kept"
        return f"{self.width} x {self.height}"


@dataclasses.dataclass(frozen=True)
class Cut:
    """Resize, crop and flip, the same for all images of a clip.

    The reference flips first. The flip commutes with the resize, and last it has the fewest pixels
    to move; `left` is therefore that of the image before the flip.
    """

    resize: Resize
    flip: bool
    left: int
    top: int
    size: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resizes and crops an image."""
        pixels = self.resize.rows(image, self.top, self.top + self.size)
        return pixels[:, self.left : self.left + self.size]

    def crop(self, images: np.ndarray) -> np.ndarray:
        """Crops resized images uint8 [n, h, w, ...]; a view."""
        rows = images[:, self.top : self.top + self.size]
        return rows[:, :, self.left : self.left + self.size]

    def mirrored(self, images: np.ndarray) -> np.ndarray:
        """Flips cropped images uint8 [n, h, w, ...], if this clip is."""
        if not self.flip:
            return images
        turned = images[:, :, ::-1]
        if turned.ndim == 3:
            return turned
        # NumPy copies groups of three bytes backwards six times as slowly as single ones.
        return np.stack([turned[..., channel] for channel in range(turned.shape[3])], axis=-1)
