"""A diver who is small in a still picture stays in view; a camera that moves is told."""

import numpy as np
import pytest

from finecausal_jax.data.following import cut_along, find_diver
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.errors import InputError

SIZE = (12, 5)  # the diver's height and width


def dive(count=40, height=160, width=240):
    """A dark diver who stands, then falls in an arc, before a still hall; and where he is."""
    rng = np.random.default_rng(0)
    hall = rng.integers(150, 200, (height, width, 3))
    hall[:, ::24] -= 80  # pillars
    hall[:, 1::24] -= 80
    frames, places = [], []
    for row in range(count):
        fall = max(0, row - 8) / (count - 9)
        x, y = 60 + round(100 * fall), 30 + round(100 * fall**2)
        image = hall + rng.integers(-3, 4, hall.shape)
        image[y : y + SIZE[0], x : x + SIZE[1]] = (30, 40, 50)
        frames.append(image)
        places.append((x + SIZE[1] / 2, y + SIZE[0] / 2))
    return np.stack(frames).astype(np.uint8), np.array(places)


def test_the_diver_is_found_and_stays_in_the_window():
    frames, places = dive()
    track = find_diver(frames)
    off = np.abs(track.centres * (240, 160) - places)
    assert np.median(off) < 3 and off[4:-4].max() < 12
    assert 0.22 < track.height < 0.3  # three times a diver of 12 to 14 rows, of 160
    cut = cut_along(frames, track, Resize(None, 40))
    assert cut.shape == (40, 40, 60, 3)
    dark = (cut.astype(int).sum(axis=-1) < 250).sum(axis=(1, 2))
    assert (dark > 20).all()  # in every frame, of 60 pixels at this size


def test_a_large_diver_leaves_the_picture_as_it_is():
    frames, _ = dive()
    frames = frames[:, 20:80, 50:140]  # most of the picture is the arc
    track = find_diver(frames)
    whole = cut_along(frames, type(track)(track.centres, 1.0), Resize(30, 20))
    want = np.stack([cut_along(frames, type(track)(track.centres * 0 + 0.5, 1.0), Resize(30, 20))])
    np.testing.assert_array_equal(whole, want[0])


def test_who_cannot_be_followed():
    frames, _ = dive(count=12)
    with pytest.raises(InputError, match="nothing moves in three quarters of the frames"):
        find_diver(np.repeat(frames[:1], 12, axis=0))
    hall = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 255, (20, 30, 3)), 8, 0), 8, 1)
    panned = np.stack([np.roll(hall.astype(np.uint8), 9 * row, axis=1) for row in range(12)])
    with pytest.raises(InputError, match="the camera moves"):
        find_diver(panned)
