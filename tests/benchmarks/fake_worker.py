"""A worker that computes nothing: it answers as it is told to and notes when it was asked.

    python fake_worker.py NAME SECONDS LOG [ACTION]

ACTION: die (by signal 9, in its second run), fail (in prepare), full (out of memory, in a run),
wrong (another result), broken (no number), silent.
"""

import json
import os
import pathlib
import signal
import sys
import time

name, seconds, log, *actions = sys.argv[1:]
task = json.loads(sys.stdin.readline())
runs = 0
for line in sys.stdin:
    request = json.loads(line)
    with pathlib.Path(log).open("a") as file:
        file.write(f"{task['section']} {name} {request['op']} {request.get('name', '')}".strip())
        file.write("\n")
    if request["op"] == "prepare":
        if "fail" in actions:
            answer = {"error": "RuntimeError: no compiler"}
        else:
            delta = -2.1 if "wrong" in actions else float("nan") if "broken" in actions else -2.0
            answer = {
                "checks": {"delta": [1.0, delta]},
                "compile_seconds": {"forward": 7.0} if name == "XLA" else {},
                "first_seconds": {"forward": 2.0},
                "flops": {"forward": 4e9 if name == "XLA" else 5e9},
                "matmul_flops_per_second": 1e10,
                "video_batch": 2,
                "device": "none",
                "versions": {},
            }
    elif request["op"] == "run":
        runs += 1
        if "die" in actions and runs == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if "silent" in actions:
            time.sleep(60)
        answer = {"seconds": float(seconds) + runs / 10}
        if "full" in actions:
            answer = {"error": "JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory\nby"}
    else:
        answer = {"peak_bytes": int(1e9 * float(seconds)), "peak_method": "made up"}
    print(json.dumps(answer), flush=True)
