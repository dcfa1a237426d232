"""What surrounds a rendered diver: wall, crowd, boards, water, light, and the camera's habits."""

from __future__ import annotations

import colorsys
import dataclasses
import functools
from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw

from tfds_finecausal.rendered.streams import Purpose, stream

VISIBLE_METRES = 5.2  # world height seen at zoom 1: a diver of 1.7 m fills a third of the frame
SHORE = 0.95  # height on screen at which the far edge of the pool appears, metres
WATER_CAMERA = 0.5  # the camera's centre stays this far above the water, metres
# Where the camera's centre may be, metres: from behind the board to the farthest splash.
CAMERA_LEFT, CAMERA_RIGHT, CAMERA_ABOVE_BOARD = -2.5, 6.5, 2.5

Colour = tuple[float, float, float]  # RGB in 0..1


@dataclasses.dataclass(frozen=True)
class Background:
    """What stands still behind the diver.

    Attributes:
      wall, seats, deck, water: base colours.
      texture: seed of the texture of wall and crowd.
    """

    wall: Colour
    seats: Colour
    deck: Colour
    water: Colour
    texture: int


@dataclasses.dataclass(frozen=True)
class Clothing:
    """What divers wear.

    Attributes:
      suit: colour of the suits.
      full: whether the suit covers the torso.
    """

    suit: Colour
    full: bool


@dataclasses.dataclass(frozen=True)
class Camera:
    """How a competition is filmed.

    Attributes:
      zoom: magnification, about 0.95 to 1.1.
      shake: size of the jitter, metres.
      view: degrees by which the camera stands off the side view.
      mirrored: whether the divers go to the left.
    """

    zoom: float
    shake: float
    view: float
    mirrored: bool


@dataclasses.dataclass(frozen=True)
class Venue:
    """One competition.

    Attributes:
      board_height: 10 for a platform, 3 for a springboard, metres.
      background, clothing, camera: what each looks like.
      lighting: brightness of the hall, about 0.8 to 1.1.
    """

    board_height: float
    background: Background
    clothing: Clothing
    camera: Camera
    lighting: float


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The still background of all dives at a venue, everywhere that the camera may look.

    Attributes:
      image: RGB image.
      left: world x of the image's left edge, metres; of the mirrored world where the venue is.
      top: world y of its upper edge, metres.
      scale: pixels a metre.
    """

    image: Image.Image
    left: float
    top: float
    scale: float


def draw_venue(board_height: float, seed: int, number: int) -> Venue:
    """Draws a competition's looks.

    Args:
      board_height: 10 or 3 metres.
      seed: the release's seed.
      number: of the competition; each part of its looks has a random stream of its own.
    """
    rng = stream(seed, Purpose.BACKGROUND, number)
    background = Background(
        wall=_hsv(rng.uniform(), rng.uniform(0.1, 0.4), rng.uniform(0.35, 0.75)),
        seats=_hsv(rng.uniform(), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.45)),
        deck=_hsv(rng.uniform(0.05, 0.15), rng.uniform(0.05, 0.25), rng.uniform(0.5, 0.7)),
        water=_hsv(rng.uniform(0.5, 0.6), rng.uniform(0.55, 0.8), rng.uniform(0.4, 0.6)),
        texture=int(rng.integers(2**31)),
    )
    rng = stream(seed, Purpose.CLOTHING, number)
    suit = _hsv(rng.uniform(), rng.uniform(0.6, 0.9), rng.uniform(0.25, 0.6))
    clothing = Clothing(suit, full=bool(rng.integers(2)))
    rng = stream(seed, Purpose.CAMERA, number)
    camera = Camera(
        zoom=rng.uniform(0.95, 1.1),
        shake=rng.uniform(0.005, 0.03),
        view=rng.uniform(-25.0, 25.0),
        mirrored=bool(rng.integers(2)),
    )
    lighting = stream(seed, Purpose.LIGHTING, number).uniform(0.85, 1.08)
    return Venue(board_height, background, clothing, camera, lighting)


def show_cue(venue: Venue, cue: float, parts: Collection[str]) -> Venue:
    """Returns the venue with the looks that tell a cue.

    Args:
      venue: the competition's looks.
      cue: in 0..1.
      parts: names of `confounding.CONFOUNDERS`. The background's wall and seats, and the suits, go
        from dark red through green to light blue; the camera from far to near; the light from dim
        to bright.
    """
    colour = _hsv(0.62 * cue, 0.6, 0.3 + 0.5 * cue)
    changed: dict[str, object] = {}
    if "background" in parts:
        seats = _hsv(0.62 * cue, 0.45, 0.2 + 0.3 * cue)
        changed["background"] = dataclasses.replace(venue.background, wall=colour, seats=seats)
    if "clothing" in parts:
        changed["clothing"] = dataclasses.replace(venue.clothing, suit=colour)
    if "camera" in parts:
        changed["camera"] = dataclasses.replace(venue.camera, zoom=0.9 + 0.25 * cue)
    if "lighting" in parts:
        changed["lighting"] = 0.75 + 0.4 * cue
    return dataclasses.replace(venue, **changed)


def keep_in_reach(centre: np.ndarray, board_height: float) -> np.ndarray:
    """Keeps the camera's centre [n, 2] where the canvas surrounds its whole picture."""
    lowest = (CAMERA_LEFT, WATER_CAMERA)
    return np.clip(centre, lowest, (CAMERA_RIGHT, board_height + CAMERA_ABOVE_BOARD))


