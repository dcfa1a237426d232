"""Frames and masks that were cut, changed or are something else, or ask for memory or minutes."""

from __future__ import annotations

import functools
import io
import pathlib
import random
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from finecausal_jax.data.clips import Clip, read_folder
from finecausal_jax.runtime.errors import InputError
from tests.reliability.case import EITHER, ERROR, READ, Case
from tests.reliability.forged_images import jpeg_of, many_scans, picture, png_of
from tfds_finecausal.release_images import FRAMES, MASKS, check_images, strict_decoding

FLIPS, CUTS = 10, 8


def cases(folder: pathlib.Path, seed: int) -> Iterator[Case]:
    """Makes the inputs; see `damaged_runs.cases`. Each is read as a folder of frames, as a frame of
    a release that is built, and as a stored one of a built data set."""
    rng = random.Random(seed)
    readers = {"image of a folder": _as_folder, "frame of a release": _as_release}
    readers["frame of a data set"] = _as_stored
    for number, (name, data, told) in enumerate(_inputs(rng)):
        place = folder / str(number)
        place.mkdir()
        (place / "00001.jpg").write_bytes(data)
        for kind, read in readers.items():
            right = told
            # A release's frames are JPEG files in colour.
            if kind == "frame of a release" and not data.startswith(b"\xff\xd8"):
                right = ERROR
            yield Case(kind, name, functools.partial(read, place), right)


def _inputs(rng: random.Random) -> Iterator[tuple[str, bytes, str]]:
    jpeg, png = picture(120, 80), picture(120, 80, "PNG")
    yield "a JPEG", jpeg, READ
    yield "a PNG", png, READ
    yield "progressive", picture(120, 80, progressive=True), READ
    for kind, whole in (("JPEG", jpeg), ("PNG", png)):
        for number in range(FLIPS):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            yield f"{kind} flipped {number}", bytes(data), EITHER
        for number in range(CUTS):
            # The last bytes of either say only that it is over.
            yield f"{kind} cut {number}", whole[: rng.randrange(len(whole) - 40)], ERROR
    yield "empty", b"", ERROR
    yield "HTML", b"<!DOCTYPE html><html><body>404</body></html>", ERROR
    yield "noise", rng.randbytes(5000), ERROR
    yield "zeros", bytes(5000), ERROR
    yield "PostScript, which would be run", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) (w) file", ERROR
    for form in ("BMP", "GIF", "TIFF", "WebP", "ICO", "PPM", "TGA"):
        yield f"a {form}", picture(64, 64, form), ERROR
    for side in (6000, 13_000, 65_000):
        yield f"a JPEG of {side} x {side} pixels by its header", jpeg_of(side, side), ERROR
        yield f"a PNG of {side} x {side} pixels by its header", png_of(side, side), ERROR
    yield "a PNG of 2**31 x 2**31 pixels", png_of(2**31 - 1, 2**31 - 1), ERROR
    yield "13,000 x 13,000 grey pixels", _large(), ERROR
    yield "4,000 scans", many_scans(4000, 256, 256), ERROR
    yield "50 scans of many pixels", many_scans(50, 4000, 3000), ERROR
    yield "a PNG with a compressed bomb for text", _bomb(png), EITHER
    yield "a JPEG of no pixels", jpeg_of(0, 0), ERROR
    yield "a JPEG without end of its segments", b"\xff\xd8" + b"\xff\xe0\x00\x02" * 10**6, ERROR


def _large() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((13_000, 13_000), np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _bomb(png: bytes) -> bytes:
    import zlib

    content = b"Comment\x00\x00" + zlib.compress(bytes(10**8), 9)
    chunk = b"zTXt" + content
    chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + chunk + png[33:]


def _as_folder(folder: pathlib.Path) -> None:
    read_folder(folder)


def _as_release(folder: pathlib.Path) -> None:
    problems: list[str] = []
    with strict_decoding():
        check_images(
            folder.parent,
            {FRAMES: [f"{folder.name}/00001.jpg"], MASKS: []},
            lambda path, what: problems.append(f"{path}: {what}"),
        )
    if problems:
        raise InputError("; ".join(problems))


def _as_stored(folder: pathlib.Path) -> None:
    data = (folder / "00001.jpg").read_bytes()
    Clip(("Final", 1), np.array([1]), (data,)).decode(0, "frame")
