"""Profiles a program: which kernels take its time, and which part of the network asks for them."""

from __future__ import annotations

import collections
import pathlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

from benchmarks.gpu.child import Emit, Options, serve
from benchmarks.gpu.inputs import make_task
from benchmarks.xla_worker import make_job

_RUNS = 3
_SHOWN = 25  # kernels
_OP_NAME = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.M)


class Event(NamedTuple):
    """A kernel's run: its name, its HLO operation ("" where unknown), when it ran (ns)."""

    kernel: str
    operation: str
    start: float
    end: float


def measure(options: Options, emit: Emit) -> None:
    """Emits "kernels" and "parts", largest first, and the "busy_share" of the traced time."""
    section = options["section"]
    function, arguments = make_job(make_task(options, section, options["pairs"])).program()
    compiled = function.lower(*arguments).compile()
    sources = dict(_OP_NAME.findall(compiled.as_text()))
    modules = _modules(arguments[0])
    emit(device=jax.devices()[0].device_kind, operations=len(sources))

    def run() -> None:
        nonlocal arguments
        result = jax.block_until_ready(compiled(*arguments))
        if section == "train":
            arguments = (result[0], *arguments[1:])

    run()
    with tempfile.TemporaryDirectory(dir=options["cache"]) as folder:
        with jax.profiler.trace(folder):
            for _ in range(_RUNS):
                run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
        events = list(read(profile, options["device"], sources))
        emit(trace_bytes=path.stat().st_size)
    if not events:
        lines = [f"{plane.name}: {line.name}" for plane in profile.planes for line in plane.lines]
        raise ValueError(f"no kernel in the trace, whose lines are {', '.join(lines)}")
    emit(runs=_RUNS, **summary(events, sources, modules))


def read(profile: Any, device: str, operations: Iterable[str]) -> Iterable[Event]:
    """The kernels of a trace.

    Args:
      profile: a `ProfileData`.
      device: "gpu": what ran on the GPU's streams; "cpu": the operations of XLA's threads, where a
        loop's time is also that of its operations.
      operations: names of the program's HLO operations. XLA calls its own kernels by them, which
        tells their operation where the trace does not, as in a CUDA graph.
    """
    by_kernel = {re.sub(r"[^0-9a-zA-Z_]", "_", name): name for name in operations}
    for plane in profile.planes:
        if device == "gpu" and not plane.name.startswith("/device:GPU"):
            continue
        lines = list(plane.lines)
        # A GPU's other lines, where there are any, repeat the kernels by operation or module.
        streams = [line for line in lines if line.name.startswith("Stream")]
        for line in streams or lines:
            for event in line.events:
                stats = {name: value for name, value in event.stats if name is not None}
                operation = str(stats.get("hlo_op", ""))
                if device == "gpu" or operation:
                    operation = operation or by_kernel.get(event.name, "")
                    start = event.start_ns
                    yield Event(event.name, operation, start, start + event.duration_ns)


def summary(
    events: Sequence[Event], sources: Mapping[str, str], modules: Sequence[str]
) -> dict[str, Any]:
    """Sums of a trace's kernels.

    Args:
      events: of all runs.
      sources: HLO operation to the path of the code that asked for it.
      modules: the network's parts, by the name of their parameters.

    Returns:
      "kernels" and "parts" as rows with "ms" (of all runs), "share" and "count", largest first;
      "busy_share", the share of the time from the first kernel to the last in which one ran, and
      "span_ms", that time; "kernel_count".
    """
    by_kernel: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    by_part: dict[str, list[float]] = collections.defaultdict(list)
    for event in events:
        duration, source = event.end - event.start, sources.get(event.operation, "")
        by_kernel[event.kernel, event.operation].append(duration)
        by_part[part_of(source, modules)].append(duration)
    whole = sum(event.end - event.start for event in events)
    busy, span = _busy(events)
    kernels = [
        {"kernel": name[:120], "operation": operation, "from": sources.get(operation, "")[-160:]}
        | _row(durations, whole)
        for (name, operation), durations in _largest(by_kernel)[:_SHOWN]
    ]
    return {
        "kernels": kernels,
        "parts": [{"part": part} | _row(times, whole) for part, times in _largest(by_part)],
        "kernel_count": len(events),
        "busy_share": busy / span if span else 1.0,
        "span_ms": span / 1e6,
    }


def part_of(source: str, modules: Sequence[str]) -> str:
    """The part of the network that a path names, and whether it is of the backward pass."""
    # As in "jit(step)/transpose(jvp(FineCausal))/video_encoder.encode_frames/conv1/mul".
    found = [name for name in re.split(r"[/().]+", source) if name in modules]
    if not found:
        return "other (losses, optimiser)" if source else "unknown"
    return found[0] + (", backward" if "transpose(" in source else "")


def _modules(first: Any) -> list[str]:
    """Names of the network's parts, from variables or from a state that holds them."""
    variables = first if isinstance(first, Mapping) else first.variables
    return list(variables["params"])


def _largest(sums: Mapping[Any, list[float]]) -> list[tuple[Any, list[float]]]:
    return sorted(sums.items(), key=lambda item: -sum(item[1]))


def _row(durations: Sequence[float], whole: float) -> dict[str, Any]:
    total = sum(durations)
    return {"ms": total / 1e6, "share": total / whole if whole else 0.0, "count": len(durations)}


def _busy(events: Sequence[Event]) -> tuple[float, float]:
    """Nanoseconds in which a kernel ran, on any stream, and from the first to the last."""
    ordered = sorted(events, key=lambda event: event.start)
    busy, end = 0.0, ordered[0].start if ordered else 0.0
    first = end
    for event in ordered:
        busy += max(0.0, event.end - max(end, event.start))
        end = max(end, event.end)
    return busy, end - first


if __name__ == "__main__":
    serve(measure)
