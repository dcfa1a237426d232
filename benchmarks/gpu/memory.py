"""Runs a program and tells what it took of the device, beside what XLA had planned."""

from __future__ import annotations

from typing import Any

import jax

from benchmarks.gpu.child import Emit, Options, compiled_programs, serve
from benchmarks.gpu.inputs import make_task
from benchmarks.xla_worker import Train
from finecausal_jax.compilation import programs
from finecausal_jax.interop.pytorch import from_pytorch
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.runtime.memory import planned_memory
from finecausal_jax.settings import things

_RUNS = 2  # the second shows what stays of the first


def measure(options: Options, emit: Emit) -> None:
    """Emits the "plan" and, after running, the allocator's "peak" and "limit"; bytes.

    The mark of a process that compiled is of no use: choosing kernels by timing them takes memory,
    too. So it asks to be started again; the program is in the cache then.
    """
    before = compiled_programs(options)
    device = jax.devices()[0]
    function, arguments = _PROGRAMS[options["program"]](options)
    compiled = function.lower(*arguments).compile()
    emit(device=device.device_kind, plan=planned_memory(compiled), at_start=_in_use(device))
    compiled_here = compiled_programs(options) > before
    if compiled_here and not options["again"]:
        emit(restart=True)
        return
    for _ in range(_RUNS):
        result = jax.block_until_ready(compiled(*arguments))
        if options["program"] == "train":
            arguments = (result[0], *arguments[1:])  # the old state is gone
        del result
    stats = device.memory_stats() or {}
    emit(
        peak=stats.get("peak_bytes_in_use"),
        limit=stats.get("bytes_limit"),
        largest_allocation=stats.get("largest_alloc_size"),
        reserved=stats.get("peak_pool_bytes", stats.get("peak_bytes_reserved")),
        peak_of_compiling_too=compiled_here,
    )


def _train(options: Options) -> tuple[Any, tuple[Any, ...]]:
    """The benchmark's training step, which part `train` has compiled."""
    return Train(make_task(options, "train", options["pairs"])).program()


def _score(options: Options) -> tuple[Any, tuple[Any, ...]]:
    """What `launch.py compile --programs=score` compiles."""
    task = make_task(options, "forward", options["pairs"])
    job = Train(task)
    videos = task.inputs()
    pairs = options["pairs"]
    sides = [
        {"frames": videos["frames_uint8"][rows], "mask": videos["mask"][rows]}
        for rows in (slice(pairs), slice(pairs, 2 * pairs))
    ]
    variables = from_pytorch(task.weights(), model=job.model, where="benchmark weights")
    layout = make_layout()
    lowered = programs.lower("score", things.program_parts(job.settings, layout), pairs)
    arguments = (layout.place(variables), *layout.place_batch(sides))
    return _Lowered(lowered), arguments


class _Lowered:
    """A lowered program in the place of a jitted function."""

    def __init__(self, lowered: Any):
        self._lowered = lowered

    def lower(self, *_: Any) -> Any:
        return self._lowered


def _in_use(device: jax.Device) -> int | None:
    return (device.memory_stats() or {}).get("bytes_in_use")


_PROGRAMS = {"train": _train, "score": _score}

if __name__ == "__main__":
    serve(measure)
