"""Encoded images: what a file is, and whether its header promises to be decoded at bounded cost."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection

from PIL import Image

MOST_PIXELS = 2**25  # a frame of an 8K video has 33.2 million
# A progressive JPEG is decoded once for each of its scans; writers make about ten.
MOST_SCANS = 100
MOST_SCANNED_PIXELS = 2**28
_KINDS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%!PS", "PostScript"),
    (b"%PDF", "PDF"),
    (b"PK", "zip"),
)


class ImageError(ValueError):
    """An image that is not decoded; the text is the end of a sentence about it: "is empty"."""


def open_image(
    data: bytes, formats: Collection[str] = ("JPEG", "PNG"), most_pixels: int = MOST_PIXELS
) -> Image.Image:
    """Opens an image for decoding, once its header was looked at.

    Args:
      data: the file's content.
      formats: "JPEG", "PNG" or both.
      most_pixels: how many it may have.

    Returns:
      Pillow's image, of which no pixel is decoded yet.

    Raises:
      ImageError: it is of another kind, or has more pixels or scans than the limits have it.
    """
    kind = kind_of(data)
    if kind not in formats:
        raise ImageError(f"is {kind_in_words(data)}, expected {' or '.join(formats)}")
    size = _jpeg_size(data) if kind == "JPEG" else _png_size(data)
    if size is not None:
        # Before Pillow sees it, which warns of large ones, and of some refuses only then.
        width, height = size
        if width * height > most_pixels:
            raise ImageError(
                f"is {width} x {height} pixels, expected at most {most_pixels}: store the frames "
                "smaller"
            )
        scans = data.count(b"\xff\xda") if kind == "JPEG" else 1
        if scans > MOST_SCANS or scans * width * height > MOST_SCANNED_PIXELS:
            raise ImageError(
                f"is a JPEG of {scans} scans of {width} x {height} pixels, expected at most "
                f"{min(MOST_SCANS, MOST_SCANNED_PIXELS // max(1, width * height))} scans of that "
                "size: store it as a baseline JPEG"
            )
    return Image.open(io.BytesIO(data), formats=(kind,))


def kind_of(data: bytes) -> str:
    """The kind of file by its first bytes: "JPEG", "PNG" and so on; empty for an unknown one."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "HTML"
    return next((kind for begin, kind in _KINDS if data.startswith(begin)), "")


def kind_in_words(data: bytes) -> str:
    """What a file is, for an error: "a PNG file", "an HTML page"."""
    if not data:
        return "empty"
    kind = kind_of(data)
    if kind == "HTML":
        return "an HTML page, as a failed download leaves it"
    return f"a {kind} file" if kind else "no image file"


def _png_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24:
        return None  # Pillow says what is wrong
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by the frame header; None where there is none, of which Pillow tells."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without content
            at += 2
        elif marker in (0xD9, 0xDA):
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
