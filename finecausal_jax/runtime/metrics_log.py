"""Where a run's numbers go: a JSON-lines file, TensorBoard, and whoever else takes rows."""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from absl import logging

from finecausal_jax.runtime.files import keep_earlier, write_atomically

FILE = "metrics.jsonl"
BOARD = "tensorboard"
# Beside a row's values: the step, and when it was written in seconds since 1970.
STEP, WHEN = "step", "time"
TEST = "test/"  # names of what an evaluation says


@runtime_checkable
class Tracker(Protocol):
    """Takes rows of numbers beside the files, such as a service that keeps experiments."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes one row."""

    def close(self) -> None:
        """Waits until all rows have arrived."""


class MetricsLog:
    """Appends numbers by step to `metrics.jsonl` and to TensorBoard event files.

    The first is what counts. On a resume, rows after the restored step are removed, since the run
    will write them again, and TensorBoard's file is made again from the rest: a killed process may
    have kept rows of it to itself.

    Args:
      workdir: the run's folder.
      step: the step the run stands at.
      evaluated: whether that step's evaluation is done, or its rows will be written again too.
      trackers: who else takes rows from now on.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        step: int,
        evaluated: bool = True,
        trackers: Sequence[Tracker] = (),
    ):
        # Not at the top: where PyTorch is installed, tensorboardX imports it.
        import tensorboardX

        folder = pathlib.Path(workdir)
        path = folder / FILE
        rows = [
            row
            for row in read_rows(path, mend=True)
            if row[STEP] < step or row[STEP] == step and (evaluated or not _is_test(row))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(path, lambda temporary: temporary.write_text(text))
        self._file = path.open("a")
        for events in (folder / BOARD).glob("events.out.tfevents.*"):
            events.unlink()
        self._board = tensorboardX.SummaryWriter(str(folder / BOARD), write_to_disk=True)
        for row in rows:
            self._to_board(row)
        self._trackers = tuple(trackers)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row; JSON has no NaN, so a value that is not finite becomes null."""
        finite = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        row = {STEP: step, WHEN: round(time.time(), 3), **finite}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._to_board(row)
        for tracker in self._trackers:
            tracker.write(step, values)

    def keep(self) -> None:
        """Returns once all rows are on the disk; before a checkpoint, which counts on them."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Closes all."""
        self._file.close()
        self._board.close()
        for tracker in self._trackers:
            tracker.close()

    def _to_board(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name not in (STEP, WHEN) and value is not None:
                self._board.add_scalar(name, value, row[STEP], walltime=row.get(WHEN))


def read_rows(path: str | os.PathLike[str], mend: bool = False) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, those left out that cannot be read.

    A process that is killed while it writes leaves a part of a line behind, which is nothing to
    speak of. A machine that loses power leaves zeros, and people edit: a warning tells of those.

    Args:
      path: of the file; none is no rows.
      mend: keep the file as it is under another name, where a line in it cannot be read.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = [_row(line) for line in lines[:-1]]  # the last ends with no line break
    bad = [number for number, row in enumerate(rows, 1) if row is None]
    if mend and bad:
        kept = path.with_name(f"{path.stem}.damaged{path.suffix}")
        keep_earlier(kept)
        shutil.copyfile(path, kept)
    if bad:
        logging.warning(
            "%s: left out %d lines that are no rows of metrics, the first being line %d",
            path,
            len(bad),
            bad[0],
        )
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and isinstance(row.get(STEP), int) and _are_numbers(row.values())
    return row if is_row else None


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(value is None or isinstance(value, (int, float)) for value in values)


def _is_test(row: Mapping[str, Any]) -> bool:
    return any(name.startswith(TEST) for name in row)
