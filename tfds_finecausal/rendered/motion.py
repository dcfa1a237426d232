"""How a rendered diver moves: joint positions over time, from dive number and execution.

A body has 3-D joints in its own frame (x to the front, y from hip to head, z to the left), turned
by twist (about y) and somersault (about the viewing axis) and carried along the flight's parabola.
Lengths are in units of the diver's height inside a body, in metres in the world. The world's origin
lies on the water below the edge of the board; x points away from the board, y up.

A faultless dive is animated first. Each fault is added to it within its own stage by a window that
is zero elsewhere, so another quality of one aspect leaves all other stages as they were; only how
far out the jump goes carries on to the water.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tfds_finecausal.dive_numbers import DiveNumber
from tfds_finecausal.rendered.body import (
    BENDS,
    JOINTS,
    PLACES,
    body_joints,
    centre_of_mass,
    turn_about_y,
    turn_about_z,
)
from tfds_finecausal.rendered.judging import Execution

# Worst case of each aspect, reached at quality 0; strong enough to be seen in 32-pixel frames.
WORST_LEAN = 34.0  # degrees off the upright on the board
SAFE_DISTANCE, WORST_NEAR, WORST_FAR = 1.5, 0.4, 3.4  # metres from the board at the entry
WORST_KNEE_IN_PIKE = 80.0  # degrees of bend
WORST_HIP_IN_LINE, WORST_KNEE_IN_LINE = 45.0, 65.0  # degrees, in twists and straight positions
WORST_OPENING = 75.0  # degrees by which tuck and pike stay open
WORST_SPLIT = 60.0  # degrees between the legs
WORST_HIP, WORST_KNEE = 55.0, 85.0  # degrees of bend at the entry
WORST_ROTATION = 45.0  # degrees off the vertical at the entry


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

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """First frame of each of `judging.STAGES`, and the frame after its last."""
        flight, entry = self.starts[1], self.starts[-1]
        return {"takeoff": (0, flight), "flight": (flight, entry), "entry": (entry, self.frames)}


@dataclasses.dataclass(frozen=True)
class Habits:
    """What differs from dive to dive and no judge looks at.

    Attributes:
      body_height: the diver's height, metres.
      apex: metres gained by the jump.
      lean_side: 1 leans away from the board where it leans, -1 back over it.
      distance_side: 1 goes too far out where the distance is wrong, -1 stays too close.
      rotation_side: 1 turns too far where the rotation is wrong, -1 not far enough.
    """

    body_height: float
    apex: float
    lean_side: int
    distance_side: int
    rotation_side: int


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


def draw_habits(number: DiveNumber, rng: np.random.Generator) -> Habits:
    """Draws what differs from dive to dive; an armstand gains no height."""
    body_height, apex = float(rng.uniform(1.6, 1.78)), float(rng.uniform(0.5, 0.9))
    sides = (int(side) for side in rng.choice((-1, 1), size=3))
    return Habits(body_height, 0.05 if number.armstand else apex, *sides)


def simulate(
    number: DiveNumber,
    execution: Execution,
    timeline: Timeline,
    habits: Habits,
    *,
    board_height: float,
    view: float,
) -> Motion:
    """Computes a dive's joint positions.

    Args:
      number: the dive's number: direction, rotation and position.
      execution: quality of each aspect; a lower one shows more.
      timeline: when the segments start.
      habits: what no judge looks at.
      board_height: height of the board, metres.
      view: degrees by which the camera stands off the exact side view.

    Returns:
      The motion.
    """
    fault = {name: 1.0 - value for name, value in dataclasses.asdict(execution).items()}
    pose = _faultless_pose(number, timeline)
    turn, twist = _rotation_curves(number, timeline)
    # Forward and back dives turn away from the board, reverse and inward ones towards it.
    sense = -1.0 if number.direction in ("Forward", "Back") else 1.0

    def placed(pose: dict[str, np.ndarray], tilt: np.ndarray) -> np.ndarray:
        body = body_joints(pose)  # [n, joints, 3]
        faces_out = number.direction in ("Forward", "Reverse")
        body = turn_about_y(body, twist + (0.0 if faces_out else 180.0))
        upright = 180.0 if number.armstand else 0.0
        world = turn_about_z(body, sense * (turn + upright) + tilt)
        return turn_about_y(world, np.full(timeline.frames, view)) * habits.body_height

    on_board, at_entry = _takeoff_window(timeline), _entry_window(timeline)
    error = habits.rotation_side * WORST_ROTATION * fault["rotation"]
    lean = -habits.lean_side * WORST_LEAN * fault["lean"]  # clockwise is away from the board
    ideal = placed(pose, np.zeros(timeline.frames))
    world = placed(_faulty_pose(pose, number, timeline, fault), lean * on_board + error * at_entry)
    path = _faultless_path(ideal, number, timeline, habits, fault["distance"], board_height)
    centre = centre_of_mass(world)
    path += _takeoff_shift(world, path, number, timeline, board_height)
    # At the touch the lowest joint of the real body is on the water, as that of the ideal one was.
    touch = timeline.touch
    sunk = path[touch, 1] + world[touch, :, 1].min() - centre[touch, 1]
    path[:, 1] -= sunk * at_entry
    world[..., :2] += (path - centre)[:, None]
    hands = world[touch, [JOINTS.index("hand_left"), JOINTS.index("hand_right")], :2].mean(0)
    # In the water the body follows its hands: legs go in where they did, along the body's line.
    line = hands - world[touch, JOINTS.index("hip"), :2]
    slide = (path[touch:, 1] - path[touch, 1]) * line[0] / line[1]
    slide -= path[touch:, 0] - path[touch, 0]
    world[touch:, :, 0] += slide[:, None]
    path[touch:, 0] += slide
    return Motion(world, path, float(hands[0]), float(error))


def _faultless_pose(number: DiveNumber, timeline: Timeline) -> dict[str, np.ndarray]:
    """Returns every pose parameter as float64 [n], and `place_left/right` as [n, places]."""
    keys: list[tuple[float, dict[str, float], str, str]] = []

    def key(at: float, left: str, right: str | None = None, **bends: float) -> None:
        keys.append((at, {**dict.fromkeys(BENDS, 0.0), **bends}, left, right or left))

    closed = {
        "Tuck": {"hip": 142.0, "knee": 148.0, "spine": 55.0},
        "Pike": {"hip": 150.0, "spine": 45.0},
        "Straight": {},
    }[number.position]
    reach = "side" if number.position == "Straight" else "legs"
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
        key(takeoff + 0.01 * n, "overhead", hip=-6)
    names = number.sub_actions
    for segment in range(1, len(names) - 1):
        begin, end = starts[segment], starts[segment + 1]
        inset = 0.2 * (end - begin)
        if "Twist" in names[segment]:
            key(begin + inset, "overhead", "chest")
            key(end - inset, "overhead", "chest")
        else:
            key(begin + inset, reach, head=25.0, **closed)
            key(end - 0.3 * inset, reach, head=25.0, **closed)
    entry, touch = starts[-1], timeline.touch
    key(entry + 0.25 * (touch - entry), "side", head=8.0, hip=12.0)
    key(entry + 0.5 * (touch - entry), "overhead", head=8.0)
    key(n, "overhead", head=8.0)

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


def _faulty_pose(
    pose: dict[str, np.ndarray], number: DiveNumber, timeline: Timeline, fault: dict[str, float]
) -> dict[str, np.ndarray]:
    """Returns the pose with the faults of flight and entry, each within its stage."""
    pose = {name: curve.copy() for name, curve in pose.items()}
    opening = WORST_OPENING * fault["tightness"]
    for segment, name in enumerate(number.sub_actions[1:-1], start=1):
        window = _trapezoid(timeline, timeline.starts[segment], timeline.starts[segment + 1])
        kind = "Twist" if "Twist" in name else number.position
        if kind == "Tuck":
            pose["hip"] -= opening * window
            pose["knee"] -= 0.9 * opening * window
            pose["spine"] -= (0.4 * opening + 40.0 * fault["line"]) * window
            pose["head"] -= 55.0 * fault["line"] * window
        elif kind == "Pike":
            pose["hip"] -= opening * window
            pose["spine"] -= 0.3 * opening * window
            pose["knee"] += WORST_KNEE_IN_PIKE * fault["line"] * window
        else:
            pose["hip"] += WORST_HIP_IN_LINE * fault["line"] * window
            pose["knee"] += WORST_KNEE_IN_LINE * fault["line"] * window
            loose = (fault["tightness"] * window)[:, None]
            away = np.array([float(place == "front") for place in PLACES])
            for side in ("left", "right"):
                pose[f"place_{side}"] = (1.0 - loose) * pose[f"place_{side}"] + loose * away
        pose["split"] += WORST_SPLIT * fault["legs"] * window
    entry = _entry_window(timeline)
    pose["hip"] += WORST_HIP * fault["angle"] * entry
    pose["knee"] += WORST_KNEE * fault["angle"] * entry
    return pose


def _takeoff_window(timeline: Timeline) -> np.ndarray:
    """From 0 to 1 on the board, and back to 0 before the flight's first frame; float64 [n]."""
    frames, takeoff, flight = np.arange(timeline.frames), timeline.takeoff, timeline.starts[1]
    rise = _ramp(frames, 0.25 * takeoff, 0.7 * takeoff)
    return rise * (1.0 - _ramp(frames, takeoff, flight - 1))


