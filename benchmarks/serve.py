"""A worker's side of the benchmark: answers one line of JSON with another.

    {"op": "prepare"}                  -> what `Job.prepare` says
    {"op": "run", "name": "forward"}   -> {"seconds": 10.6}
    {"op": "memory"}                   -> {"peak_bytes": ..., "peak_method": "..."}

The first line is the task. An exception becomes {"error": "..."}; the end of the input ends the
worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from benchmarks.task import Task

_STATUS = "/proc/self/status"
_CLEAR_REFS, _RESET_PEAK = "/proc/self/clear_refs", "5"  # Linux: sets VmHWM back to VmRSS


@runtime_checkable
class Job(Protocol):
    """One section in one framework, ready to be timed."""

    def prepare(self) -> dict[str, Any]:
        """Compiles, runs everything once and says what came out.

        Returns:
          "checks": {name: flat list of numbers} that another framework must agree with;
          "compile_seconds" and "first_seconds" (the first run, which may compile) by operation;
          "flops" of one run by operation; "device": its name; "versions" of libraries. XLA also
          says "temporary_bytes" by operation: its plan for all but arguments and results.
        """
        ...

    def operations(self) -> dict[str, Callable[[], Any]]:
        """What can be timed: each call ends when its result is there."""
        ...

    def matmul(self) -> Callable[[], Any]:
        """A product of two square matrices of `task.matmul_size` rows, in the model's dtype."""
        ...

    def peak_device_memory(self, *, reset: bool) -> tuple[int, str] | None:
        """Largest number of bytes that the operations take of the device, and how it is known.

        None on a CPU, and where nobody knows.
        """
        ...


def serve(make_job: Callable[[Task], Job]) -> None:
    """Serves one task over standard input and output, then returns.

    Args:
      make_job: makes the job; may raise where the device is not there.
    """
    # Libraries print what they like: their standard output becomes standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    line = sys.stdin.readline()
    if not line:
        return
    task = Task.from_json(line)
    pin(task.threads)
    job: Job | None = None
    counted_from_here = False
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["op"] == "prepare":
                job = make_job(task)
                report = _prepare(job, task)
                # What compiling took is not what running takes: the peak counts from here on.
                give_memory_back(task)
                counted_from_here = _reset_peak(job)
                answer(report)
            elif job is None:
                answer({"error": "asked to run before prepare"})
            elif request["op"] == "run":
                operation = job.operations()[request["name"]]
                # While a process waits, the kernel may make huge pages of the pieces of its heap.
                give_memory_back(task)
                # Untimed: after a pause a run pays for memory that other workers used meanwhile,
                # and no user waits for others between runs.
                operation()
                seconds = timed(operation)
                give_memory_back(task)
                answer({"seconds": seconds})
            else:
                answer(_peak_memory(job, task, reset=counted_from_here))
        except Exception as error:  # told to whoever asked, which carries on without this worker
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})


def pin(threads: int) -> None:
    """Keeps this process on the first `threads` of its cores, where the system can do so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def give_memory_back(task: Task) -> None:
    """On a CPU, returns freed memory to the system: the others run while this process waits.

    The C library keeps what was freed for later; of a training step those are gigabytes.
    """
    if task.device != "cpu":
        return
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # of the GNU library alone
        ctypes.CDLL(None).malloc_trim(0)


def _prepare(job: Job, task: Task) -> dict[str, Any]:
    matmul = job.matmul()
    matmul()  # compiles
    seconds = min(timed(matmul) for _ in range(5))  # the peak: what nothing disturbed
    report = {"matmul_flops_per_second": 2 * task.matmul_size**3 / seconds}
    report |= job.prepare()
    for run in job.operations().values():
        for _ in range(task.warmup):
            run()
    return report


def _reset_peak(job: Job) -> bool:
    """Starts the marks of used memory anew; returns whether the process's own was."""
    job.peak_device_memory(reset=True)
    try:
        with open(_CLEAR_REFS, "w") as file:
            file.write(_RESET_PEAK)
    except OSError:  # not Linux, or a kernel without it
        return False
    return True


def _peak_memory(job: Job, task: Task, *, reset: bool) -> dict[str, Any]:
    """The answer to "memory"; without "peak_bytes" where nobody knows."""
    device = job.peak_device_memory(reset=False)
    if device is not None:
        return dict(zip(("peak_bytes", "peak_method"), device, strict=True))
    if task.device != "cpu":
        return {"peak_method": "unknown: nothing tells of the device's memory"}
    if reset:  # else the mark is of compiling, too
        with contextlib.suppress(OSError, IndexError), open(_STATUS) as file:
            marks = [line.split()[1] for line in file if line.startswith("VmHWM")]
            method = "resident memory of the process (VmHWM, reset after warm-up)"
            return {"peak_bytes": int(marks[0]) * 1024, "peak_method": method}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_bytes": peak, "peak_method": "resident memory (ru_maxrss), compiling included"}
