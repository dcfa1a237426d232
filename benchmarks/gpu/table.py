"""Markdown of all records: what was measured, on what, and what is missing."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.plan import PYTORCH, XLA
from benchmarks.gpu.record import DONE

_GIB = 2**30
_ALL_ROWS = 45  # tensors of a case that are all shown; of more, the worst
_WORST = 12
_KERNEL = 60  # characters

Results = Mapping[str, Mapping[str, Any]]  # by measurement
Predictions = Mapping[tuple[str, str, int], Mapping[str, Any]]


def markdown(records: Sequence[Mapping[str, Any]], predictions: Predictions) -> str:
    """The report.

    Args:
      records: from `record.read_all`.
      predictions: from `read_predictions`.
    """
    if not records:
        return "Nothing was measured yet.\n"
    return "\n".join(line for one in records for line in _section(one, predictions)) + "\n"


def read_predictions(folder: pathlib.Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What `launch.py compile` foresaw for one H100, by program, dtype and pairs; bytes.

    Files of other topologies, with rematerialisation, or of another form are passed over.
    """
    found = {}
    for path in sorted(folder.glob("h100_1_*.json")):
        try:
            content = json.loads(path.read_text())
            accumulate = content["config"]["train"]["accumulate"]
            for row in content["estimates"]:
                if row["remat"] == "none":
                    key = (row["program"], row["dtype"], row["batch_size"])
                    found[key] = {**row["memory"], "accumulate": accumulate}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _section(record: Mapping[str, Any], predictions: Predictions) -> Iterable[str]:
    facts, measurements = record["facts"], record["measurements"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    yield f"## {record['part']} ({record['letter']}): {facts['device']}, {facts['sizes']} size"
    yield ""
    yield (
        f"Driver {facts['driver'] or 'none'}; {versions}; Python {facts['python']}; commit "
        f"{facts['commit'] or 'unknown'}, code {facts['source']}; `{facts['command']}`"
    )
    yield ""
    for name, entry in measurements.items():
        if entry["status"] != DONE:
            why = (entry.get("error") or "").splitlines()
            yield f"- {name}: **{entry['status']}**{', ' + _short(why[0], 300) if why else ''}"
    yield ""
    results = {name: entry["result"] for name, entry in measurements.items()}
    for key, show in _KINDS.items():
        chosen = {name: result for name, result in results.items() if key in result}
        if chosen:
            yield from show(chosen, predictions)
            yield ""


def _precision(results: Results, _: Predictions) -> Iterable[str]:
    """A row a tensor, a column a kind of product, the cases one after another."""
    for case in dict.fromkeys(name.partition("/")[0] for name in results):
        columns = {
            name.partition("/")[2]: {row["tensor"]: row for row in result["rows"]}
            for name, result in results.items()
            if name.partition("/")[0] == case
        }
        tensors = list(dict.fromkeys(tensor for rows in columns.values() for tensor in rows))
        exact = columns.get("highest", {})
        missed = [tensor for tensor, row in exact.items() if not row["passed"]]
        if exact:
            yield f"{case}: {len(exact) - len(missed)} of {len(exact)} within limits at `highest`."
        if len(tensors) > _ALL_ROWS:
            worst = sorted(exact, key=lambda tensor: -_of_limit(exact[tensor]))[:_WORST]
            tensors = list(dict.fromkeys(missed + worst))
            yield f"Shown are those that miss and the {_WORST} nearest to their limit."
        yield ""
        yield from _table(
            [f"{case}: error of the largest value", "limit at highest", *columns],
            (
                [
                    tensor,
                    f"{exact[tensor]['limit']:.0e}" if tensor in exact else "",
                    *(_error(rows.get(tensor), name) for name, rows in columns.items()),
                ]
                for tensor in tensors
            ),
        )
        yield ""


def _error(row: Mapping[str, Any] | None, column: str) -> str:
    if row is None:
        return ""
    value = row[row["counts"]]
    text = "not a number" if value is None else f"{value:.1e}"
    unit = " (absolute)" if row["counts"] == "absolute" else ""
    miss = " **MISS**" if column == "highest" and not row["passed"] else ""
    return text + unit + miss


def _of_limit(row: Mapping[str, Any]) -> float:
    value = row[row["counts"]]
    if value is None:
        return float("inf")
    return value / row["limit"] if row["limit"] else value


def _timing(results: Results, _: Predictions) -> Iterable[str]:
    """A row a worker and quantity; the ratio is PyTorch's median over XLA's."""
    from benchmarks import results as benchmark  # needs NumPy, which the other tables do not

    rows = []
    for group in dict.fromkeys(name.rpartition("/")[0] for name in results):
        section, dtype, pairs = group.split("/")
        workers = {
            worker: results[f"{group}/{worker}"]
            for worker in (XLA, *PYTORCH)
            if f"{group}/{worker}" in results
        }
        first = next(iter(workers.values()))
        found = {
            "config": {"benchmark": first["benchmark"]},
            "sections": {section: {"workers": workers}},
        }
        checks = {worker: result["checks"] for worker, result in workers.items()}
        agreement, faults = benchmark.check_agreement(section, checks, dtype)
        medians = {
            (worker, quantity): benchmark.spread(values)
            for worker in workers
            for quantity, values in benchmark.quantities(found, section, worker).items()
            if values
        }
        for (worker, quantity), spread in medians.items():
            result, median = workers[worker], spread["median"]
            against = _MATCHING.get(quantity, quantity)
            ratios = [
                f"{other.removeprefix('PyTorch ')} {medians[other, against]['median'] / median:.2f}"
                for other in PYTORCH
                if worker == XLA and (other, against) in medians
            ]
            said = faults.get(worker) or (
                f"{agreement[worker]:.0e}" if worker in agreement else "the measure"
            )
            rows.append(
                [
                    f"{quantity}, {dtype}, {pairs}",
                    worker,
                    *(f"{1e3 * spread[key]:.2f}" for key in ("median", "min", "max")),
                    ", ".join(ratios),
                    _compiled(result, worker),
                    _gib(result.get("peak_bytes")),
                    said,
                ]
            )
    yield from _table(
        [
            "quantity, dtype, pairs",
            "worker",
            "median ms",
            "least",
            "most",
            "PyTorch's time over XLA's",
            "compiling s",
            "peak GiB",
            "agrees within",
        ],
        rows,
    )


# PyTorch knows one way to score a dive: every pair from frames.
_MATCHING = {"new_dive": "score_dive", "test_protocol": "score_dive"}


def _compiled(result: Mapping[str, Any], worker: str) -> str:
    """Seconds of compiling; of a program that was found in the cache they mean nothing."""
    if worker == XLA:
        seconds = sum(result["compile_seconds"].values())
        return f"{seconds:.0f}" if result["compiled_here"] else f"{seconds:.0f} (cached)"
    return f"{sum(result['first_seconds'].values()):.0f} (first run)"


def _memory(results: Results, predictions: Predictions) -> Iterable[str]:
    rows = []
    for name, result in results.items():
        _, program, pairs = name.split("/")
        plan, foreseen = result["plan"], predictions.get((program, "float32", int(pairs)), {})
        peak, total = result.get("peak"), plan.get("total")
        rows.append(
            [
                f"{program}, {pairs}",
                _gib(foreseen.get("temporaries")),
                _gib(foreseen.get("total")),
                _gib(plan.get("arguments")),
                _gib(plan.get("temporaries")),
                _gib(total),
                _gib(peak) + (" (compiling too)" if result.get("peak_of_compiling_too") else ""),
                f"{peak / total:.3f}" if peak and total else "",
                _gib(result.get("limit")),
            ]
        )
    yield from _table(
        [
            "program, pairs: GiB",
            "foreseen temporaries",
            "foreseen total",
            "plan: arguments",
            "temporaries",
            "total",
            "actual peak",
            "peak of plan",
            "limit",
        ],
        rows,
    )


def _twice(results: Results, _: Predictions) -> Iterable[str]:
    rows = (
        [
            name.partition("/")[2],
            result["option"] or "none",
            f"{result['differ']} of {result['arrays']}",
            f"{result['worst']['array']}: {result['worst']['relative']:.1e}"
            if result["worst"]
            else "equal bit for bit",
            result["digest"],
        ]
        for name, result in results.items()
    )
    head = ["a step twice", "compiler option", "arrays that differ", "the worst", "digest"]
    yield from _table(head, rows)


def _kernels(results: Results, _: Predictions) -> Iterable[str]:
    for name, result in results.items():
        runs = result["runs"]
        yield (
            f"{name}: {result['span_ms'] / runs:.2f} ms a run while traced, a kernel runs "
            f"{result['busy_share']:.0%} of it; {result['kernel_count'] // runs} kernels a run."
        )
        yield ""
        yield from _table(
            ["part", "ms a run", "share", "kernels a run"],
            ([row["part"], *_times(row, runs)] for row in result["parts"]),
        )
        yield ""
        yield from _table(
            ["kernel", "operation", "asked for by", "ms a run", "share", "runs"],
            (
                [
                    f"`{_short(row['kernel'], _KERNEL)}`",
                    row["operation"],
                    f"`{row['from'][-_KERNEL:]}`" if row["from"] else "",
                    *_times(row, runs),
                ]
                for row in result["kernels"]
            ),
        )
        yield ""


def _times(row: Mapping[str, Any], runs: int) -> list[str]:
    return [f"{row['ms'] / runs:.3f}", f"{row['share']:.1%}", f"{row['count'] / runs:g}"]


# A key that only results of a kind have, and how they are shown.
_KINDS: dict[str, Callable[[Results, Predictions], Iterable[str]]] = {
    "rows": _precision,
    "seconds": _timing,
    "plan": _memory,
    "digest": _twice,
    "kernels": _kernels,
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |"


def _gib(value: int | float | None) -> str:
    return "" if value is None else f"{value / _GIB:.2f}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
