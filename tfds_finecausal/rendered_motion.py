"""How a rendered diver moves: joint positions over time, from dive number and execution.

A body has 3-D joints in its own frame (x to the front, y from hip to head, z to the left), turned
by twist (about y) and somersault (about the viewing axis) and carried along the flight's parabola.
Lengths are in units of the diver's height inside a body, in metres in the world. The world's origin
lies on the water below the edge of the board; x points away from the board, y up.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tfds_finecausal.dive_numbers import DiveNumber
from tfds_finecausal.rendered_body import (
    BENDS,
    JOINTS,
    PLACES,
    body_joints,
    centre_of_mass,
    turn_about_y,
    turn_about_z,
)
from tfds_finecausal.rendered_judging import Execution

# Worst case of each aspect, reached at quality 0; strong enough to be seen in 64-pixel frames.
WORST_ENTRY_ANGLE = 42.0  # degrees off the vertical
WORST_KNEE, WORST_HIP = 75.0, 50.0  # degrees of bend at the entry
WORST_SPLIT = 42.0  # degrees between the legs
WORST_OPENING = 75.0  # degrees by which tuck and pike stay open


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When things happen, in frames from the first one.

    Attributes:
      frames: number of frames.
      takeoff: feet (or hands) leave the board.
      starts: first frame of each segment; the first is 0, the last the entry's.
      touch: hands touch the water.
    """

    frames: int
    takeoff: int
    starts: tuple[int, ...]
    touch: int


@dataclasses.dataclass(frozen=True)
class Motion:
    """A dive's geometry.

    Attributes:
      joints: float64 [n, joints, 3], metres in the world; the last axis is x, y and depth.
      centre: float64 [n, 2], centre of mass, metres.
      entry_point: x at which the hands touch the water, metres.
      entry_angle: degrees between the body's line and the vertical at the touch, signed.
    """

    joints: np.ndarray
    centre: np.ndarray
    entry_point: float
    entry_angle: float


def draw_timeline(number: DiveNumber, frames: int, rng: np.random.Generator) -> Timeline:
    """Draws when the segments start.

    The first transition falls into the first half and the last into the second half of the clip,
    where a scorer looks for them.

    Args:
      number: the dive's number.
      frames: number of frames of the clip.
      rng: random generator.

    Returns:
      The timeline, with one start for each of the number's sub-actions.
    """
    first = rng.uniform(0.2, 0.3)
    entry = rng.uniform(0.53, 0.6)
    touch = entry + rng.uniform(0.13, 0.16)
    middle = len(number.sub_actions) - 2
    shares = {1: (1.0,), 2: (0.45, 0.55), 3: (0.3, 0.4, 0.3)}[middle]
    inner = first + (entry - first) * np.cumsum((0.0, *shares))
    starts = (0, *(round(float(at) * frames) for at in inner))
    takeoff = max(1, round((first - 0.05) * frames))
    return Timeline(frames, takeoff, starts, round(touch * frames))


def simulate(
    number: DiveNumber,
    execution: Execution,
    timeline: Timeline,
    *,
    board_height: float,
    body_height: float,
    view: float,
    rng: np.random.Generator,
) -> Motion:
    """Computes a dive's joint positions.

    Args:
      number: the dive's number: direction, rotation and position.
      execution: quality of each aspect; a lower one shows more.
      timeline: when the segments start.
      board_height: height of the board, metres.
      body_height: the diver's height, metres.
      view: degrees by which the camera stands off the exact side view.
      rng: random generator for what judges do not look at, such as the side a dive falls short to.

    Returns:
      The motion.
    """
    pose = _pose_curves(number, execution, timeline)
    error = WORST_ENTRY_ANGLE * (1.0 - execution.angle) * rng.choice((-1.0, 1.0))
    turn, twist = _rotation_curves(number, timeline, error)
    faces_out = number.direction in ("Forward", "Reverse")
    # Forward and back dives turn away from the board, reverse and inward ones towards it.
    sense = -1.0 if number.direction in ("Forward", "Back") else 1.0
    body = body_joints(pose)  # [n, joints, 3]
    body = turn_about_y(body, twist + (0.0 if faces_out else 180.0))
    upright = 180.0 if number.armstand else 0.0
    world = turn_about_z(body, sense * (turn + upright))
    world = turn_about_y(world, np.full(timeline.frames, view)) * body_height
    centre = centre_of_mass(world)
    path = _path(world, centre, number, timeline, board_height, rng)
    world[..., :2] += (path - centre)[:, None]
    touch = timeline.touch
    hands = world[touch, [JOINTS.index("hand_left"), JOINTS.index("hand_right")], :2].mean(0)
    # In the water the body follows its hands: legs go in where they did, along the body's line.
    line = hands - world[touch, JOINTS.index("hip"), :2]
    slide = (path[touch:, 1] - path[touch, 1]) * line[0] / line[1]
    slide -= path[touch:, 0] - path[touch, 0]
    world[touch:, :, 0] += slide[:, None]
    path[touch:, 0] += slide
    return Motion(world, path, float(hands[0]), float(sense * error))


