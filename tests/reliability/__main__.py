"""Tries what must not lose anything or let anybody in, and writes a table of how it went.

python -m tests.reliability                     # all, some 40 minutes on two cores
python -m tests.reliability --inputs=60 --kills=3 --terms=1 --interrupts=1 --epochs=4
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from finecausal_jax.runtime.provenance import commit
from tests.reliability import (
    damaged_data,
    damaged_runs,
    hostile_images,
    hostile_pickles,
    hostile_weights,
    interruptions,
    isolation,
    small,
)
from tests.reliability.case import Case

BEGIN, END = "<!-- what `make reliability` writes -->\n", "<!-- end -->"
GENERATORS = (damaged_runs, damaged_data, hostile_pickles, hostile_weights, hostile_images)


def main() -> int:
    """Runs what the arguments ask for; returns 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10**9, help="how many; all where left out")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of the training")
    parser.add_argument("--terms", type=int, default=5, help="SIGTERMs")
    parser.add_argument("--interrupts", type=int, default=5, help="Ctrl-Cs (SIGINT)")
    parser.add_argument("--epochs", type=int, default=16, help="of the training, eight steps each")
    parser.add_argument("--seed", type=int, default=0, help="fixes what is damaged, and when")
    parser.add_argument("--output", type=pathlib.Path, help="page with a place for the tables")
    options = parser.parse_args()
    began = time.monotonic()
    tables, failed = [], False
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if options.inputs:
            table, wrong = _inputs(folder / "inputs", options.inputs, options.seed)
            tables.append(table)
            failed |= wrong
        numbers = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
        numbers += [signal.SIGINT] * options.interrupts
        if numbers:
            random.Random(options.seed).shuffle(numbers)
            table, wrong = _signals(folder / "runs", numbers, options.epochs, options.seed)
            tables.append(table)
            failed |= wrong
    tables.append(
        f"Commit {commit()}, seed {options.seed}, {(time.monotonic() - began) / 60:.0f} minutes."
    )
    text = "\n\n".join(tables) + "\n"
    print(text)
    if options.output:
        _put(text, options.output)
    return int(failed)


def _put(text: str, path: pathlib.Path) -> None:
    """Writes the tables into a page, in place of those of before."""
    head, begin, rest = path.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    path.write_text(f"{head}{begin}\n{text}{end}{tail}")


def _inputs(folder: pathlib.Path, most: int, seed: int) -> tuple[str, bool]:
    """Reads damaged and hostile inputs; returns a table and whether one was not as expected."""
    isolation.warm_up()
    found = list(_cases(folder, seed))
    by_kind = collections.defaultdict(list)
    for case in found:
        by_kind[case.kind].append(case)
    rng = random.Random(seed)
    results: dict[str, list[isolation.Result]] = {}
    for kind, cases in by_kind.items():
        share = min(len(cases), max(1, round(most * len(cases) / len(found))))
        results[kind] = [isolation.run(case) for case in rng.sample(cases, share)]
        print(f"{kind}: {share} of {len(cases)} inputs read", flush=True)
        for result in results[kind]:
            if result.problem:
                print(f"  WRONG {result.case.name}: {result.problem[:500]}", flush=True)
    everything = [result for some in results.values() for result in some]
    head = ("kind of input", "inputs", "refused", "read", "not as expected", "slowest, s", "MB")
    rows = [_row(kind, some) for kind, some in {**results, "all": everything}.items()]
    return _table(head, rows), any(result.problem for result in everything)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _row(kind: str, results: Sequence[isolation.Result]) -> tuple[object, ...]:
    outcomes = collections.Counter(result.outcome for result in results)
    wrong = sum(bool(result.problem) for result in results)
    slowest = max(result.seconds for result in results)
    memory = max(result.bytes for result in results) / 1e6
    numbers = (len(results), outcomes["error"], outcomes["read"], wrong)
    return (kind, *numbers, f"{slowest:.1f}", f"{memory:.0f}")


def _cases(folder: pathlib.Path, seed: int) -> Iterator[Case]:
    for generator in GENERATORS:
        own = folder / generator.__name__.rpartition(".")[2]
        own.mkdir(parents=True)
        yield from generator.cases(own, seed)


def _signals(
    folder: pathlib.Path, numbers: Sequence[int], epochs: int, seed: int
) -> tuple[str, bool]:
    """Breaks a training off and compares it with an unbroken one; returns a table, and whether
    anything differs."""
    folder.mkdir()
    data_dir = small.build(folder)
    whole, broken = (
        interruptions.Training(folder / name, data_dir, epochs, folder / "compiled")
        for name in ("unbroken", "broken")
    )
    print(f"unbroken: {whole.last_step} steps in {whole.finish():.0f} s", flush=True)
    compiled = _names(whole.cache)

    def told(ending: interruptions.Ending) -> None:
        name = signal.Signals(ending.number).name
        print(
            f"{name} amid a {ending.amid}: exit code {ending.code}, step {ending.step}, "
            f"{ending.seconds:.0f} s {ending.problem}",
            flush=True,
        )

    endings = interruptions.interrupt(broken, numbers, seed, told)
    problems = interruptions.differences(broken.workdir, whole.workdir, whole.last_step)
    if again := _names(whole.cache) - compiled:
        problems.append(f"compiled again: {sorted(again)}")
    problems += [ending.problem for ending in endings if ending.problem]
    problems += [
        "the training was over before a signal came" for ending in endings if ending.amid == "end"
    ]
    for problem in problems:
        print(f"WRONG {problem}", flush=True)
    if problems:
        print(broken.workdir.with_suffix(".log").read_text(errors="replace")[-10_000:])
    rows = []
    for number, code in interruptions.CODES.items():
        amid = collections.Counter(one.amid for one in endings if one.number == number)
        rows.append((signal.Signals(number).name, amid.total(), amid["step"], amid["save"], code))
    said = "; ".join(problems) or (
        f"all {whole.last_step} steps are there once, in metrics.jsonl and in TensorBoard, the "
        "parameters, statistics and moments at the end are bit for bit those of the unbroken "
        "run, and no start but the first compiled a program that was worth keeping"
    )
    head = ("signal", "sent", "amid a step", "amid a save", "exit code")
    return _table(head, rows) + f"\n\nAfter them: {said}.", bool(problems)


def _names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.glob("*-cache")}


if __name__ == "__main__":
    sys.exit(main())
