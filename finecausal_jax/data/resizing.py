"""The resize before the crop: one rule for the pipeline and for the builder that stores its result.

Nothing random comes before it but the flip, which commutes with it: PIL's filter weighs a column
and its mirror image alike. So frames may be stored resized, unflipped and uncropped, and the
pipeline's pixels stay the same, bit for bit.
"""

from __future__ import annotations

import dataclasses

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
        return np.asarray(image.resize(self.size(*image.size), Image.Resampling.BILINEAR))

    def __str__(self) -> str:
        if self.width is None:
            return f"height {self.height}, aspect kept"
        return f"{self.width} x {self.height}"
