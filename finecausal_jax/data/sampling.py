"""Which frames of a dive are used, and where its stages begin among them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Int64

from finecausal_jax.runtime.errors import InputError


def sample_frames(
    frame_numbers: Int64[np.ndarray, " n"], frames: int, *, shift: int = 0, timed: bool = False
) -> Int64[np.ndarray, " t"]:
    """Returns the rows of the frames nearest below evenly spaced frame numbers.

    Parity: the reference spaces frame numbers, not rows, and truncates. A dive with fewer frames
    than asked for repeats some.

    Args:
      frame_numbers: int64 [n], ascending and consecutive, or ascending times.
      frames: how many frames to sample.
      shift: added to the last frame number, 0 or less; it never passes the first one.
      timed: whether the numbers are times. At any time the frame is the last one that has come.

    Returns:
      int64 [frames], rows of `frame_numbers`, ascending.

    Raises:
      InputError: there are no frames, or a sampled frame number is missing.
    """
    if not len(frame_numbers):
        raise InputError("there are no frames, expected at least one")
    first = int(frame_numbers[0])
    last = max(first, int(frame_numbers[-1]) + shift)
    sampled = np.linspace(first, last, frames).astype(np.int64)
    if timed:
        return np.searchsorted(frame_numbers, sampled, side="right").astype(np.int64) - 1
    rows = np.searchsorted(frame_numbers, sampled)
    missing = sampled[frame_numbers[rows] != sampled]
    if len(missing):
        raise InputError(
            f"frame {missing[0]:05d} is missing between frames {first:05d} and {last:05d}, "
            "expected consecutive frame numbers"
        )
    return rows.astype(np.int64)


def label_transitions(labels: Int64[np.ndarray, " t"]) -> Int32[np.ndarray, " 2"]:
    """Returns where the second and the last of the distinct labels first appear.

    Labels count in the order of their first appearance, so one that comes back opens no new stage.
    With two distinct labels both transitions are the same frame: the middle stage is empty.

    Args:
      labels: int64 [t], one sub-action label a frame.

    Returns:
      int32 [2], each of 1..t-1, the first at most the second.

    Raises:
      InputError: all labels are the same, so there is no transition.
    """
    _, first_rows = np.unique(labels, return_index=True)
    starts = np.sort(first_rows)
    if len(starts) < 2:
        raise InputError(
            f"all sampled frames carry the label {labels[0]}, expected at least two distinct labels"
        )
    return np.array((starts[1], starts[-1]), np.int32)
