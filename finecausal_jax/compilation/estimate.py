"""Compiles a program for a topology and reads off what it takes."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from finecausal_jax.compilation import hlo, programs
from finecausal_jax.compilation.hardware import Topology
from finecausal_jax.runtime.layout import over_devices
from finecausal_jax.runtime.memory import GIB, planned_memory
from finecausal_jax.runtime.progress import progress

# Triton's tiles are chosen by timing them; guessed, they fail to compile for some small products.
# Command buffers would hide the kernels that `hlo.bytes_accessed` counts.
_OPTIONS = {"cuda": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_enable_command_buffer": ""}}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one device does for one run of a program; bytes, FLOPs and seconds.

    Attributes:
      program, topology, dtype, remat: what was compiled, for what.
      batch_size: pairs over all devices.
      fits: whether it fits the memory that a program may take.
      memory: "arguments", "outputs" (without those that take an argument's place), "temporaries",
        "code", "total"; of a program that the compiler refused, at most "total".
      limit: memory that a program may take.
      flops: by XLA's count; None where refused.
      bytes_accessed: from and to memory; by XLA's count on a TPU, on a GPU operands and results of
        every kernel.
      collectives: what devices send each other.
      roofline: the least seconds that "compute", "memory" and "links" take, each alone, and
        "total", the largest: a run takes longer.
      compile_seconds: lowering included.
    """

    program: str
    topology: str
    dtype: str
    remat: str
    batch_size: int
    fits: bool
    memory: dict[str, int]
    limit: int
    flops: float | None
    bytes_accessed: float | None
    collectives: tuple[hlo.Collective, ...]
    roofline: dict[str, float]
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers."""
        plain = dataclasses.asdict(self)
        return {**plain, "collectives": [part._asdict() for part in self.collectives]}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Estimate":
        """The estimate that `to_json` wrote."""
        links = tuple(hlo.Collective(**part) for part in row["collectives"])
        return cls(**{**row, "collectives": links})


def estimate(program: str, parts: programs.Parts, topology: Topology, batch_size: int) -> Estimate:
    """Compiles a program for a topology.

    Args:
      program: one of `programs.PROGRAMS`.
      parts: what it is made of, with a layout of the topology's devices.
      topology: from `hardware`.
      batch_size: pairs over all devices.

    Returns:
      The estimate; one that says `fits=False` where the compiler runs out of the chip's memory.
    """
    chip, dtype = topology.chip, jnp.dtype(parts.model.dtype).name
    start = time.perf_counter()
    memory: dict[str, int] = {}
    flops = moved = None
    links: tuple[hlo.Collective, ...] = ()
    compiled = _compile(program, parts, topology, batch_size)
    refused = isinstance(compiled, str)
    if isinstance(compiled, str):
        memory = used_memory(compiled)
    else:
        memory = planned_memory(compiled)
        text = compiled.as_text()
        links = tuple(hlo.collectives(text))
        if chip.platform == "tpu":
            costs = compiled.cost_analysis()
            flops, moved = costs["flops"], costs["bytes accessed"]
        else:
            # XLA counts nothing there: FLOPs are those asked for, before they become cuDNN's.
            on_cpu = dataclasses.replace(parts, layout=over_devices(jax.devices("cpu")[:1]))
            traced = programs.trace(program, on_cpu, batch_size)
            flops = hlo.asked_flops(traced, chip.platform) / topology.devices
            moved = hlo.bytes_accessed(text)
    limit = int(chip.usable * chip.memory)
    return Estimate(
        program=program,
        topology=topology.name,
        dtype=dtype,
        remat=parts.model.remat,
        batch_size=batch_size,
        fits=not refused and memory["total"] <= limit,
        memory=memory,
        limit=limit,
        flops=flops,
        bytes_accessed=moved,
        collectives=links,
        roofline=roofline(topology, dtype, flops, moved, links),
        compile_seconds=time.perf_counter() - start,
    )


def _compile(program: str, parts: programs.Parts, topology: Topology, batch_size: int) -> Any:
    """The compiled program; of one that takes too much memory, the refusal."""
    label = f"{program} of {batch_size} pairs for {topology.name}"
    with progress(2, label, "steps") as shown:
        shown.note("tracing")
        lowered = programs.lower(program, parts, batch_size)
        shown.update()
        shown.note("compiling")
        try:
            compiled = lowered.compile(_OPTIONS.get(topology.chip.platform))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            compiled = str(error)
        shown.update()
    return compiled


def roofline(
    topology: Topology,
    dtype: str,
    flops: float | None,
    bytes_accessed: float | None,
    collectives: tuple[hlo.Collective, ...],
) -> dict[str, float]:
    """The least time a device needs, in seconds, by what limits it; empty without counts.

    Williams, Waterman and Patterson, Roofline (CACM 2009), with the links between devices as a
    third roof: a ring sends (n - 1) / n of a result, an all-reduce twice that.
    """
    if flops is None or bytes_accessed is None:
        return {}
    chip, n = topology.chip, topology.devices
    sent = sum(
        part.bytes * (2 if part.kind == "all-reduce" else 1) * (n - 1) / n for part in collectives
    )
    times = {
        "compute": flops / chip.flops[dtype],
        "memory": bytes_accessed / chip.bandwidth,
        "links": sent / chip.link,
    }
    return {**times, "total": max(times.values())}


def used_memory(message: str) -> dict[str, int]:
    """What a compiler that ran out of memory says it would have taken."""
    match = re.search(r"[Uu]sed ([\d.]+)([KMGT]?) of", message)
    if not match:
        return {}
    unit = 1024 ** " KMGT".index(match[2] or " ")
    return {"total": int(float(match[1]) * unit)}


class Search(NamedTuple):
    """What a search for the largest batch knows; pairs are those of one device.

    Attributes:
      fits: the most pairs that were seen to fit; 0 where not even one does.
      too_many: the fewest that were seen not to fit; None where all did.
    """

    fits: int
    too_many: int | None

    @property
    def ended(self) -> bool:
        """Whether `too_many` follows `fits` closely: by an eighth of it, or by one pair."""
        return self.too_many is not None and self.too_many - self.fits <= max(1, self.fits // 8)


def found(estimates: Sequence[Estimate], devices: int) -> Search:
    """What the estimates of one program tell of the largest batch.

    Args:
      estimates: of any batch sizes, in any order.
      devices: how many share a batch.
    """
    fit = [one.batch_size // devices for one in estimates if one.fits]
    refused = [one.batch_size // devices for one in estimates if not one.fits]
    return Search(max(fit, default=0), min(refused, default=None))


def largest_batch(
    compile_for: Callable[[int], Estimate],
    devices: int,
    report: Callable[[str], None],
    most: int = 8,
) -> Search:
    """Looks for the largest number of pairs a device that fits.

    Doubles from one pair a device, or leaps where the memory so far says that more will fit, then
    halves the gap until it is an eighth of the answer.

    Args:
      compile_for: pairs over all devices to their estimate.
      devices: how many share them.
      report: takes a line of progress.
      most: compilations; each takes minutes at full size.

    Returns:
      What was found; its `ended` is False where `most` cut the search short.
    """
    done: list[Estimate] = []
    state, each = Search(0, None), 1
    while len(done) < most and not state.ended:
        report(f"compiling {each} pairs a device ({len(done) + 1} of at most {most})")
        result = compile_for(each * devices)
        done.append(result)
        total = result.memory.get("total")
        size = "" if total is None else f": {total / GIB:.2f} of {result.limit / GIB:.2f} GiB"
        verdict = "fits" if result.fits else "does not fit"
        report(f"  {verdict}{size}, {result.compile_seconds:.0f} s to compile")
        state = found(done, devices)
        if state.too_many is None:
            each = max(2 * state.fits, _power_of_two(_predict(result, each)))
        else:
            each = (state.fits + state.too_many) // 2
    return state


def _predict(result: Estimate, each: int) -> int:
    """Pairs a device that fit if all but the arguments grows with them."""
    growing = max(1, result.memory["total"] - result.memory["arguments"])
    return (result.limit - result.memory["arguments"]) * each // growing


def _power_of_two(number: int) -> int:
    return 2 ** int(math.log2(max(1, number)))