@functools.lru_cache(maxsize=4)  # dives of a competition share it, and painting takes a while
def paint_canvas(venue: Venue, scale: float, aspect: float) -> Canvas:
    """Paints the background of a venue.

    Args:
      venue: the looks.
      scale: pixels a metre.
      aspect: frame width over height.
    """
    # One metre more than the camera sees: it shakes.
    half_height = 0.5 * VISIBLE_METRES / venue.camera.zoom + 1.0
    half_width = 0.5 * VISIBLE_METRES / venue.camera.zoom * aspect + 1.0
    left, right = CAMERA_LEFT - half_width, CAMERA_RIGHT + half_width
    bottom = WATER_CAMERA - half_height
    top = venue.board_height + CAMERA_ABOVE_BOARD + half_height
    size = (int((right - left) * scale) + 1, int((top - bottom) * scale) + 1)
    heights = top - (np.arange(size[1]) + 0.5) / scale  # world y of each row
    look, light = venue.background, venue.lighting
    rng = np.random.default_rng(look.texture)

    rows = np.empty((size[1], 3))
    crowd_top = SHORE + 0.5 * venue.board_height + 1.0
    shade = np.clip(0.85 + 0.03 * (heights - SHORE), 0.7, 1.15)[:, None]
    rows[:] = np.array(look.wall) * shade
    rows[heights < crowd_top] = look.seats
    rows[heights < SHORE + 1.15] = np.array(look.wall) * 0.8
    rows[heights < SHORE + 0.3] = look.deck
    # Nearer water, further down, looks darker and more saturated.
    depth = np.clip((SHORE - heights) / 4.0, 0.0, 1.0)[:, None]
    water = np.array(look.water) * (1.15 - 0.4 * depth)
    rows = np.where(heights[:, None] < SHORE, water, rows)
    pixels = np.repeat(rows[:, None] * light, size[0], axis=1)
    image = Image.fromarray(np.uint8(np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5), "RGB")
    canvas = Canvas(image, left, top, scale)

    draw = ImageDraw.Draw(image)
    _paint_wall(draw, canvas, venue, crowd_top, right, top, rng)
    _paint_crowd(draw, canvas, venue, crowd_top, right, rng)
    _paint_water(draw, canvas, venue, right, bottom, rng)
    _paint_board(draw, canvas, venue)
    if venue.camera.mirrored:  # the canvas is mirrored once, the world's x axis with it
        flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Canvas(flipped, -(left + size[0] / scale), top, scale)
    return canvas


def rgb(colour: Colour, light: float = 1.0) -> tuple[int, int, int]:
    """Returns a colour in 0..1, times the light, as 8-bit RGB."""
    red, green, blue = (round(255.0 * min(1.0, max(0.0, one * light))) for one in colour)
    return red, green, blue


def _place(canvas: Canvas, x: float, y: float) -> tuple[float, float]:
    return (x - canvas.left) * canvas.scale, (canvas.top - y) * canvas.scale


def _box(
    draw: ImageDraw.ImageDraw,
    canvas: Canvas,
    box: tuple[float, float, float, float],
    fill: tuple[int, int, int],
) -> None:
    """Fills the world rectangle (x0, x1, y0, y1), at least a pixel wide and high."""
    x0, y0 = _place(canvas, box[0], box[3])
    x1, y1 = _place(canvas, box[1], box[2])
    draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), fill=fill)


