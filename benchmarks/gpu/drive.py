"""Runs a part's measurements, each in a process of its own, until all are done or time is up."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.child import environment
from benchmarks.gpu.plan import Measurement
from benchmarks.gpu.record import CUT, DONE, FAILED, SKIPPED, Record

LEAST_S = 15.0  # that a measurement needs to import JAX and to get its device
_GRACE_S = 3.0  # between asking a process to end and ending it
_LEAVE_S = 30.0  # for a process that has said all: a device takes a while to let go
_FOR_US = ("done", "error", "restart")  # of what a process says, not for its result
_TAIL = 25  # lines of a failed process's standard error that the record keeps

Command = Callable[[Measurement, Mapping[str, Any]], Sequence[str]]


class Cut(BaseException):
    """Somebody ends the call; a BaseException, so that nothing on the way takes it for a fault."""


def command(measurement: Measurement, options: Mapping[str, Any]) -> list[str]:
    """The process of a measurement."""
    asked = json.dumps({**options, **measurement.options})
    return [sys.executable, "-m", f"benchmarks.gpu.{measurement.module}", asked]


def run(
    measurements: Sequence[Measurement],
    record: Record,
    options: Mapping[str, Any],
    *,
    until: float,
    again: bool = False,
    least_s: float = LEAST_S,
    process: Command = command,
    report: Callable[[str], None] = print,
) -> int:
    """Runs what is pending.

    Args:
      measurements: of the part.
      record: takes every value as soon as it is known.
      options: for every measurement: "device", "sizes", "cache", "log", ...
      until: `time.monotonic()` at which all must be over.
      again: runs those that failed once more.
      least_s: with less time left than these seconds, nothing is started.
      process: how a measurement is started.
      report: takes a line when a measurement begins and ends.

    Returns:
      The exit code: 0 where all are done, 1 where one failed, 3 where some are left to run.
    """
    by_name = {one.name: one for one in measurements}
    for name, one in by_name.items():
        if one.full_size and options["sizes"] != "full" and record.status(name) is None:
            record.end(name, SKIPPED, error="exists at full size only")
    todo = [name for name in record.pending(by_name, again=again) if _fits(by_name[name], options)]
    ended = "all was run"
    try:
        for name in todo:
            if until - time.monotonic() < least_s:
                ended = "time was up"
                break
            report(f"{name}: running, {until - time.monotonic():.0f} s are left")
            _measure(by_name[name], record, options, until, process, report)
    except Cut as signal_name:
        ended = f"ended by {signal_name}"
    record.close(ended)
    left = [name for name in record.pending(by_name) if _fits(by_name[name], options)]
    failed = [name for name in by_name if record.status(name) == FAILED]
    report(f"{ended}; left to run: {', '.join(left) or 'none'}; failed: {len(failed)}")
    return 3 if left else 1 if failed else 0


@contextlib.contextmanager
def cut_by_signals():
    """Within, SIGTERM and SIGINT raise `Cut`."""

    def cut(number: int, _: Any) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)  # a second one shall not disturb the last writing
        raise Cut(signal.Signals(number).name)

    before = {number: signal.signal(number, cut) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fits(measurement: Measurement, options: Mapping[str, Any]) -> bool:
    return options["sizes"] == "full" or not measurement.full_size


def _measure(
    measurement: Measurement,
    record: Record,
    options: Mapping[str, Any],
    until: float,
    process: Command,
    report: Callable[[str], None],
) -> None:
    """Runs one measurement; once more where it asks for that, now that it has compiled."""
    name, start = measurement.name, time.monotonic()
    record.begin(name)
    status, error = CUT, ""
    try:
        result: dict[str, Any] = {}
        for again in (False, True):
            asked = process(measurement, {**options, "again": again})
            status, error = _one_process(asked, name, record, options, until, result)
            if status != DONE or not result.pop("restart", False):
                break
    except Cut as signal_name:
        status, error = CUT, f"ended by {signal_name}"
        raise
    finally:
        seconds = time.monotonic() - start
        record.end(name, status, seconds, error)
        report(f"{name}: {status}, {seconds:.0f} s{': ' + error.splitlines()[0] if error else ''}")


def _one_process(
    asked: Sequence[str],
    name: str,
    record: Record,
    options: Mapping[str, Any],
    until: float,
    result: dict[str, Any],
) -> tuple[str, str]:
    """Starts a process and takes its values; returns how it ended, and why where it failed."""
    log = pathlib.Path(options["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+", errors="replace") as errors:
        child = subprocess.Popen(
            list(asked),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment(options)},
            start_new_session=True,  # so that its own processes end with it
        )
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        reader.start()
        try:
            while True:
                try:
                    line = lines.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    return CUT, "time was up"
                if line is None:
                    break
                values = json.loads(line)
                result.update(values)
                shown = {key: one for key, one in values.items() if key not in _FOR_US}
                if shown:
                    record.add(name, shown)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_LEAVE_S)
        finally:
            _end(child)
            reader.join()
            child.stdout.close()
        if result.pop("done", False):
            return DONE, ""
        errors.seek(0)
        tail = "".join(errors.readlines()[-_TAIL:]).rstrip()
    code = child.returncode
    how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    error = "\n".join(filter(None, (result.pop("error", "") or how, tail)))
    # So ends whatever runs on a machine that is taken back: nothing is wrong with it.
    return CUT if code == -signal.SIGTERM else FAILED, error


def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(child: subprocess.Popen[str]) -> None:
    """Ends a process and those that it started; it may have ended by itself."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
