"""How far a long piece of work is: a bar on a terminal, elsewhere a line every half minute.

Lines go where bars go, to standard error, so that results on standard output stay clean:

    encoding the train split: 0 of 2251 dives
    encoding the train split: 640 of 2251 dives, 3.2 dives a second, 8 min 23 s left
    encoding the train split: 2251 of 2251 dives in 11 min 52 s
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from finecausal_jax.runtime import hosts

EVERY = 30.0  # seconds between two lines
REDRAW = 1.0  # seconds between two drawings of a bar: its clock goes on in a long step


class Progress:
    """How far some work is. This one shows nothing; `progress` picks one that does, or this."""

    def update(self, count: int = 1) -> None:
        """Says that so many more are done."""

    def note(self, text: str) -> None:
        """Says what is going on, or how it goes; shown from then on, beside the count."""


@contextlib.contextmanager
def progress(
    total: int | None,
    label: str,
    unit: str,
    *,
    initial: int = 0,
    show: bool = True,
    stream: Any = None,
    clock: Callable[[], float] = time.monotonic,
    every: float = EVERY,
) -> Iterator[Progress]:
    """Shows how far some work is, from its beginning to its end.

    Args:
      total: how many there are to do; None where nobody knows.
      label: what the work is called, such as "training".
      unit: what is counted, in the plural, such as "steps".
      initial: how many were done before, of `total`.
      show: False shows nothing. Of several processes only the leading one shows anything.
      stream: where bars and lines go; None is standard error.
      clock: seconds that only grow.
      every: seconds between two lines where `stream` is no terminal.

    Yields:
      What takes the counts. To be used by one thread at a time.
    """
    stream = sys.stderr if stream is None else stream
    if not (show and hosts.leads()):
        yield Progress()
    elif stream.isatty() and _has_size(stream):
        with _ticking(bar := _Bar(total, label, unit, initial, stream), REDRAW):
            yield bar
    else:
        with _ticking(lines := _Lines(total, label, unit, initial, stream, clock), every):
            yield lines


def say(line: str) -> None:
    """Prints a line on standard output at once, clear of bars; of several processes, one does."""
    if not hosts.leads():
        return
    if "tqdm" in sys.modules:  # or there is no bar that the line could run into
        sys.modules["tqdm"].tqdm.write(line)
    else:
        print(line)
    sys.stdout.flush()  # a file or a pipe would get it when the program ends


class _Bar(Progress):
    """A bar of tqdm's."""

    def __init__(self, total: int | None, label: str, unit: str, initial: int, stream: Any):
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=label,
            unit=f" {unit}",
            initial=initial,
            file=stream,
            leave=None,  # it stays in sight unless it runs below another one
            dynamic_ncols=True,
        )

    def update(self, count: int = 1) -> None:
        self._bar.update(count)

    def note(self, text: str) -> None:
        self._bar.set_postfix_str(text)

    def tick(self) -> None:
        self._bar.refresh()

    def end(self, failed: bool) -> None:
        self._bar.close()


class _Lines(Progress):
    """A line at the beginning, one every now and then, and one at the end."""

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str,
        initial: int,
        stream: Any,
        clock: Callable[[], float],
    ):
        self._total, self._label, self._unit = total, label, unit
        self._stream, self._clock = stream, clock
        self._done, self._note = initial, ""
        self._start = clock()
        # Where the rate counts from. The first update comes after what happens once: compiling.
        self._first: tuple[float, int] | None = None
        self._say(self._count())

    def update(self, count: int = 1) -> None:
        self._done += count
        if self._first is None:
            self._first = (self._clock(), self._done)

    def note(self, text: str) -> None:
        self._note = text

    def tick(self) -> None:
        rest = self._pace() or [f"{_duration(self._clock() - self._start)} so far"]
        note = f"; {self._note}" if self._note else ""
        self._say(", ".join([self._count(), *rest]) + note)

    def end(self, failed: bool) -> None:
        took = _duration(self._clock() - self._start)
        # Who has taken the last of a generator's items may close it: that is no failure.
        stopped = failed and self._done != self._total
        count = self._count()
        self._say(f"stopped at {count} after {took}" if stopped else f"{count} in {took}")

    def _count(self) -> str:
        of = "" if self._total is None else f" of {self._total}"
        return f"{self._done}{of} {self._unit}"

    def _pace(self) -> list[str]:
        """The rate and the time left; nothing before two updates tell them."""
        if self._first is None:
            return []
        then, before = self._first
        seconds, done = self._clock() - then, self._done - before
        if seconds <= 0 or done <= 0:
            return []
        rate = done / seconds
        quick = f"{rate:.{1 if rate < 10 else 0}f} {self._unit} a second"
        said = [quick if rate >= 1 else f"{_duration(seconds / done)} each"]
        if self._total is not None:
            said.append(f"{_duration((self._total - self._done) / rate)} left")
        return said

    def _say(self, text: str) -> None:
        # A reader that has gone, or a file that was closed, must not end the work.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(f"{self._label}: {text}\n")
            self._stream.flush()


def _has_size(terminal: Any) -> bool:
    """Whether a terminal has room for a bar; some in containers say 0 x 0, and get no bar."""
    try:
        size = os.get_terminal_size(terminal.fileno())
    except (OSError, ValueError):  # it is no device, so nobody knows
        return True
    return size.columns > 0 and size.lines > 0


@contextlib.contextmanager
def _ticking(shown: _Bar | _Lines, every: float) -> Iterator[None]:
    """Ticks from a thread of its own: the work may be in one call for minutes."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(every):
            shown.tick()

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    failed = True
    try:
        yield
        failed = False
    finally:
        ended.set()
        thread.join()
        shown.end(failed)


def _duration(seconds: float) -> str:
    """Such as "8 min 23 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