def _paint_wall(draw, canvas, venue, crowd_top, right, top, rng) -> None:
    joint = rgb(venue.background.wall, 0.72 * venue.lighting)
    step = rng.uniform(1.6, 2.6)
    for x in np.arange(canvas.left, right, step):
        _box(draw, canvas, (x, x + 0.05, crowd_top, top), joint)
    for y in np.arange(crowd_top, top, step):
        _box(draw, canvas, (canvas.left, right, y, y + 0.05), joint)
    for x in np.arange(canvas.left, right, 2 * step):  # windows
        light = 1.25 * venue.lighting * rng.uniform(0.9, 1.1)
        y = crowd_top + 0.35 * step
        _box(draw, canvas, (x + 0.3, x + 1.2, y, y + 0.9), rgb(venue.background.wall, light))
    for x in np.arange(canvas.left, right, 2.2):  # hoardings along the pool
        shade = venue.lighting * rng.uniform(0.75, 1.2)
        _box(
            draw, canvas, (x, x + 2.1, SHORE + 0.35, SHORE + 1.1), rgb(venue.background.wall, shade)
        )


def _paint_crowd(draw, canvas, venue, crowd_top, right, rng) -> None:
    for y in np.arange(SHORE + 1.3, crowd_top - 0.2, 0.55):
        _box(
            draw, canvas, (canvas.left, right, y - 0.16, y - 0.1), rgb(venue.background.seats, 0.6)
        )
        for x in np.arange(canvas.left, right, 0.48):
            if rng.uniform() < 0.25:
                continue
            x = x + rng.uniform(-0.08, 0.08)
            coat = rgb(_hsv(rng.uniform(), rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.75)), 0.75)
            _box(draw, canvas, (x - 0.15, x + 0.15, y - 0.1, y + 0.18), coat)
            face = rgb((0.75, 0.58, 0.48), rng.uniform(0.5, 0.9) * venue.lighting)
            _box(draw, canvas, (x - 0.08, x + 0.08, y + 0.18, y + 0.36), face)


def _paint_water(draw, canvas, venue, right, bottom, rng) -> None:
    for _ in range(220):
        y = SHORE - 0.06 - (SHORE - bottom) * rng.uniform() ** 1.3
        near = (SHORE - y) / (SHORE - bottom)
        x, length = rng.uniform(canvas.left, right), rng.uniform(0.2, 0.8) * (0.4 + near)
        shade = venue.lighting * rng.choice((0.88, 1.12)) * (1.1 - 0.35 * near)
        thickness = 0.015 + 0.03 * near
        _box(draw, canvas, (x, x + length, y, y + thickness), rgb(venue.background.water, shade))


def _paint_board(draw, canvas, venue) -> None:
    """Paints tower or springboard; its edge is at x = 0 and its top at the board's height."""
    top, light = venue.board_height, venue.lighting
    concrete, dark = rgb((0.72, 0.72, 0.7), light), rgb((0.5, 0.5, 0.5), light)
    metal = rgb((0.82, 0.84, 0.86), light)
    if venue.board_height > 5.0:
        _box(draw, canvas, (-40.0, 0.0, top - 0.3, top), concrete)
        _box(draw, canvas, (-40.0, 0.0, top - 0.36, top - 0.28), dark)
        _box(draw, canvas, (-3.6, -2.7, SHORE, top - 0.3), dark)
        _box(draw, canvas, (-3.6, -3.3, SHORE, top - 0.3), concrete)
        _box(draw, canvas, (-40.0, -1.6, 0.5 * top - 0.25, 0.5 * top), concrete)
        for x in np.arange(-1.5, -9.0, -1.1):  # railing
            _box(draw, canvas, (x, x + 0.06, top, top + 1.0), metal)
        for y in (top + 0.5, top + 1.0):
            _box(draw, canvas, (-40.0, -1.44, y, y + 0.06), metal)
    else:
        _box(draw, canvas, (-4.8, 0.0, top - 0.1, top), rgb((0.55, 0.72, 0.8), light))
        _box(draw, canvas, (-2.4, -1.9, SHORE, top - 0.1), concrete)
        _box(draw, canvas, (-40.0, -2.6, top - 0.6, top - 0.1), concrete)
        _box(draw, canvas, (-40.0, -4.2, SHORE, top - 0.6), dark)
        for y in (top + 0.45, top + 0.9):
            _box(draw, canvas, (-40.0, -2.8, y, y + 0.06), metal)


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(float(hue) % 1.0, float(saturation), float(value))
