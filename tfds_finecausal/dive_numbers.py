"""FINA dive numbers: what a number such as `5253b` says, its sub-actions, and its difficulty."""

from __future__ import annotations

import dataclasses
import re

DIRECTIONS = ("Forward", "Back", "Reverse", "Inward")
POSITIONS = {"a": "Straight", "b": "Pike", "c": "Tuck", "d": "Pike"}  # d, free, is mostly piked
PATTERN = re.compile(r"[1-6]\d{2,3}[a-d]")

# Degree of difficulty as competed at world level in 2017-2021: (10 m platform, 3 m springboard),
# None where that height is not rendered. The most frequent numbers of the sport come first.
DIFFICULTY: dict[str, tuple[float | None, float | None]] = {
    "107b": (3.0, 3.1),
    "407c": (3.2, 3.4),
    "205b": (2.9, 3.0),
    "5253b": (3.2, None),
    "405b": (2.8, 3.0),
    "626c": (3.3, None),
    "5154b": (3.3, 3.4),
    "305c": (2.8, 2.8),
    "207c": (3.3, None),
    "6243d": (3.2, None),
    "614b": (2.4, None),
    "5152b": (None, 3.0),
    "103b": (1.6, 1.6),
    "109c": (3.7, None),
    "307c": (3.4, None),
    "5255b": (3.6, None),
    "105b": (None, 2.4),
    "305b": (None, 3.0),
    "205c": (None, 2.8),
    "612b": (1.9, None),
    "6245d": (3.6, None),
}


@dataclasses.dataclass(frozen=True)
class DiveNumber:
    """A dive number taken apart.

    Attributes:
      text: the number in lower case.
      direction: `Forward`, `Back`, `Reverse` or `Inward`.
      armstand: whether the dive starts from a handstand.
      half_somersaults: somersaults, counted in halves.
      half_twists: twists, counted in halves.
      position: `Straight`, `Pike` or `Tuck`.
    """

    text: str
    direction: str
    armstand: bool
    half_somersaults: int
    half_twists: int
    position: str

    @property
    def sub_actions(self) -> tuple[str, ...]:
        """The dive's sub-actions in order, as FineDiving annotates them.

        Three without twists. Back, reverse and armstand twisters twist first and have four; forward
        ones twist amid the somersaults, whose name then comes back, and have five.
        """
        start = ("Arm." if self.armstand else "") + self.direction
        flight = _somersaults(self.half_somersaults, self.position)
        if not self.half_twists:
            return (start, flight, "Entry")
        twists = _twists(self.half_twists)
        if self.direction == "Forward":
            return (start, flight, twists, flight, "Entry")
        return (start, twists, flight, "Entry")


def parse_dive_number(text: str) -> DiveNumber:
    """Takes a FINA dive number apart.

    Args:
      text: three or four digits and a position letter, such as `407c`.

    Returns:
      The parts.

    Raises:
      ValueError: the text is no dive number.
    """
    if not isinstance(text, str) or not PATTERN.fullmatch(text):
        raise ValueError(
            f"{text!r} is no dive number: expected 3 or 4 digits and a letter of a to d, like 407c"
        )
    group, digits, position = int(text[0]), text[1:-1], POSITIONS[text[-1]]
    if group <= 4:  # <group><flying or not><half somersaults>
        return DiveNumber(text, DIRECTIONS[group - 1], False, int(digits[1:]), 0, position)
    if not 1 <= int(digits[0]) <= 4:
        raise ValueError(f"{text!r} is no dive number: its second digit is no direction (1 to 4)")
    direction, twists = DIRECTIONS[int(digits[0]) - 1], int(digits[2]) if len(digits) == 3 else 0
    return DiveNumber(text, direction, group == 6, int(digits[1]), twists, position)


def sub_action_table() -> dict[int, str]:
    """Returns the 42 sub-action names by label, as `Sub_action_Types_Table.pkl` holds them."""
    names = [*DIRECTIONS, *(f"Arm.{direction}" for direction in DIRECTIONS[:3])]
    names += [_somersaults(halves, "Straight") for halves in range(1, 8)]
    names += [_somersaults(halves, "Pike") for halves in range(1, 10)]
    names += [_somersaults(halves, "Tuck") for halves in range(1, 10)]
    names += [_twists(halves) for halves in range(1, 10)]
    return dict(enumerate([*names, "Entry"], start=1))


def _count(halves: int) -> str:
    return f"{halves / 2:g}"


def _somersaults(halves: int, position: str) -> str:
    return f"{_count(halves)} Som{'s' if halves > 2 else ''}.{position}"


def _twists(halves: int) -> str:
    return f"{_count(halves)} Twist{'s' if halves > 2 else ''}"
