"""What users see of long work, on a terminal and elsewhere."""

import contextlib
import fcntl
import io
import os
import pathlib
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from finecausal_jax.runtime.progress import progress, say

ROOT = pathlib.Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


NEVER = 1e6  # seconds to the thread's next line: tests ask for it


def lines(stream):
    return stream.getvalue().splitlines()


def test_lines_tell_count_total_rate_and_time_left():
    stream, clock = io.StringIO(), Clock()
    with progress(2251, "encoding", "dives", stream=stream, clock=clock, every=NEVER) as shown:
        assert lines(stream) == ["encoding: 0 of 2251 dives"]
        clock.now += 95  # compiling, which happens once and is not in the rate
        shown.tick()
        shown.update(4)
        clock.now += 100
        shown.update(320)
        shown.tick()
        shown.note("loss 0.5")
        clock.now += 4 * 3600
        shown.tick()
        shown.update(1927)
    assert lines(stream)[1:] == [
        "encoding: 0 of 2251 dives, 1 min 35 s so far",
        "encoding: 324 of 2251 dives, 3.2 dives a second, 10 min 2 s left",
        "encoding: 324 of 2251 dives, 45 s each, 24 h 15 min left; loss 0.5",
        "encoding: 2251 of 2251 dives in 4 h 3 min",
    ]


def test_work_that_goes_on_counts_from_where_it_stood():
    stream, clock = io.StringIO(), Clock()
    options = {"initial": 90, "stream": stream, "clock": clock, "every": NEVER}
    with progress(100, "training", "steps", **options) as shown:
        shown.update()
        clock.now += 2
        shown.update()
        shown.tick()
        shown.update(8)
        clock.now += 3.04
    assert lines(stream) == [
        "training: 90 of 100 steps",
        "training: 92 of 100 steps, 2.0 s each, 16 s left",
        "training: 100 of 100 steps in 5.0 s",
    ]


def test_without_a_total_there_is_no_time_left():
    stream, clock = io.StringIO(), Clock()
    with progress(None, "compile", "programs", stream=stream, clock=clock, every=NEVER) as shown:
        shown.update()
        clock.now += 0.0625
        shown.update()
        shown.tick()
    assert lines(stream) == [
        "compile: 0 programs",
        "compile: 2 programs, 16 programs a second",
        "compile: 2 programs in 0.1 s",
    ]


def test_work_that_fails_is_not_called_done():
    stream, clock = io.StringIO(), Clock()
    with (
        pytest.raises(KeyError),
        progress(9, "check", "dives", stream=stream, clock=clock) as shown,
    ):
        shown.update(3)
        clock.now += 61
        raise KeyError
    assert lines(stream)[-1] == "check: stopped at 3 of 9 dives after 1 min 1 s"


def test_a_generator_that_is_closed_after_its_last_item_is_done():
    stream = io.StringIO()

    def items():
        with progress(2, "encoding", "dives", stream=stream, clock=Clock()) as shown:
            for item in "ab":
                shown.update()
                yield item

    half, whole = items(), items()
    next(half)
    half.close()
    assert lines(stream)[-1] == "encoding: stopped at 1 of 2 dives after 0.0 s"
    next(whole), next(whole)
    whole.close()
    assert lines(stream)[-1] == "encoding: 2 of 2 dives in 0.0 s"


def test_a_line_comes_by_itself_while_the_work_is_in_one_call():
    stream = io.StringIO()
    before = threading.active_count()
    with progress(1, "training", "steps", stream=stream, every=0.01) as shown:
        shown.note("compiling")
        deadline = time.monotonic() + 60
        while len(lines(stream)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lines(stream)[2].startswith("training: 0 of 1 steps, ")
    assert lines(stream)[2].endswith(" s so far; compiling")
    assert threading.active_count() == before


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_process_that_does_not_lead_is_silent(stream, capsys):
    stream = stream()
    with progress(2, "training", "steps", show=False, stream=stream) as shown:
        shown.update()
        shown.note("loss")
    assert stream.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_results_go_to_standard_output(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with progress(4, "training", "steps", stream=stream) as shown:
        shown.update(3)
        shown.note("loss 0.5")
        say("epoch 1: Spearman 0.9")
        shown.tick()
    assert "training:  75%" in stream.getvalue() and "3/4" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()
    assert "\n" not in stream.getvalue().rstrip("\n")  # one bar, drawn over and over
    assert capsys.readouterr().out == "epoch 1: Spearman 0.9\n"


@pytest.mark.parametrize("size", [(0, 0), (40, 100)])
def test_a_terminal_without_a_size_gets_lines(size):
    """As in a container that was given a terminal but not its size."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with open(theirs, "w") as stream, progress(4, "training", "steps", stream=stream) as shown:
        shown.update(4)
    seen = b""
    with contextlib.suppress(OSError):  # at its end, a pseudo-terminal fails
        while more := os.read(ours, 10_000):
            seen += more
    os.close(ours)
    seen = seen.decode(errors="replace")
    assert ("training: 4 of 4 steps in" in seen) == (size == (0, 0))
    assert ("100%" in seen) == (size != (0, 0))


def test_what_is_said_comes_at_once():
    """From a process of its own, whose output is a pipe: Python would hold it back."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from finecausal_jax.runtime.progress import say
say("epoch 1")
if len(sys.argv) > 1:
    import tqdm
    say("epoch 2")
sys.stdin.read()
"""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, "bars"], **options) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["epoch 1\n", "epoch 2\n"]
        process.stdin.close()


def test_a_reader_that_has_gone_does_not_end_the_work():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    done = []
    with progress(1, "training", "steps", stream=Gone()) as shown:
        shown.tick()
        done.append(1)
    assert done == [1]
