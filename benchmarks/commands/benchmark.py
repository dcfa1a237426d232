"""Time this network against the same one in PyTorch, on the same cores, run by run in turn.

Sections: forward (a batch of pairs), train (a step), evaluation (a query against its exemplars: in
PyTorch every pair from frames, here each video encoded once), pipeline (pairs a second from the
built data sets: of one thread with --config.data.workers=0, each builder config in turn, else of
all workers together). Weights and videos are random and the same for all; workers that disagree on
the result (of a training step, whose dropout differs, on the mask's loss) are refused. Every
training step ends in an update, whatever config.train.accumulate says. Writes benchmark.json, after
every round, and benchmark.png into --workdir, where earlier ones are kept as benchmark.1.json, ...

    python launch.py benchmark --config=configs/finediving_hm.py --rounds=5
    python launch.py benchmark --config=configs/demo.py --settings= --sections=forward
    python launch.py benchmark --config=configs/demo.py --sections=pipeline --config.data.workers=0

The exit code is 1 where a worker failed; what the others measured is kept.
"""

import pathlib
from typing import Any

NEEDS_CONFIG = True


def define_flags() -> None:
    """Defines --sections, --settings, --rounds and --device."""
    from absl import flags

    from benchmarks.options import DEVICES, SECTIONS, TORCH_SETTINGS

    flags.DEFINE_list("sections", list(SECTIONS), "What to time.")
    flags.DEFINE_list("settings", list(TORCH_SETTINGS), "Of PyTorch; empty times XLA alone.")
    flags.DEFINE_integer("rounds", 5, "Timed runs of everything, in turn.")
    flags.DEFINE_string("device", "cpu", f"One of {', '.join(DEVICES)}.")


def run(flags: Any) -> int:
    """Runs the benchmark; returns the exit code."""
    import importlib.util
    import signal
    import sys

    from benchmarks import report, results, throughput
    from finecausal_jax.runtime import files
    from finecausal_jax.settings import read

    settings = read(flags.config)
    throughput.check_options(
        settings,
        flags.sections,
        flags.settings,
        flags.rounds,
        flags.device,
        has_torch=importlib.util.find_spec("torch") is not None,
    )
    # Ended politely or not: workers stop and the temporary weights go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = pathlib.Path(flags.workdir or "runs/benchmark")
    numbers, plot = folder / "benchmark.json", folder / "benchmark.png"
    files.check_folder(folder, "--workdir")
    for kept in files.keep_earlier(numbers, plot):
        print(f"kept earlier results as {kept}")
    found = throughput.run(
        settings,
        flags.sections,
        flags.settings,
        rounds=flags.rounds,
        device=flags.device,
        save=lambda found: report.write_json(results.summarize(found), numbers),
    )
    whole = results.summarize(found)
    report.print_tables(whole)
    report.write_plot(whole, plot)
    print(f"wrote {numbers} and {plot}")
    return 1 if any(result["failures"] for result in whole["sections"].values()) else 0
