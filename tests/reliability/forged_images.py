"""Small images whose headers ask for much."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(width: int = 6, height: int = 4, form: str = "JPEG", **options: object) -> bytes:
    """An honest image of noise."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def many_scans(count: int, width: int = 6, height: int = 4) -> bytes:
    """A progressive JPEG with one of its scans repeated."""
    data = picture(width, height, progressive=True)
    scan = data.rindex(b"\xff\xda")
    return data[:scan] + data[scan:-2] * count + data[-2:]


def png_of(width: int, height: int) -> bytes:
    """A PNG file whose header has a size that its content has not."""
    data = picture(form="PNG")
    # Chunk length and name, width and height and five bytes more, then their sum.
    header = data[12:16] + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG file whose header has a size that its content has not."""
    data = bytearray(picture())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)
