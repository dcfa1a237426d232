"""How a part of the GPU's measurements is run: what survives failures, signals and the time limit.

The measurements are one-line programs in place of networks.
"""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from benchmarks.gpu import drive
from benchmarks.gpu.plan import Measurement
from benchmarks.gpu.record import Record

FACTS = {"device": "cpu", "sizes": "full", "source": "abc", "versions": {}, "command": "x"}
SAY = "import json; print(json.dumps({}), flush=True)"
DIE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
STOP = DIE.replace("SIGKILL", "SIGTERM")
SLEEP = "import time; time.sleep(600)"
CUT_PARENT = "import os, signal; os.kill(os.getppid(), signal.SIGTERM)"


@pytest.fixture
def record(tmp_path):
    def make():
        return Record(tmp_path / "part.json", ("part", "a"), FACTS)

    return make


@pytest.fixture
def run(record, tmp_path):
    """Runs programs by the names of their measurements; returns the exit code and the entries."""

    def run(programs, seconds=60.0, sizes="full", full_size=(), **options):
        started = []

        def process(measurement, options):
            started.append(measurement.name)
            again = f"again = {options['again']}"
            return [sys.executable, "-c", f"{again}\n{programs[measurement.name]}"]

        measurements = [Measurement(name, "", {}, name in full_size) for name in programs]
        common = {"device": "cpu", "sizes": sizes, "cache": str(tmp_path)}
        with drive.cut_by_signals():
            code = drive.run(
                measurements,
                record(),
                {**common, "log": str(tmp_path / "log.txt")},
                until=time.monotonic() + seconds,
                least_s=0.0,
                process=process,
                report=lambda line: None,
                **options,
            )
        content = json.loads((tmp_path / "part.json").read_text())
        return code, content["measurements"], started

    return run


def say(**values):
    """A line of the program that says values."""
    return SAY.format(repr(values))


def all_said(**values):
    """The last line of a program that has nothing more to say."""
    return say(**values, done=True)


def test_values_are_recorded_line_by_line(run):
    code, entries, _ = run({"one": f"{say(first=1, both=1)}\n{all_said(second=2, both=2)}"})
    assert code == 0
    assert entries["one"]["status"] == "done"
    assert entries["one"]["tries"] == 1
    assert entries["one"]["result"] == {"first": 1, "both": 2, "second": 2}


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("raise SystemExit('no device')", ["ended with exit code 1", "no device"]),
        (f"{say(error='OSError: full')}\nraise SystemExit(1)", ["OSError: full"]),
        (DIE, ["ended by signal 9"]),
        ("", ["ended with exit code 0"]),  # and did not say that it was done
    ],
)
def test_a_failure_keeps_its_values_and_lets_the_others_run(run, ending, told):
    code, entries, _ = run({"bad": f"{say(first=1)}\n{ending}", "good": all_said(second=2)})
    assert code == 1
    assert entries["bad"]["status"] == "failed"
    assert entries["bad"]["error"].splitlines() == told
    assert entries["bad"]["result"] == {"first": 1}
    assert entries["good"]["status"] == "done"


def test_a_process_that_fails_after_its_last_word_is_done(run):
    code, entries, _ = run({"one": f"{all_said(first=1)}\n{DIE}"})
    assert (code, entries["one"]["status"]) == (0, "done")


def test_a_process_that_somebody_ends_politely_is_run_again(run):
    code, entries, _ = run({"one": STOP})
    assert (code, entries["one"]["status"]) == (3, "cut off")
    assert entries["one"]["error"] == "ended by signal 15"
    assert run({"one": all_said(first=1)})[0] == 0


def test_a_failure_is_run_again_only_when_asked_to(run):
    run({"bad": DIE})
    assert run({"bad": all_said(first=1)})[2] == []
    code, entries, started = run({"bad": all_said(first=1)}, again=True)
    assert (code, started) == (0, ["bad"])
    assert entries["bad"]["status"] == "done"
    assert "error" not in entries["bad"]


def test_time_that_is_up_leaves_the_rest_to_the_next_call(run):
    programs = {"slow": f"{say(first=1)}\n{SLEEP}", "next": all_said(second=2)}
    code, entries, _ = run(programs, seconds=4.0)
    assert code == 3
    assert entries["slow"]["status"] == "cut off"
    assert entries["slow"]["error"] == "time was up"
    assert entries["slow"]["result"] == {"first": 1}
    assert "next" not in entries
    # What never ran goes first: the slow one may never end within the limit.
    code, entries, started = run({**programs, "slow": all_said(first=3)})
    assert (code, started) == (0, ["next", "slow"])
    assert entries["slow"]["tries"] == 2
    assert entries["slow"]["result"] == {"first": 3}


def test_a_signal_ends_the_process_and_is_noted(run, tmp_path):
    # Into a file: what it says may not have been read yet when the signal comes.
    file = tmp_path / "pid"
    pid = f"import os; open({str(file)!r}, 'w').write(str(os.getpid()))"
    code, entries, started = run(
        {"one": f"{pid}\n{CUT_PARENT}\n{SLEEP}", "next": all_said(second=2)}
    )
    assert code == 3
    assert started == ["one"]
    assert entries["one"]["status"] == "cut off"
    assert entries["one"]["error"] == "ended by SIGTERM"
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)
    (call,) = json.loads((tmp_path / "part.json").read_text())["calls"]
    assert call["ended"].startswith("ended by SIGTERM, 20")


def test_a_process_that_has_compiled_may_ask_to_start_anew(run):
    program = f"if again:\n  {all_said(peak=1)}\nelse:\n  {all_said(restart=True, plan=2)}"
    code, entries, started = run({"one": program})
    assert (code, started) == (0, ["one", "one"])
    assert entries["one"]["result"] == {"plan": 2, "peak": 1}


def test_what_exists_at_full_size_only_is_skipped_at_another(run):
    code, entries, started = run(
        {"big": DIE, "small": all_said(a=1)}, sizes="tiny", full_size=("big",)
    )
    assert (code, started) == (0, ["small"])
    assert entries["big"]["status"] == "skipped"


def test_a_record_that_was_left_running_is_run_again(record):
    record().begin("one")  # and then this process was killed
    assert record().pending(["one", "two"]) == ["two", "one"]
    record().end("two", "done")
    assert record().pending(["one", "two"]) == ["one"]


@pytest.mark.parametrize("key", ["device", "source", "versions", "sizes"])
def test_results_of_other_code_or_machines_are_kept_apart(record, tmp_path, key):
    mine = record()
    mine.begin("one")
    mine.add("one", {"a": float("nan"), "b": [float("inf"), 1.5]})
    other = Record(tmp_path / "part.json", ("part", "a"), {**FACTS, key: "another"})
    assert other.kept == tmp_path / "part.1.json"
    assert other.status("one") is None
    kept = json.loads(other.kept.read_text())
    assert kept["measurements"]["one"]["result"] == {"a": None, "b": [None, 1.5]}