def _entry_window(timeline: Timeline) -> np.ndarray:
    """From 0 at the entry's first frame to 1 half way down to the touch; float64 [n]."""
    entry, touch = timeline.starts[-1], timeline.touch
    return _ramp(np.arange(timeline.frames), entry, entry + 0.5 * (touch - entry))


def _trapezoid(timeline: Timeline, begin: int, end: int) -> np.ndarray:
    """0 outside a segment, 1 in its middle three fifths; float64 [n]."""
    frames, ramp = np.arange(timeline.frames), 0.2 * (end - begin)
    return _ramp(frames, begin, begin + ramp) * (1.0 - _ramp(frames, end - 1 - ramp, end - 1))


def _ramp(frames: np.ndarray, begin: float, end: float) -> np.ndarray:
    """From 0 at `begin` to 1 at `end`, with no slope at either."""
    share = np.clip((frames - begin) / max(end - begin, 1e-6), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def _rotation_curves(number: DiveNumber, timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Returns somersault and twist in degrees, float64 [n] each."""
    n, starts = timeline.frames, timeline.starts
    frames = np.arange(n, dtype=np.float64)
    total = 180.0 * number.half_somersaults
    # Divers open up about 55 degrees early and turn the rest slowly, with the body stretched.
    late = min(55.0, 0.4 * total)
    settled = starts[-1] + 0.45 * (timeline.touch - starts[-1])
    turn = np.interp(
        frames,
        (0.8 * timeline.takeoff, starts[1], starts[-1], settled),
        (0.0, 0.06 * total, total - late, total),
    )
    twist = np.zeros(n)
    for segment, name in enumerate(number.sub_actions):
        if "Twist" in name:
            span = (starts[segment], starts[segment + 1])
            twist = np.interp(frames, span, (0.0, 180.0 * number.half_twists))
    width = max(3, round(0.04 * n))
    return _smooth(turn, width), _smooth(twist, width)


def _on_board(world: np.ndarray, number: DiveNumber, board_height: float) -> np.ndarray:
    """Where the centre of mass is while the supporting joint stays put; float64 [n, 2] metres."""
    centre = centre_of_mass(world)
    support = JOINTS.index("hand_left" if number.armstand else "toe_left")
    lowest = world[..., 1].min(axis=1)
    # The supporting joint is a little inside the edge.
    x = centre[:, 0] - world[:, support, 0] - 0.12
    return np.stack([x, centre[:, 1] - lowest + board_height], -1)


def _faultless_path(
    ideal: np.ndarray,
    number: DiveNumber,
    timeline: Timeline,
    habits: Habits,
    distance_fault: float,
    board_height: float,
) -> np.ndarray:
    """Returns where the ideal body's centre of mass goes, float64 [n, 2] metres."""
    n, takeoff, touch = timeline.frames, timeline.takeoff, timeline.touch
    path = _on_board(ideal, number, board_height)
    worst = WORST_FAR if habits.distance_side > 0 else WORST_NEAR
    ahead = SAFE_DISTANCE + (worst - SAFE_DISTANCE) * distance_fault
    start, height = path[takeoff]
    # Just before the touch the lowest joint is on the water.
    final = centre_of_mass(ideal)[touch, 1] - ideal[touch, :, 1].min()
    flight = float(touch - takeoff)
    speed = np.sqrt(2.0 * habits.apex)
    root = (speed + np.sqrt(2.0 * habits.apex + 2.0 * (height - final))) / flight
    since = np.arange(n - takeoff, dtype=np.float64)
    path[takeoff:, 1] = height + root * speed * since - 0.5 * root**2 * since**2
    path[takeoff:, 0] = start + ahead * since / flight
    return path


def _takeoff_shift(
    world: np.ndarray,
    path: np.ndarray,
    number: DiveNumber,
    timeline: Timeline,
    board_height: float,
) -> np.ndarray:
    """How far the leaning body's centre of mass is off the path; it is back before the flight."""
    takeoff, window = timeline.takeoff, _takeoff_window(timeline)
    shift = _on_board(world, number, board_height) - path
    shift[takeoff:] = shift[takeoff] * window[takeoff:, None]
    return shift


def _smooth(curve: np.ndarray, width: int) -> np.ndarray:
    """Rounds the corners of a curve [n] with a Hann window of about `width` frames."""
    window = np.hanning(2 * (width // 2) + 3)
    padded = np.pad(curve, len(window) // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid")
