"""Times the network in XLA and in PyTorch, in turn, on the same cores.

Each section starts a fresh process for XLA and for each PyTorch setting, so that its peak memory is
its own. Each is prepared alone; then rounds follow in which every process runs once while the
others wait, so that a change in the machine's mood meets them all. Each round begins with another
process.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import results
from benchmarks.options import DEVICES, SECTIONS, TORCH_SETTINGS
from benchmarks.results import XLA
from benchmarks.task import (
    Task,
    built_data_sets,
    write_inputs,
    write_weights,
)
from benchmarks.workers import Worker, WorkerError
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.memory import machine_bytes
from finecausal_jax.runtime.progress import Progress, progress, say
from finecausal_jax.runtime.provenance import commit
from finecausal_jax.settings import Settings, things
from finecausal_jax.training.losses import AS_REFERENCE

COMMANDS = {
    XLA: (sys.executable, "-m", "benchmarks.xla_worker"),
    **{
        f"PyTorch {setting}": (
            sys.executable,
            "-m",
            "benchmarks.torch_baseline.worker",
        )
        for setting in TORCH_SETTINGS
    },
}

# Operations of a section by worker: XLA's parts, PyTorch's one. The pipeline's: see `_operations`.
_OPERATIONS = {
    "forward": (("forward",), ("forward",)),
    "train": (("train",), ("train",)),
    "evaluation": (("encode_batch", "compare", "new_dive"), ("score_dive",)),
}


def check_options(
    settings: Settings,
    sections: Sequence[str],
    torch_settings: Sequence[str],
    rounds: int,
    device: str,
    *,
    has_torch: bool,
) -> None:
    """Raises InputError where a benchmark cannot be run, with what would mend it."""
    for flag, values, known in (
        ("--sections", sections, SECTIONS),
        ("--settings", torch_settings, TORCH_SETTINGS),
        ("--device", (device,), DEVICES),
    ):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise InputError(f"{flag}: {', '.join(unknown)} is none of {', '.join(known)}")
    if not sections:
        raise InputError(f"--sections is empty, expected some of {', '.join(SECTIONS)}")
    if rounds < 1:
        raise InputError(f"--rounds is {rounds}, expected at least 1")
    if not torch_settings or tuple(sections) == ("pipeline",):
        return
    alone = "or time XLA alone with --settings="
    if device == "tpu":
        raise InputError(f"--device=tpu: the PyTorch baseline runs on cpu and gpu; {alone}")
    if not has_torch:
        raise InputError(
            f"PyTorch is not installed: install it with pip install -e '.[torch]', {alone}"
        )
    # What the baseline has, too, or what changes no number.
    free = {"graph_scope": "pair", "dtype": "float32", "remat": "none"}
    full = things.make_model(settings).clone(**free)
    from finecausal_jax.models.finecausal import FineCausal

    if full != FineCausal(dtype="float32") or settings.data.frame_size != 112:
        raise InputError(
            "the PyTorch baseline exists at full size only, and this config's model or "
            f"config.data.frame_size is another: use configs/finediving_hm.py, {alone}"
        )
    if "train" in sections and things.step_settings(settings, 1).loss != AS_REFERENCE:
        raise InputError(
            "the PyTorch baseline has the reference's losses, and config.train.loss_weights or "
            f"config.train.mask_foreground is another: leave them out, {alone}"
        )


def run(
    settings: Settings,
    sections: Sequence[str],
    torch_settings: Sequence[str],
    *,
    rounds: int,
    device: str,
    save: Callable[[dict[str, Any]], None],
    report: Callable[[str], None] = say,
    commands: Mapping[str, Sequence[str]] = COMMANDS,
) -> dict[str, Any]:
    """Runs a benchmark.

    Args:
      settings: `settings.benchmark` has sizes.
      sections: some of `SECTIONS`.
      torch_settings: some of `TORCH_SETTINGS`; empty times XLA alone.
      rounds: timed runs of each operation.
      device: "cpu", "gpu" or "tpu".
      save: takes the results after every round, so that nothing measured is lost.
      report: takes lines that say how far it is.
      commands: how each worker is started.

    Returns:
      The results in plain Python values, see `results.summarize`. Workers that fail, or disagree on
      what they computed, are named in a section's "failures".
    """
    options = settings.benchmark
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(options.threads or cores, cores)
    # Every step updates the parameters: with more, only one step in some would be a whole one.
    train = dataclasses.replace(settings.train, accumulate=1)
    settings = dataclasses.replace(settings, train=train)
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "config": _plain(dataclasses.asdict(settings)),
        "device": device,
        "rounds": rounds,
        "threads": threads,
        "machine": _machine(),
        "sections": {},
    }
    with tempfile.TemporaryDirectory(prefix="finecausal_benchmark.") as name:
        folder = pathlib.Path(name)
        if set(sections) != {"pipeline"}:
            report("making weights and videos")
            write_weights(settings, folder)
            videos = max(2 * options.batch_size, 1 + settings.evaluate.exemplars)
            write_inputs(settings, videos, folder)
        for section in sections:
            result: dict[str, Any] = {"workers": {}, "failures": {}}
            found["sections"][section] = result
            if section == "pipeline" and not built_data_sets(found["config"]):
                result["skipped"] = (
                    f"config.data.data_dir {settings.data.data_dir} has no data set: launch.py "
                    "build makes it"
                )
                report(f"pipeline skipped: {result['skipped']}")
                save(found)
                continue
            base = Task(
                section=section,
                folder=str(folder),
                config=found["config"],
                batch_size=options.batch_size,
                exemplars=settings.evaluate.exemplars,
                video_batch=settings.evaluate.video_batch,
                warmup=options.warmup,
                threads=threads,
                device=device,
                # On an accelerator, larger: starting a product shall not count.
                matmul_size=options.matmul_size * (1 if device == "cpu" else 4),
            )
            names = [XLA]
            if section != "pipeline":
                names += [f"PyTorch {setting}" for setting in torch_settings]
            chosen = {name: commands[name] for name in names}
            with progress(len(chosen) + rounds, section, "turns") as shown:
                _run_section(base, chosen, rounds, result, lambda: save(found), report, shown)
    save(found)
    return found


def _run_section(
    base: Task,
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    result: dict[str, Any],
    save: Callable[[], None],
    report: Callable[[str], None],
    shown: Progress,
) -> None:
    """Prepares every worker, checks that they agree, and lets them run in turn."""
    workers: dict[str, Worker] = {}

    def drop(worker: str, reason: str) -> None:
        """Notes why a worker is left out from then on."""
        result["failures"][worker] = reason
        report(f"{base.section}: {reason}")
        workers.pop(worker).close()
        save()

    def attempt(worker: str, /, **request: Any) -> dict[str, Any] | None:
        """The worker's answer; None, and the worker is dropped, where it fails."""
        try:
            return workers[worker].ask(**request)
        except WorkerError as error:
            drop(worker, str(error))
            return None

    checks: dict[str, Any] = {}
    try:
        for name, command in commands.items():
            report(f"{base.section}: preparing {name}")
            task = Task(**{**vars(base), "setting": name.partition(" ")[2]})
            workers[name] = Worker(name, command, task.to_json(), _environment(base.device, name))
            shown.note(f"preparing {name}")
            prepared = attempt(name, op="prepare")
            shown.update()
            if prepared is None:
                continue
            checks[name] = prepared.pop("checks", {})
            result["workers"][name] = {
                **prepared,
                "seconds": {operation: [] for operation in _operations(base, name)},
            }
        result["disagreement"], faults = results.check_agreement(
            base.section, checks, base.config["model"]["dtype"]
        )
        for name, fault in faults.items():
            drop(name, fault)
        for turn in range(rounds):
            # Each begins in its turn: what a run leaves behind (heat, caches) meets them all.
            for name in _rotated(list(workers), turn):
                shown.note(f"round {turn + 1}, {name}")
                for operation, seconds in result["workers"][name]["seconds"].items():
                    answer = attempt(name, op="run", name=operation)
                    if answer is None:
                        break
                    seconds.append(answer["seconds"])
            report(f"{base.section}: round {turn + 1} of {rounds}")
            shown.update()
            save()
        for name in list(workers):
            result["workers"][name].update(attempt(name, op="memory") or {})
        save()
    finally:
        for worker in workers.values():
            worker.close()


