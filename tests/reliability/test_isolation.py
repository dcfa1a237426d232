"""What a case comes to: each way to end is told from the others."""

import json
import subprocess
import sys

# In a process without threads: the cases are forks of it.
PROGRAM = """
import json, os, pathlib, sys
from finecausal_jax.runtime.errors import InputError
from tests.reliability import isolation
from tests.reliability.case import EITHER, ERROR, READ, Case

isolation.LIMIT_BYTES = 3 * 10**8
ran = pathlib.Path(sys.argv[1]) / "ran"

def refuse():
    raise InputError("x: damaged")

def loop():
    while True:
        pass

cases = [
    Case("x", "read as it should be", list, READ),
    Case("x", "refused as it should be", refuse, ERROR),
    Case("x", "refused where either is right", refuse, EITHER),
    Case("x", "taken in silence", list, ERROR),
    Case("x", "refused and should be read", refuse, READ),
    Case("x", "another error", lambda: [][0], ERROR),
    Case("x", "crash", os.abort, ERROR),
    Case("x", "slow", loop, ERROR),
    Case("x", "memory", lambda: [bytearray(10**8) for _ in range(9)], ERROR),
    Case("x", "ran", lambda: (ran.touch(), refuse()), ERROR, ran),
]
problems = []
for case in cases:
    isolation.LIMIT_S = 0.5 if case.name == "slow" else 60.0  # others' machines are busy
    problems.append(isolation.run(case).problem)
print(json.dumps(problems))
"""


def test_each_way_to_end_is_told(request, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == [
        *("", "", ""),
        "expected error, was read: ",
        "expected read, was error: x: damaged",
        "traceback: IndexError: list index out of range",
        "crash: SIGABRT",
        "slow: SIGKILL",
        "memory: SIGKILL",
        "something in it was run",
    ]
