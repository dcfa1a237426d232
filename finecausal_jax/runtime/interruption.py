"""Ctrl-C and SIGTERM: work that can be gone on with ends at a good place, all else at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal ends the work; like KeyboardInterrupt it is no error that anyone should handle.

    Attributes:
      number: of the signal. The exit code is 128 more, as shells have it.
    """

    def __init__(self, number: int, text: str = ""):
        super().__init__(text or f"ended by {signal.Signals(number).name}")
        self.number = number


class Stop:
    """Remembers that a signal asked to end.

    Attributes:
      asked: its number; None as long as none came.
      patient: whether work goes on to a good place.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.patient = True

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While nothing would be lost: lets the first signal end the work, too."""
        self.patient = False
        try:
            yield
        finally:
            self.patient = True


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM raise `Interrupted`, so that temporary files are cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        raise Interrupted(number)

    with _handling(end):
        yield


@contextlib.contextmanager
def remembering(what: str) -> Iterator[Stop]:
    """Lets the first signal be remembered, for the work to end where it can; a second ends it.

    Args:
      what: is finished first, for the person who waits: "this step is finished and saved".
    """
    stop = Stop()

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.asked is not None or not stop.patient:
            raise Interrupted(number)
        stop.asked = number
        # Not `print`: a signal may come amid one, which Python's streams do not bear.
        text = f"\n{signal.Signals(number).name}: {what}; a second one ends at once\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())

    with _handling(end):
        yield stop


@contextlib.contextmanager
def _handling(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