def _rotated(names: list[str], turn: int) -> list[str]:
    first = turn % len(names) if names else 0
    return names[first:] + names[:first]


def _operations(task: Task, worker: str) -> tuple[str, ...]:
    if task.section == "pipeline":
        return built_data_sets(task.config) if worker == XLA else ()
    return _OPERATIONS[task.section][0 if worker == XLA else 1]


def _environment(device: str, worker: str) -> dict[str, str]:
    """Variables of a worker: the device, and no cache that would hide what compiling takes.

    The huge pages that `launch.py` asks for go to all but the reference, which is timed as its
    users run it: the best PyTorch setting shall be the best that PyTorch can do here.
    """
    inherited = dict(os.environ)
    if worker == results.REFERENCE:
        tunables = inherited.pop("GLIBC_TUNABLES", "").split(":")
        others = [one for one in tunables if one and not one.startswith("glibc.malloc.hugetlb=")]
        if others:
            inherited["GLIBC_TUNABLES"] = ":".join(others)
    return {
        **inherited,
        "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}[device],
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        # PyTorch needs room on the same GPU, and the peak shall be what is in use.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def _machine() -> dict[str, Any]:
    chip = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        chip = models[0].partition(":")[2].strip() if models else chip
    prefixes = ("GLIBC_", "JAX_", "XLA_", "OMP_", "MKL_", "TORCH")
    return {
        "processor": chip,
        "cores": os.cpu_count(),
        "memory_bytes": machine_bytes(),
        "system": platform.system(),
        "python": platform.python_version(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(prefixes)},
    }


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return list(tree) if isinstance(tree, tuple) else tree
