"""A part's record: a JSON file that is whole after every value, and from which a run goes on."""

from __future__ import annotations

import datetime
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DONE, FAILED, CUT, RUNNING, SKIPPED = "done", "failed", "cut off", "running", "skipped"
# Facts by which an earlier run's values belong to this one's.
SAME = ("device", "sizes", "source", "versions")


class Record:
    """What is known of a part.

    Args:
      path: the JSON file. One of another machine, of other code, versions or sizes is renamed to
        `NAME.1.json`, and so on.
      part: its name and letter, see `plan`.
      facts: from `facts.collect`.
    """

    def __init__(self, path: pathlib.Path, part: tuple[str, str], facts: Mapping[str, Any]):
        self.path = path
        self.kept: pathlib.Path | None = None
        earlier = _read(path)
        if earlier and any(earlier["facts"].get(key) != facts.get(key) for key in SAME):
            self.kept = _free_name(path)
            path.rename(self.kept)
            earlier = None
        measurements = earlier["measurements"] if earlier else {}
        calls = earlier["calls"] if earlier else []
        self._content: dict[str, Any] = {
            "part": part[0],
            "letter": part[1],
            "facts": dict(facts),
            "calls": [*calls, {"date": _now(), "command": facts.get("command")}],
            "measurements": measurements,
        }
        self._write()

    def status(self, name: str) -> str | None:
        """Of a measurement; None before its first run. One that is RUNNING was killed with us."""
        return self._content["measurements"].get(name, {}).get("status")

    def pending(self, names: Iterable[str], *, again: bool = False) -> list[str]:
        """What is left to run: first what never ran, then what was cut off, then what failed.

        One that never ends within the limit shall not keep the others from being measured.

        Args:
          names: of the part's measurements, in order.
          again: whether those that failed are run, too.
        """
        turns = {None: 0, CUT: 1, RUNNING: 1, SKIPPED: 1} | ({FAILED: 2} if again else {})
        return sorted(
            (name for name in names if self.status(name) in turns),
            key=lambda name: turns[self.status(name)],
        )

    def begin(self, name: str) -> None:
        """Notes that a measurement runs. Values of an earlier try stay until new ones come."""
        entry = self._content["measurements"].setdefault(name, {"tries": 0, "result": {}})
        entry["status"], entry["tries"] = RUNNING, entry["tries"] + 1
        entry.pop("error", None)
        self._write()

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Adds values to a measurement's result; JSON has no NaN, which becomes null."""
        self._content["measurements"][name]["result"].update(_finite(values))
        self._write()

    def end(self, name: str, status: str, seconds: float = 0.0, error: str = "") -> None:
        """Notes how a measurement ended."""
        entry = self._content["measurements"].setdefault(name, {"tries": 0, "result": {}})
        entry["status"], entry["seconds"] = status, round(seconds, 1)
        if error:
            entry["error"] = error
        self._write()

    def close(self, ended: str) -> None:
        """Notes how the call ended."""
        self._content["calls"][-1]["ended"] = f"{ended}, {_now()}"
        self._write()

    def _write(self) -> None:
        text = json.dumps(self._content, indent=1, allow_nan=False)
        write_atomically(self.path, text + "\n")


def read_all(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The records in a folder, those kept of earlier runs included, by letter and part."""
    found = [content for path in sorted(folder.glob("*.json")) if (content := _read(path))]
    return sorted(found, key=lambda one: (one["letter"], one["part"]))


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a text file that is never half there."""
    # Not the package's own function: importing the package may be what fails.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """A record; None where there is none, or something else."""
    try:
        content = json.loads(path.read_text())
        return content if {"part", "letter", "facts", "measurements"} <= content.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _free_name(path: pathlib.Path) -> pathlib.Path:
    number = 1
    while (name := path.with_suffix(f".{number}.json")).exists():
        number += 1
    return name


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
