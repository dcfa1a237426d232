"""Runs a case in a process of its own, with limits, and says how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import time

from finecausal_jax.runtime.errors import InputError
from tests.reliability.case import EITHER, ERROR, READ, Case

LIMIT_S = 10.0
LIMIT_BYTES = 10**9
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Result:
    """How a case ended.

    Attributes:
      case: what was read.
      outcome: `ERROR` for InputError, `READ`, or what must not be: "traceback", "crash", "slow" or
        "memory".
      text: the error.
      seconds: that reading took.
      bytes: of memory the process held at most, what it shares with its parent included.
      problem: what is wrong with that; empty for nothing.
    """

    case: Case
    outcome: str
    text: str
    seconds: float
    bytes: int
    problem: str


def run(case: Case) -> Result:
    """Reads a case's input in a child of this process."""
    receive, send = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _read(case, send)
    os.close(send)
    most, killed = 0, ""
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
        most = max(most, _resident(child))
        if time.monotonic() - began > LIMIT_S:
            killed = "slow"
        elif most > LIMIT_BYTES:
            killed = "memory"
        if killed:
            os.kill(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
            break
        time.sleep(0.002)
    seconds = time.monotonic() - began
    with open(receive, "rb") as pipe:
        answer = pipe.read()
    _, status, usage = ended
    most = max(most, usage.ru_maxrss * 1024)
    outcome, text = json.loads(answer) if answer else ("crash", _status(status))
    if most > LIMIT_BYTES:
        killed = killed or "memory"
    outcome = killed or outcome
    return Result(case, outcome, text, seconds, most, _problem(case, outcome, text))


def _problem(case: Case, outcome: str, text: str) -> str:
    if case.ran is not None and case.ran.exists():
        return "something in it was run"
    if outcome not in (ERROR, READ):
        return f"{outcome}: {text}"
    if case.expected != EITHER and outcome != case.expected:
        return f"expected {case.expected}, was {outcome}: {text}"
    return ""


def _read(case: Case, send: int) -> None:
    """Reads the input, writes how that went and ends this process."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    try:
        case.read()
        answer = READ, ""
    except InputError as error:
        answer = ERROR, str(error)
    except BaseException as error:  # whatever it is, it is what is wanted to be known
        answer = "traceback", f"{type(error).__name__}: {error}"
    with contextlib.suppress(BaseException):
        os.write(send, json.dumps((answer[0], answer[1][:2000])).encode())
    os._exit(0)


def _resident(process: int) -> int:
    try:
        return int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):  # just ended, or no Linux
        return 0


def _status(status: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    return signal.Signals(-number).name if number < 0 else f"exit code {number}"


def warm_up() -> None:
    """Imports what readers import, so that no child does it again."""
    import jax  # noqa: F401
    from orbax.checkpoint import v1  # noqa: F401

    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
    sys.stdout.flush()
    sys.stderr.flush()
