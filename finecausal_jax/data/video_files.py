"""Clips from video files, by FFmpeg (PyAV).

A video from elsewhere may be damaged or hostile, and decoders are large C libraries. So a file is
decoded in a process of its own (`video_worker`), which has limits of time and memory: if it
crashes, runs away or is killed, the clip is refused and this process goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from jaxtyping import Float64

from finecausal_jax.data.clips import Clip, Key
from finecausal_jax.data.images import MOST_PIXELS
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.errors import InputError

SUFFIXES = (".mkv", ".mp4", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")
_TICKS = 1_000_000  # a second, of a clip whose frames do not come evenly
_EVEN = 0.25  # of the time between two frames, up to which they do


@dataclasses.dataclass(frozen=True)
class VideoLimits:
    """How much a video file may hold, and cost.

    Attributes:
      frames: kept ones; 3,000 are 100 seconds at 30 a second.
      passed: frames before the start, which have to be decoded to be passed over.
      pixels: of a frame; one of an 8K video has 33.2 million.
      encoded_bytes: of all kept frames together, where they are not resized.
      seconds: for decoding.
      memory_bytes: address space of the process that decodes.
    """

    frames: int = 3000
    passed: int = 20_000
    pixels: int = MOST_PIXELS
    encoded_bytes: int = 2**31
    seconds: float = 300.0
    memory_bytes: int = 4 * 2**30


LIMITS = VideoLimits()


@dataclasses.dataclass(frozen=True)
class Part:
    """Which part of a video is the dive.

    Attributes:
      start, end: seconds from the video's first frame; None for its beginning, or its end.
      crop: (left, top, width, height) in pixels of the picture as it is shown; None for all.

    Raises:
      InputError: the end is not after the start, or the crop is no rectangle.
    """

    start: float | None = None
    end: float | None = None
    crop: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        begin = self.start or 0.0
        if begin < 0 or (self.end is not None and self.end <= begin):
            raise InputError(
                f"the dive goes from {begin:g} to {self.end} seconds: expected an end after the "
                "start, and neither below 0"
            )
        if self.crop is not None:
            left, top, width, height = self.crop
            if left < 0 or top < 0 or width < 1 or height < 1:
                raise InputError(
                    f"the crop is {self.crop}, expected left,top,width,height in pixels, the first "
                    "two 0 or more, the others 1 or more"
                )


WHOLE = Part()


@dataclasses.dataclass(frozen=True, eq=False)
class VideoClip:
    """A clip with what its file says of it.

    Attributes:
      clip: its images: resized pixels, or PNG files.
      times: float64 [n], when each frame is shown, seconds from the video's first frame.
      width, height: of a frame as it is shown, upright and cropped, pixels.
      rotation: degrees by which the file says to turn its frames counter-clockwise.
      codec: name of the video's format, such as h264.
    """

    clip: Clip
    times: Float64[np.ndarray, " n"]
    width: int
    height: int
    rotation: int
    codec: str


def read_video(
    path: str | os.PathLike[str],
    part: Part = WHOLE,
    *,
    resize: Resize | None = None,
    key: Key | None = None,
    limits: VideoLimits = LIMITS,
) -> VideoClip:
    """Reads a video file: frames in the order they are shown, upright.

    Args:
      path: the file, of any format that FFmpeg reads.
      part: which part of it.
      resize: resize the frames at once, with the pipeline's filter, and keep pixels; None keeps
        every frame as a PNG file, exactly as decoded, which takes long and much room.
      key: the clip's name; None is the file's name and 0.
      limits: how much it may hold and cost.

    Returns:
      The clip. Its frames are numbered from 0 if they come evenly, else timed in microseconds.

    Raises:
      InputError: there is no such file, it has no video, nothing is left of it, it is damaged, too
        large, or cannot be decoded within the limits.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        what = "is a folder, expected a video file" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty, expected a video file")
    with tempfile.TemporaryDirectory() as folder:
        order = {
            "path": str(path.absolute()),
            "start": part.start,
            "end": part.end,
            "crop": part.crop,
            "resize": None if resize is None else dataclasses.asdict(resize),
            "limits": dataclasses.asdict(limits),
            "output": os.path.join(folder, "frames"),
        }
        told = _decode(path, order, limits)
        times = np.array(told["times"], np.float64)
        if resize is not None:
            frames: Any = np.load(order["output"] + ".npy", allow_pickle=False)
        else:
            frames = _png_files(pathlib.Path(order["output"]), told["sizes"])
    numbers, timed = _numbers(times)
    clip = Clip(key or (path.name, 0), numbers, frames, None, resize, timed)
    clip.check()
    shown = {name: told[name] for name in ("width", "height", "rotation", "codec")}
    return VideoClip(clip, times, **shown)


def _decode(path: pathlib.Path, order: dict[str, Any], limits: VideoLimits) -> dict[str, Any]:
    """Lets a process decode; returns what it says."""
    command = [sys.executable, "-m", "finecausal_jax.data.video_worker"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=limits.seconds,
            check=False,
            # The package may lie in the working directory alone.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{path} was not decoded within {limits.seconds:g} seconds: cut it to the dive, or "
            "store it smaller"
        ) from error
    try:
        told = json.loads(done.stdout)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        why = f"ended with code {done.returncode}" + (f" ({last[0][:200]})" if last else "")
        raise InputError(
            f"{path} cannot be decoded: the process that tried {why}. The file may be damaged, or "
            f"need more than {limits.memory_bytes / 2**30:g} GB: store it again, or smaller"
        )
    if "error" in told:
        raise InputError(f"{path} {told['error']}")
    return told


def _png_files(path: pathlib.Path, sizes: list[int]) -> tuple[bytes, ...]:
    content = memoryview(path.read_bytes())
    ends = np.cumsum(sizes).tolist()
    return tuple(bytes(content[end - size : end]) for size, end in zip(sizes, ends, strict=True))


def _numbers(times: Float64[np.ndarray, " n"]) -> tuple[np.ndarray, bool]:
    """Frame numbers from 0 where frames come evenly, else times; and which of the two."""
    count = len(times)
    even = np.linspace(times[0], times[-1], count)
    if count < 3 or np.abs(times - even).max() < _EVEN * (times[-1] - times[0]) / (count - 1):
        return np.arange(count), False
    return np.round(_TICKS * (times - times[0])).astype(np.int64), True
