"""Times a section with one of the benchmark's workers, on a device that nothing else uses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from benchmarks.gpu.child import Emit, Options, compiled_programs, serve
from benchmarks.gpu.inputs import make_task
from benchmarks.gpu.plan import XLA
from benchmarks.throughput import COMMANDS
from benchmarks.workers import Worker

# By section: XLA's parts, PyTorch's one.
_OPERATIONS = {
    "forward": (("forward",), ("forward",)),
    "train": (("train",), ("train",)),
    "evaluation": (("encode_batch", "compare", "new_dive"), ("score_dive",)),
}
_LONGEST_S = 40.0  # of timing; a slow section gets fewer rounds
_KEPT = 256  # values of a checked tensor: enough to tell another result


def measure(options: Options, emit: Emit) -> None:
    """Emits what the worker prepared, then after every round the "seconds" of each operation."""
    name, section = options["worker"], options["section"]
    task = make_task(options, section, options["pairs"], name.partition(" ")[2])
    before = compiled_programs(options)
    worker = Worker(name, COMMANDS[name], task.to_json())
    try:
        prepared = worker.ask(op="prepare")
        emit(
            **{**prepared, "checks": thinned(prepared["checks"])},
            compiled_here=compiled_programs(options) - before if name == XLA else None,
            benchmark=task.config["benchmark"],
        )
        operations = _OPERATIONS[section][name != XLA]
        seconds: dict[str, list[float]] = {operation: [] for operation in operations}
        start = time.monotonic()
        for _ in range(options["rounds"]):
            for operation in operations:
                answer = worker.ask(op="run", name=operation)
                seconds[operation].append(answer["seconds"])
            emit(seconds=seconds)
            if time.monotonic() - start > _LONGEST_S:
                break
        emit(**worker.ask(op="memory"))
    finally:
        worker.close()


def thinned(checks: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Evenly chosen values of each tensor, the same for every worker, at float32's precision."""
    kept = {}
    for name, values in checks.items():
        step = -(-len(values) // _KEPT)
        kept[name] = [float(f"{value:.9g}") for value in values[::step]]
    return kept


if __name__ == "__main__":
    serve(measure)