def _pose_curves(
    number: DiveNumber, execution: Execution, timeline: Timeline
) -> dict[str, np.ndarray]:
    """Returns every pose parameter as float64 [n], and `place_left/right` as [n, places]."""
    keys: list[tuple[float, dict[str, float], str, str]] = []

    def key(at: float, left: str, right: str | None = None, **bends: float) -> None:
        keys.append((at, {**dict.fromkeys(BENDS, 0.0), **bends}, left, right or left))

    split = WORST_SPLIT * (1.0 - execution.legs)
    opening = WORST_OPENING * (1.0 - execution.tightness)
    tuck = {"hip": 142 - opening, "knee": 148 - 0.9 * opening, "spine": 55 - 0.4 * opening}
    pike = {"hip": 150 - opening, "knee": 0.45 * opening, "spine": 45 - 0.3 * opening}
    straight = {"hip": 0.25 * opening, "knee": 0.4 * opening, "spine": 0.0}
    closed = {"Tuck": tuck, "Pike": pike, "Straight": straight}[number.position]
    closed = {**closed, "head": 25.0, "split": split}

    takeoff, starts = timeline.takeoff, timeline.starts
    n = timeline.frames
    if number.armstand:
        key(0, "overhead")
        key(0.75 * takeoff, "overhead")
        key(takeoff, "overhead", hip=-10, spine=-8)
    else:
        key(0, "side")
        key(0.35 * takeoff, "side")
        key(0.6 * takeoff, "overhead")
        key(0.82 * takeoff, "side", hip=62, knee=88, spine=18)
        key(takeoff + 0.01 * n, "overhead", hip=-6, split=0.3 * split)
    names = number.sub_actions
    for segment in range(1, len(names) - 1):
        begin, end = starts[segment], starts[segment + 1]
        inset = 0.2 * (end - begin)
        if "Twist" in names[segment]:
            twisting = {"split": 0.5 * split, "hip": 0.15 * opening, "knee": 0.25 * opening}
            key(begin + inset, "overhead", "chest", **twisting)
            key(end - inset, "overhead", "chest", **twisting)
        else:
            key(begin + inset, "legs", **closed)
            key(end - 0.3 * inset, "legs", **closed)
    entry, touch = starts[-1], timeline.touch
    bent = {
        "hip": WORST_HIP * (1.0 - execution.line),
        "knee": WORST_KNEE * (1.0 - execution.line),
        "split": split,
        "head": 8.0,
    }
    key(entry + 0.25 * (touch - entry), "side", **{**bent, "hip": bent["hip"] + 12})
    key(entry + 0.5 * (touch - entry), "overhead", **bent)
    key(n, "overhead", **bent)

    times = np.array([at for at, *_ in keys])
    frames = np.arange(n, dtype=np.float64)
    width = max(3, round(0.05 * n))
    curves = {
        name: _smooth(np.interp(frames, times, [bends[name] for _, bends, *_ in keys]), width)
        for name in BENDS
    }
    for side, which in (("left", 2), ("right", 3)):
        weights = [
            np.interp(frames, times, [float(one[which] == place) for one in keys])
            for place in PLACES
        ]
        curves[f"place_{side}"] = np.stack([_smooth(one, width) for one in weights], -1)
    return curves


def _rotation_curves(
    number: DiveNumber, timeline: Timeline, error: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns somersault and twist in degrees, float64 [n] each; the first ends `error` off."""
    n, starts = timeline.frames, timeline.starts
    frames = np.arange(n, dtype=np.float64)
    total = 180.0 * number.half_somersaults
    # Divers open up about 55 degrees early and turn the rest slowly, with the body stretched.
    late = min(55.0, 0.4 * total)
    settled = starts[-1] + 0.45 * (timeline.touch - starts[-1])
    turn = np.interp(
        frames,
        (0.8 * timeline.takeoff, starts[1], starts[-1], settled),
        (0.0, 0.06 * total, total - late, total + error),
    )
    twist = np.zeros(n)
    for segment, name in enumerate(number.sub_actions):
        if "Twist" in name:
            span = (starts[segment], starts[segment + 1])
            twist = np.interp(frames, span, (0.0, 180.0 * number.half_twists))
    width = max(3, round(0.04 * n))
    return _smooth(turn, width), _smooth(twist, width)


def _path(
    world: np.ndarray,
    centre: np.ndarray,
    number: DiveNumber,
    timeline: Timeline,
    board_height: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns where the centre of mass goes, float64 [n, 2] metres."""
    n, takeoff, touch = timeline.frames, timeline.takeoff, timeline.touch
    support = "hand_left" if number.armstand else "toe_left"
    lowest = world[..., 1].min(axis=1)
    # On the board the supporting joint stays put, a little inside the edge.
    path = np.empty((n, 2))
    path[:, 0] = centre[:, 0] - world[:, JOINTS.index(support), 0] - 0.12
    path[:, 1] = centre[:, 1] - lowest + board_height
    ahead = path[takeoff, 0] + rng.uniform(1.2, 1.7)  # the safe distance divers enter at
    height = path[takeoff, 1]
    # Just before the touch the lowest joint is on the water.
    final = centre[touch, 1] - lowest[touch]
    apex = rng.uniform(0.5, 0.9)  # metres gained by the jump
    if number.armstand:
        apex = 0.05
    flight = float(touch - takeoff)
    speed = np.sqrt(2.0 * apex)
    root = (speed + np.sqrt(2.0 * apex + 2.0 * (height - final))) / flight
    since = np.arange(n - takeoff, dtype=np.float64)
    path[takeoff:, 1] = height + root * speed * since - 0.5 * root**2 * since**2
    path[takeoff:, 0] = path[takeoff, 0] + (ahead - path[takeoff, 0]) * since / flight
    return path


def _smooth(curve: np.ndarray, width: int) -> np.ndarray:
    """Rounds the corners of a curve [n] with a Hann window of about `width` frames."""
    window = np.hanning(2 * (width // 2) + 3)
    padded = np.pad(curve, len(window) // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid")
