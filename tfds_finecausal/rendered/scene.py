"""Draws a rendered dive: camera, diver, splash, and the masks of diver and splash."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw

from tfds_finecausal.rendered.body import JOINTS
from tfds_finecausal.rendered.motion import Motion, Timeline
from tfds_finecausal.rendered.venue import (
    VISIBLE_METRES,
    WATER_CAMERA,
    Colour,
    Venue,
    keep_in_reach,
    paint_canvas,
    rgb,
)

SPLASH_WIDTH = 3.2  # metres, the widest splash
SPLASH_HEIGHT = 1.35  # metres, the highest
MOST_DROPS = 80

# Limbs as (joint, joint, radius, radius) in units of body height; drawn a little stouter than life
# because a limb of a pixel disappears.
_LEG = (("hip", "knee", 0.05, 0.036), ("knee", "ankle", 0.036, 0.022), ("ankle", "toe", 0.02, 0.01))
_ARM = (("shoulder", "elbow", 0.03, 0.024), ("elbow", "hand", 0.024, 0.018))
_TORSO = (("hip", "waist", 0.062, 0.058), ("waist", "shoulder", 0.058, 0.066))
_HEAD_RADIUS = 0.062


class Picture(NamedTuple):
    """A frame, before it is compressed.

    Attributes:
      frame: uint8 [h, w, 3], RGB.
      diver: uint8 [h, w], 255 on the diver, 0 elsewhere, between the two along the outline.
      splash: the same of the water thrown up.
    """

    frame: UInt8[np.ndarray, "h w 3"]
    diver: UInt8[np.ndarray, "h w"]
    splash: UInt8[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class Looks:
    """A diver's colours."""

    skin: Colour
    hair: Colour


def draw_looks(rng: np.random.Generator) -> Looks:
    """Draws a diver's colours."""
    tone = rng.uniform(0.45, 1.0)
    skin = (0.93 * tone, 0.74 * tone**1.15, 0.62 * tone**1.3)
    red, green, blue = (rng.uniform(0.05, 0.4) * np.array((1.0, 0.8, 0.6))).tolist()
    return Looks(skin, (red, green, blue))


def draw_frames(
    motion: Motion,
    timeline: Timeline,
    venue: Venue,
    looks: Looks,
    splash: Splash,
    shake: np.ndarray,
    *,
    width: int,
    height: int,
    body_height: float,
) -> Iterator[Picture]:
    """Draws every frame of a dive.

    Args:
      motion: joint positions.
      timeline: when the hands touch the water.
      venue: looks of the competition.
      looks: the diver's colours.
      splash: the water thrown up.
      shake: float64 [n, 2], the camera's jitter, of deviation 1; see `draw_shake`.
      width: frame width, pixels.
      height: frame height, pixels.
      body_height: the diver's height, metres.
    """
    # Small frames need finer supersampling for limbs of a pixel.
    finer = 3 if height < 160 else 2
    scale = finer * height * venue.camera.zoom / VISIBLE_METRES
    side = -1.0 if venue.camera.mirrored else 1.0
    camera = _camera_path(motion, timeline, venue) + venue.camera.shake * shake
    canvas = paint_canvas(venue, scale, width / height)
    size = (width * finer, height * finer)
    for number in range(timeline.frames):
        # Whole canvas pixels, so that the background is cropped and never resampled.
        corner = (
            round((side * camera[number, 0] - canvas.left) * scale - 0.5 * size[0]),
            round((canvas.top - camera[number, 1]) * scale - 0.5 * size[1]),
        )
        origin = np.array((canvas.left * scale + corner[0], -canvas.top * scale + corner[1]))
        frame = canvas.image.crop((*corner, corner[0] + size[0], corner[1] + size[1]))
        diver, water = Image.new("L", size), Image.new("L", size)
        joints = motion.joints[number] * (side, 1.0, 1.0)
        if joints[:, 1].max() > 0.0:
            _draw_diver(frame, diver, joints, origin, scale, body_height, venue, looks)
            _hide_below_water(frame, diver, canvas, corner, origin)
        since = (number - timeline.touch) / (timeline.frames - timeline.touch)
        if since >= 0.0:
            point = (side * motion.entry_point * scale - origin[0], -origin[1])
            splash.draw(water, since, point, scale)
            frame.paste(rgb((0.93, 0.96, 0.98), venue.lighting), (0, 0), water)
            diver = ImageChops.multiply(diver, ImageChops.invert(water))
        yield Picture(*(np.asarray(one.reduce(finer)) for one in (frame, diver, water)))


