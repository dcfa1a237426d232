"""Compile the training step and the scorer for hardware that is not there.

Prints per device: memory by the compiler's own analysis, FLOPs, bytes moved, what devices send each
other, and the least time a run can take (roofline); writes them as JSON into --workdir, into a file
named by topology, program, dtype and remat. Without --batch_size it looks for the largest batch
that fits, and says which that is; the same command with more --compiles goes on from there. Results
of other code or XLA_FLAGS are kept under another name. TPUs need `pip install -e '.[tpu]'`, GPUs
'.[cuda12]'; neither needs the hardware. Full size takes minutes a compilation.

    python launch.py compile --config=configs/finediving_hm.py --topology=v5e:2x4
    python launch.py compile --config=configs/finediving_hm.py --topology=h100:8 --batch_size=32
    python launch.py compile --config=configs/demo.py --topology=v5e:1x1 --programs=score

A GPU's figures leave out what cuDNN takes for itself, which only the GPU can tell. The exit code is
1 where a batch given by --batch_size, or a single pair a device, does not fit.
"""

import dataclasses
import pathlib
from typing import Any

from finecausal_jax.runtime.errors import InputError

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --topology, --programs, --batch_size and --compiles."""
    from absl import flags

    flags.DEFINE_string("topology", None, "Chips and how they are joined: v5e:2x4, h100:8, ...")
    flags.mark_flag_as_required("topology")
    flags.DEFINE_list("programs", ["train", "score"], "What to compile.")
    flags.DEFINE_integer(
        "batch_size", 0, "Pairs over all devices; 0 looks for the largest number that fits."
    )
    flags.DEFINE_integer("compiles", 8, "Most compilations a program in that search.")


def run(flags: Any) -> int:
    """Compiles and reports; returns the exit code."""
    from finecausal_jax.compilation import hardware

    hardware.prepare_environment()
    from finecausal_jax.compilation import estimate, programs, report
    from finecausal_jax.runtime import files, provenance
    from finecausal_jax.settings import config as configs
    from finecausal_jax.settings import read, schema, things

    unknown = set(flags.programs) - set(programs.PROGRAMS)
    if unknown or not flags.programs:
        raise InputError(
            f"--programs={','.join(flags.programs)}: expected some of {programs.PROGRAMS}"
        )
    if flags.batch_size < 0 or flags.compiles < 1:
        raise InputError("--batch_size must be at least 0 and --compiles at least 1")
    topology = hardware.parse_topology(flags.topology)
    settings = read(flags.config)
    how = (settings.model.dtype, settings.model.remat)
    parts = things.program_parts(settings, hardware.make_layout(topology))
    workdir = pathlib.Path(flags.workdir or "runs/compile")
    paths = {
        program: workdir / report.file_name(topology, program, *how, flags.batch_size)
        for program in flags.programs
    }
    files.check_folder(workdir, "--workdir")
    made_with = provenance.compiled_with()

    def differences(saved: dict[str, Any]) -> list[str]:
        return configs.differences(read(saved), settings, schema.FIXED_ON_RESUME)

    earlier = {
        program: report.earlier_estimates(path, differences, made_with)
        for program, path in paths.items()
    }
    done: list[estimate.Estimate] = []
    lines, fits = [], True
    for program, path in paths.items():
        mine = list(earlier[program])
        if not mine:
            for kept in files.keep_earlier(path):
                print(f"kept results of other code or XLA_FLAGS as {kept}")

        def compile_for(
            batch_size: int,
            program: str = program,
            path: pathlib.Path = path,
            mine: list[estimate.Estimate] = mine,
        ) -> estimate.Estimate:
            for known in mine:
                if known.batch_size == batch_size:
                    print(f"{batch_size} pairs: compiled before, taken from {path}")
                    return known
            result = estimate.estimate(program, parts, topology, batch_size)
            mine.append(result)
            so_far = {program: estimate.found(mine, topology.devices)}
            # At once: the next compilation may take long, or all of this machine's memory.
            report.write_json(
                mine,
                topology,
                dataclasses.asdict(settings),
                path,
                None if flags.batch_size else so_far,
                made_with=made_with,
            )
            return result

        print(f"{program}: tracing and compiling for {topology.name}", flush=True)
        if flags.batch_size:
            compile_for(flags.batch_size)
        else:
            search = estimate.largest_batch(
                compile_for, topology.devices, lambda line: print(line, flush=True), flags.compiles
            )
            lines.append(report.search_line(program, search))
        done += mine
        fits = fits and any(one.fits for one in mine)
    report.print_estimates(done, topology)
    for line in lines:
        print(line)
    for path in paths.values():
        print(f"wrote {path}")
    if not fits:
        print(
            "does not fit: use fewer pairs or more devices, --config.model.dtype=bfloat16 or "
            "--config.model.remat=blocks"
        )
    return 0 if fits else 1
