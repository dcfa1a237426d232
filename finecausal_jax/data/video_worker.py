"""The process that decodes a video file for `video_files`: an order on stdin, an answer on stdout.

The answer is one JSON object: what was found, or {"error": the end of a sentence about the file}.
Frames go into files. Nothing here is trusted by the other side but that.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

_THREADS = 2


class Refused(Exception):
    """The text is the end of a sentence about the file."""


def main() -> int:
    """Carries out the order; returns the exit code."""
    order = json.load(sys.stdin)
    # What libraries print belongs to nobody.
    answer, sys.stdout = sys.stdout, sys.stderr
    _limit(order["limits"])
    try:
        told = _decode(order)
    except Refused as error:
        told = {"error": str(error)}
    except MemoryError:
        told = {"error": "needs too much memory to decode: store it smaller"}
    json.dump(told, answer)
    answer.flush()
    return 0


def _limit(limits: dict[str, Any]) -> None:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = limits["memory_bytes"]
    soft = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_AS, (soft, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = math.ceil(limits["seconds"]) * _THREADS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))


def _decode(order: dict[str, Any]) -> dict[str, Any]:
    import av

    av.logging.set_level(None)
    # Through a file that is already open, and with no protocol allowed: playlists and the like
    # name other files and addresses, which must not be opened.
    with open(order["path"], "rb") as file:
        try:
            container = av.open(file, mode="r", options={"protocol_whitelist": "none"})
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise Refused(
                f"is no video that FFmpeg can read ({_reason(error)}): expected a file such as "
                "MP4, MOV or MKV"
            ) from error
        with container:
            return _frames(container, order)


def _frames(container: Any, order: dict[str, Any]) -> dict[str, Any]:
    resize = order["resize"]
    if resize is not None:
        return _keep(container, order, _Pixels(order["output"], resize))
    with open(order["output"], "wb") as file:
        return _keep(container, order, _Pngs(file, order["limits"]["encoded_bytes"]))


def _keep(container: Any, order: dict[str, Any], store: Any) -> dict[str, Any]:
    """Hands the frames of the part to a store; returns what is said of them."""
    import numpy as np

    limits = order["limits"]
    first, rotation, size, times, passed = None, 0, None, [], 0
    stream = _stream(container)
    begin, end = order["start"] or 0.0, order["end"] if order["end"] is not None else math.inf
    for frame in _shown(container, stream):
        if frame.width * frame.height > limits["pixels"]:
            raise Refused(
                f"has frames of {frame.width} x {frame.height} pixels, expected at most "
                f"{limits['pixels']}: store it smaller"
            )
        time = float(frame.time) if frame.time is not None else None
        if time is None:  # a raw stream has no times, but a rate
            time = (len(times) + passed) / float(stream.average_rate or stream.guessed_rate or 25)
        first = time if first is None else first
        time -= first
        if time < begin - 1e-6:
            passed += 1
            if passed > limits["passed"]:
                raise Refused(
                    f"has more than {limits['passed']} frames before the start: cut it to the dive"
                )
            continue
        if time > end + 1e-6:
            break
        if times and time <= times[-1]:
            continue  # shown at no time of its own
        if len(times) == limits["frames"]:
            raise Refused(
                f"has more than {limits['frames']} frames: cut it to the dive, or say where it "
                "starts and ends"
            )
        rotation = int(frame.rotation or 0) if not times else rotation
        image = _upright(frame, rotation)
        if order["crop"] is not None:
            left, top, width, height = order["crop"]
            if left + width > image.shape[1] or top + height > image.shape[0]:
                raise Refused(
                    f"has frames of {image.shape[1]} x {image.shape[0]} pixels, the crop "
                    f"{left},{top},{width},{height} (left,top,width,height) leaves them"
                )
            image = image[top : top + height, left : left + width]
        size = size or image.shape[:2]
        if image.shape[:2] != size:
            raise Refused(
                f"changes its size from {size[1]} x {size[0]} to {image.shape[1]} x "
                f"{image.shape[0]} pixels at {time:.2f} s: expected one size, cut it to the dive"
            )
        store.add(np.ascontiguousarray(image))
        times.append(time)
    if not times:
        seconds = f" between {begin:g} and {end:g} seconds" if first is not None else ""
        raise Refused(f"has no frame{seconds} that can be decoded: expected a whole video file")
    assert size is not None
    return {
        "times": times,
        "rotation": rotation,
        "width": size[1],
        "height": size[0],
        "codec": stream.codec_context.name,
        "sizes": store.finish(),
    }


def _stream(container: Any) -> Any:
    """The video, which a cover picture is not."""
    found = [one for one in container.streams.video if not _is_picture(one)]
    if not found:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise Refused(f"has no video stream (it has {', '.join(kinds)}): expected a video")
    found[0].thread_type = "AUTO"
    found[0].codec_context.thread_count = _THREADS
    return found[0]


def _is_picture(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _shown(container: Any, stream: Any) -> Iterator[Any]:
    """Frames in the order they are shown; damage amid them is an error, not a gap."""
    import av

    try:
        yield from container.decode(stream)
    except (av.error.FFmpegError, ValueError) as error:
        raise Refused(
            f"is damaged ({_reason(error)}): expected a whole video file, store it again"
        ) from error


def _upright(frame: Any, rotation: int) -> Any:
    import numpy as np

    image = frame.to_ndarray(format="rgb24")
    if rotation % 90:
        raise Refused(f"asks to be turned by {rotation} degrees, expected 0, 90, 180 or 270")
    return np.rot90(image, rotation // 90)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]


class _Pixels:
    """Keeps frames resized."""

    def __init__(self, output: str, resize: dict[str, Any]):
        from finecausal_jax.data.resizing import Resize

        self._output, self._resize, self._frames = output, Resize(**resize), []

    def add(self, image: Any) -> None:
        from PIL import Image

        self._frames.append(self._resize(Image.fromarray(image)))

    def finish(self) -> list[int]:
        import numpy as np

        np.save(self._output + ".npy", np.stack(self._frames))
        return []


class _Pngs:
    """Keeps frames as PNG files, one behind the other."""

    def __init__(self, file: BinaryIO, most: int):
        self._file, self._most = file, most
        self._sizes: list[int] = []

    def add(self, image: Any) -> None:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=1)
        self._sizes.append(self._file.write(file.getbuffer()))
        if sum(self._sizes) > self._most:
            raise Refused(
                f"takes more than {self._most / 1e9:.1f} GB as PNG files: cut it to the dive, or "
                "store it smaller"
            )

    def finish(self) -> list[int]:
        return self._sizes


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # FFmpeg's threads need not be waited for
