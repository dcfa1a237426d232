"""Small videos that go into a page, as data."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import UInt8


def mp4(frames: UInt8[np.ndarray, "n h w 3"], rate: int = 25) -> str:
    """Frames as the address of a `video`: H.264, every frame whole, to be shown at once.

    Args:
      frames: of even height and width; another row or column is cut off.
      rate: frames a second.
    """
    import av

    file = io.BytesIO()
    height, width = (size - size % 2 for size in frames.shape[1:3])
    options = {"crf": "27", "preset": "medium", "g": "1", "movflags": "faststart"}
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 2
        for frame in frames:
            image = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return "data:video/mp4;base64," + base64.b64encode(file.getvalue()).decode()