def draw_shake(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a camera's jitter, float64 [n, 2], smooth over time and about 1 large."""
    jitter = rng.standard_normal((frames + 4, 2))
    return np.stack(
        [np.convolve(jitter[:, axis], np.full(5, 0.45), "valid") for axis in (0, 1)], -1
    )


def _camera_path(motion: Motion, timeline: Timeline, venue: Venue) -> np.ndarray:
    """Returns the camera's centre, float64 [n, 2] metres: on the diver, then on the splash."""
    target = motion.centre.copy()
    target[timeline.touch :, 0] = motion.entry_point
    target[:, 1] = np.maximum(target[:, 1], WATER_CAMERA)
    window = np.hanning(9)[1:-1]
    padded = np.pad(target, ((3, 3), (0, 0)), mode="edge")
    smooth = [np.convolve(padded[:, axis], window / window.sum(), "valid") for axis in (0, 1)]
    return keep_in_reach(np.stack(smooth, -1), venue.board_height)


def _draw_diver(frame, mask, joints, origin, scale, body_height, venue, looks) -> None:
    """Draws the limbs from the farthest to the nearest, on the frame and on the mask."""
    points = joints[:, :2] * (scale, -scale) - origin
    depth = joints[:, 2]
    at = {name: index for index, name in enumerate(JOINTS)}
    unit = scale * body_height
    suit, full = venue.clothing.suit, venue.clothing.full
    pens = (ImageDraw.Draw(frame), ImageDraw.Draw(mask))
    parts: list[tuple[float, int, int, float, float, Colour]] = []
    for side in ("left", "right"):
        for first, last, start, end in (*_LEG, *_ARM):
            i, j = at[f"{first}_{side}"], at[f"{last}_{side}"]
            colour = suit if first == "hip" and not full else looks.skin
            parts.append((0.5 * (depth[i] + depth[j]), i, j, start, end, colour))
    for first, last, start, end in _TORSO:
        i, j = at[first], at[last]
        colour = suit if first == "hip" or full else looks.skin
        parts.append((0.5 * (depth[i] + depth[j]), i, j, start, end, colour))
    parts.append((depth[at["head"]], at["shoulder"], at["head"], 0.03, 0.03, looks.skin))
    parts.sort(key=lambda part: part[0])
    half = 0.1 * body_height
    for far, i, j, start, end, colour in parts:
        light = venue.lighting * (1.0 + 0.18 * float(np.clip(far / half, -1.0, 1.0)))
        # The suit reaches down a third of the thigh only.
        if JOINTS[i].startswith("hip_") and colour is suit:
            middle = points[i] + 0.4 * (points[j] - points[i])
            bare = rgb(looks.skin, light)
            _limb(pens, points[i], points[j], start * unit, end * unit, bare)
            _limb(pens, points[i], middle, start * unit, start * unit, rgb(colour, light))
        else:
            _limb(pens, points[i], points[j], start * unit, end * unit, rgb(colour, light))
    neck, head = points[at["shoulder"]], points[at["head"]]
    radius = _HEAD_RADIUS * unit
    _disc(pens, head, radius, rgb(looks.skin, venue.lighting))
    crown = head + 0.3 * (head - neck)
    _disc(pens[:1], crown, 0.75 * radius, rgb(looks.hair, venue.lighting))


def _limb(pens, start, end, radius, tip, colour) -> None:
    """Fills a tapered limb with round ends."""
    along = end - start
    length = float(np.hypot(*along)) or 1.0
    across = np.array((-along[1], along[0])) / length
    corners = [
        tuple(start + across * radius), tuple(end + across * tip),
        tuple(end - across * tip), tuple(start - across * radius),
    ]  # fmt: skip
    for pen, fill in zip(pens, (colour, 255), strict=False):
        pen.polygon(corners, fill=fill)
    _disc(pens, start, radius, colour)
    _disc(pens, end, tip, colour)


def _disc(pens, centre, radius, colour) -> None:
    box = (*(centre - radius), *(centre + radius))
    for pen, fill in zip(pens, (colour, 255), strict=False):
        pen.ellipse(box, fill=fill)


def _hide_below_water(frame, mask, canvas, corner, origin) -> None:
    """Puts the water back over whatever of the diver lies below its surface."""
    row = round(-origin[1])
    if row >= frame.height:
        return
    row = max(row, 0)
    box = (corner[0], corner[1] + row, corner[0] + frame.width, corner[1] + frame.height)
    frame.paste(canvas.image.crop(box), (0, row))
    mask.paste(0, (0, row, mask.width, mask.height))


class Splash:
    """The water thrown up: a ragged crown, drops, and foam that stays till the end."""

    def __init__(self, amount: float, rng: np.random.Generator):
        """Draws its shape, which `amount` (0 to 1) only makes larger."""
        self._height = 0.05 + (SPLASH_HEIGHT - 0.05) * amount
        self._width = 0.12 + (SPLASH_WIDTH - 0.12) * amount
        self._amount = amount
        self._spikes = rng.uniform(0.55, 1.0, 25)
        self._phases = rng.uniform(0.0, 2.0 * np.pi, 25)
        drops = rng.uniform(size=(MOST_DROPS, 4))[: 10 + round((MOST_DROPS - 10) * amount)]
        self._drop_start = 0.6 * drops[:, 0]
        self._drop_side = 2.0 * drops[:, 1] - 1.0
        self._drop_rise = 0.7 + 0.55 * drops[:, 2]
        self._drop_size = 0.018 + 0.027 * drops[:, 3]

    def draw(
        self, layer: Image.Image, since: float, point: tuple[float, float], scale: float
    ) -> None:
        """Draws it, `since` (0 to 1) after the touch, around the pixel `point`."""
        pen = ImageDraw.Draw(layer)
        spread = 0.35 + 0.65 * min(1.0, since / 0.3)
        fade = float(np.exp(-1.0 * max(0.0, since - 0.2)))
        rise = min(1.0, since / 0.1) * float(np.exp(-1.6 * max(0.0, since - 0.3)))
        x, y = point
        half = 0.5 * self._width * scale * spread
        # Foam lies on the water, seen at a low angle.
        pen.ellipse(
            (x - 1.15 * half, y - 0.16 * half, x + 1.15 * half, y + 0.3 * half),
            fill=round(225 * fade),
        )
        steps = np.linspace(-1.0, 1.0, len(self._spikes))
        ragged = self._spikes * (0.8 + 0.2 * np.sin(self._phases + 14.0 * since))
        bell = (1.0 - steps**2) ** 0.6
        tops = y - self._height * rise * scale * ragged * bell
        crown = [(x - half, y), *zip((x + half * steps).tolist(), tops.tolist(), strict=True)]
        pen.polygon([*crown, (x + half, y)], fill=round(245 * max(fade, 0.35)))
        age = (since - self._drop_start) / 0.5
        flying = (age > 0.0) & (age < 1.0)
        up = self._drop_rise * self._height * 4.0 * age * (1.0 - age) * scale
        across = half * self._drop_side * (0.5 + 0.9 * age)
        radii = self._drop_size * (0.5 + self._amount) * scale
        for dx, dy, radius in zip(across[flying], up[flying], radii[flying], strict=True):
            box = (x + dx - radius, y - dy - radius, x + dx + radius, y - dy + radius)
            pen.ellipse(box, fill=235)
