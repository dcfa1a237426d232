"""Runs one part on a GPU, or makes the table of all that was measured.

    python -m benchmarks.gpu PART [--seconds=520]
    python -m benchmarks.gpu table

The same command again goes on with what is left. The exit code is 0 where all was measured, 1 where
something failed, 3 where something is left to run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Sequence

from benchmarks.gpu import drive, facts, table
from benchmarks.gpu.plan import PARTS
from benchmarks.gpu.record import Record, read_all, write_atomically

TABLE = "table.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; returns the exit code."""
    start = time.monotonic()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    if options.part == "table":
        write_table(options.out, options.predictions)
        print((options.out / TABLE).read_text())
        return 0
    part = PARTS[options.part]
    known = facts.collect(options.device, options.sizes, ["benchmarks/gpu.sh", *arguments])
    path = options.out / f"{options.part}.json"
    record = Record(path, (options.part, part.letter), known)
    if record.kept:
        print(f"kept the results of other code, versions or another machine as {record.kept}")
    measurements = [one for one in part.measurements if options.only in one.name]
    if not measurements:
        names = ", ".join(one.name for one in part.measurements)
        print(f"--only={options.only}: in none of {names}", file=sys.stderr)
        return 2
    common = {
        "device": options.device,
        "sizes": options.sizes,
        "source": known["source"],
        "cache": str(options.cache),
        "log": str(options.cache / "log.txt"),
        "reference": str(options.reference),
        "rounds": options.rounds,
    }
    options.cache.mkdir(parents=True, exist_ok=True)
    until = start + options.seconds
    with drive.cut_by_signals():
        code = drive.run(
            measurements,
            record,
            common,
            until=until,
            again=options.again,
            report=lambda line: print(line, flush=True),
        )
    write_table(options.out, options.predictions)
    print(f"wrote {path} and {options.out / TABLE}")
    return code


def describe() -> str:
    """A line a part."""
    return "\n".join(
        f"  {name:14} ({part.letter}) {part.minutes} min  {part.what}"
        for name, part in PARTS.items()
    )


def write_table(folder: pathlib.Path, predictions: pathlib.Path) -> None:
    """Writes the table of all records; a fault in it is told in its place, and loses no record."""
    try:
        text = table.markdown(read_all(folder), table.read_predictions(predictions))
    except Exception:
        text = f"The table could not be made; the JSON files are whole.\n\n{traceback.format_exc()}"
    write_atomically(folder / TABLE, text)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh",
        description=__doc__,
        epilog="parts, with the minutes expected on an H100:\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=(*PARTS, "table"), metavar="PART", help="or: table")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--sizes", choices=("full", "tiny"), default="full")
    parser.add_argument("--seconds", type=float, default=520, help="after which nothing runs on")
    parser.add_argument("--only", default="", help="measurements whose name holds this text")
    parser.add_argument("--again", action="store_true", help="run those that failed once more")
    parser.add_argument("--rounds", type=int, default=20, help="timed runs of each operation")
    out = pathlib.Path(os.environ.get("GPU_OUT", "runs/gpu"))
    parser.add_argument("--out", type=pathlib.Path, default=out, help="for JSON and table.md")
    cache = os.environ.get("GPU_CACHE")
    parser.add_argument("--cache", type=pathlib.Path, default=cache, help="for compiled programs")
    parser.add_argument("--reference", type=pathlib.Path, default=facts.ROOT / "tests/reference")
    predictions = facts.ROOT / "docs/compile"
    parser.add_argument("--predictions", type=pathlib.Path, default=predictions)
    options = parser.parse_args(["--help"] if arguments[:1] in ([], ["help"]) else arguments)
    for name in ("seconds", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name):g}, expected at least 1")
    options.out = options.out.absolute()
    options.cache = pathlib.Path(options.cache or options.out / "cache").absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
