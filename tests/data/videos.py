"""Video files for tests, made with PyAV."""

import fractions
import struct

import numpy as np


def frames(count=24, height=48, width=64, seed=0):
    """Moving squares on a gradient, uint8 [n, h, w, 3]."""
    rng = np.random.default_rng(seed)
    base = np.linspace(30, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    images = np.repeat(np.broadcast_to(base, (height, width, 3))[None], count, axis=0).copy()
    images += rng.integers(0, 8, images.shape)
    for row in range(count):
        x = 4 + row
        images[row, 10:22, x : x + 10] = (240, 60, 20)
    return images.astype(np.uint8)


def write(path, images, codec="ffv1", pixels="bgr0", rate=25, times=None, options=None):
    """Encodes images; `times` in milliseconds for a variable rate."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = pixels
        if times is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for row, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[row]), fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path, degrees):
    """Writes a display matrix into an MP4, as phones do: clockwise, 90, 180 or 270 degrees."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0  # version
    matrix = at + 40
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    values = (a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *values)
    path.write_bytes(bytes(data))
    return path
