"""A rendered diver's body: from bends and hand positions to joints in three dimensions."""

from __future__ import annotations

import numpy as np

# Adult segment lengths as shares of height (rounded from anthropometric tables).
TORSO, NECK, UPPER_ARM, FOREARM, THIGH, SHANK, FOOT = 0.29, 0.10, 0.18, 0.22, 0.245, 0.25, 0.09
HALF_SHOULDERS, HALF_HIPS = 0.105, 0.05
JOINTS = (
    "hip", "waist", "shoulder", "head",
    "hip_left", "knee_left", "ankle_left", "toe_left",
    "hip_right", "knee_right", "ankle_right", "toe_right",
    "shoulder_left", "elbow_left", "hand_left",
    "shoulder_right", "elbow_right", "hand_right",
)  # fmt: skip
# Pose parameters: degrees of bend, and weights of the places a hand can be.
BENDS = ("hip", "knee", "spine", "head", "split")
PLACES = ("side", "overhead", "front", "legs", "chest")


def body_joints(pose: dict[str, np.ndarray]) -> np.ndarray:
    """Bends a body.

    Args:
      pose: float64 [n] for each of `BENDS` in degrees, and `place_left`, `place_right` as float64
        [n, places], weights of `PLACES` that sum to 1.

    Returns:
      Joints in the body's frame, float64 [n, joints, 3] in body heights, hip at the origin; x to
      the front, y from hip to head, z to the left.
    """
    n = len(pose["hip"])
    at: dict[str, np.ndarray] = {"hip": np.zeros((n, 3))}
    spine, head = pose["spine"], pose["head"]
    at["waist"] = at["hip"] + 0.4 * TORSO * _up(0.3 * spine)
    at["shoulder"] = at["waist"] + 0.6 * TORSO * _up(spine)
    at["head"] = at["shoulder"] + NECK * _up(spine + head)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        hip = pose["hip"] + 0.5 * sign * pose["split"]
        shin = hip - pose["knee"]
        at[f"hip_{side}"] = at["hip"] + (0.0, 0.0, sign * HALF_HIPS)
        at[f"knee_{side}"] = at[f"hip_{side}"] + THIGH * _down(hip)
        at[f"ankle_{side}"] = at[f"knee_{side}"] + SHANK * _down(shin)
        # Toes are pointed, with less conviction where the knee bends.
        at[f"toe_{side}"] = at[f"ankle_{side}"] + FOOT * _down(shin + 12.0)
        shoulder = at["shoulder"] + (0.0, 0.0, sign * HALF_SHOULDERS)
        at[f"shoulder_{side}"] = shoulder
        reach = UPPER_ARM + FOREARM
        shin_middle = 0.5 * (at[f"knee_{side}"] + at[f"ankle_{side}"])
        places = np.stack(
            [
                shoulder + 0.97 * reach * _up(spine + 176.0),
                shoulder + 0.99 * reach * _up(spine - 2.0),
                shoulder + 0.9 * reach * _up(spine + 90.0),
                shin_middle + (0.02, 0.0, 0.0),
                shoulder + 0.45 * reach * _up(spine + 130.0) - (0.0, 0.0, sign * 0.08),
            ],
            axis=1,
        )  # [n, places, 3], in the order of PLACES
        target = np.einsum("np,npc->nc", pose[f"place_{side}"], places)
        at[f"elbow_{side}"], at[f"hand_{side}"] = _reach(shoulder, target)
    return np.stack([at[name] for name in JOINTS], axis=1)


def centre_of_mass(joints: np.ndarray) -> np.ndarray:
    """Returns the centre of mass in the viewing plane, float64 [n, 2]."""
    shares = {"hip": 0.2, "waist": 0.2, "shoulder": 0.2, "head": 0.08}
    for side in ("left", "right"):
        shares |= {f"knee_{side}": 0.1, f"ankle_{side}": 0.03, f"elbow_{side}": 0.03}
    rows = [JOINTS.index(name) for name in shares]
    weights = np.array(list(shares.values()))
    return np.einsum("njc,j->nc", joints[:, rows, :2], weights / weights.sum())


def turn_about_y(points: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Turns points [n, joints, 3] about the vertical axis by angles [n]."""
    angle = np.radians(degrees)[:, None]
    x, y, z = np.moveaxis(points, -1, 0)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x * cos + z * sin, y, -x * sin + z * cos], -1)


def turn_about_z(points: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Turns points [n, joints, 3] anticlockwise in the viewing plane by angles [n]."""
    angle = np.radians(degrees)[:, None]
    x, y, z = np.moveaxis(points, -1, 0)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x * cos - y * sin, x * sin + y * cos, z], -1)


def _reach(shoulder: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bends an arm so that the hand gets to the target, or as near as it can; [n, 3] each."""
    offset = target - shoulder
    distance = np.linalg.norm(offset, axis=-1, keepdims=True)
    shortest, longest = abs(FOREARM - UPPER_ARM) + 0.01, 0.995 * (UPPER_ARM + FOREARM)
    direction = offset / np.maximum(distance, 1e-6)
    distance = np.clip(distance, shortest, longest)
    along = (UPPER_ARM**2 - FOREARM**2 + distance**2) / (2.0 * distance)
    aside = np.sqrt(np.maximum(UPPER_ARM**2 - along**2, 0.0))
    # Elbows bend backwards and down: across the direction, in the body's own side plane.
    normal = np.stack([direction[:, 1], -direction[:, 0], np.zeros(len(direction))], -1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    return shoulder + along * direction - aside * normal, shoulder + distance * direction


def _up(degrees: np.ndarray) -> np.ndarray:
    """Unit vectors [n, 3] from +y, tipped to the front by the angles."""
    angle = np.radians(degrees)
    return np.stack([np.sin(angle), np.cos(angle), np.zeros_like(angle)], -1)


def _down(degrees: np.ndarray) -> np.ndarray:
    """Unit vectors [n, 3] from -y, tipped to the front by the angles."""
    angle = np.radians(degrees)
    return np.stack([np.sin(angle), -np.cos(angle), np.zeros_like(angle)], -1)
