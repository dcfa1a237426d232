"""The table of the GPU's records."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu import table

FACTS = {
    "device": "NVIDIA H100",
    "sizes": "full",
    "driver": "580.1",
    "versions": {"jax": "0.11.2"},
    "python": "3.12.3",
    "commit": "1234",
    "source": "abc",
    "command": "benchmarks/gpu.sh x",
}


def record(**measurements):
    """A record; a measurement is its result, or the pair (status, error)."""
    entries = {}
    for name, value in measurements.items():
        if isinstance(value, tuple):
            status, error = value
            entries[name] = {"status": status, "error": error, "result": {}}
        else:
            entries[name] = {"status": "done", "result": value}
    return {"part": "x", "letter": "a", "facts": FACTS, "measurements": entries}


def rows(text):
    """The cells of every row of every table, heads included."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if set(row) != {"---"}]


def show(content, predictions=None):
    return table.markdown([content], predictions or {})


def test_what_is_missing_and_what_it_ran_on_is_told():
    text = show(record(one=("failed", "OSError: full\ntail"), two=("cut off", "time was up")))
    assert "NVIDIA H100, full size" in text
    assert "Driver 580.1; jax 0.11.2; Python 3.12.3; commit 1234, code abc" in text
    assert "- one: **failed**, OSError: full\n- two: **cut off**, time was up\n" in text


def check(tensor, relative, passed=True, counts="relative", absolute=None):
    return {
        "tensor": tensor,
        "relative": relative,
        "absolute": absolute,
        "limit": 2e-4,
        "counts": counts,
        "passed": passed,
    }


def test_errors_stand_side_by_side_by_product():
    exact = [check("delta", 1e-6), check("transitions", None, counts="absolute", absolute=0.0)]
    exact.append(check("mask", 3e-4, passed=False))
    shorter = [check("delta", 2e-3, passed=False), check("mask", None, passed=False)]
    measured = {"pair/highest": {"rows": exact}, "pair/default": {"rows": shorter}}
    text = show(record(**measured))
    assert "pair: 2 of 3 within limits at `highest`." in text
    assert rows(text) == [
        ["pair: error of the largest value", "limit at highest", "highest", "default"],
        ["delta", "2e-04", "1.0e-06", "2.0e-03"],
        ["transitions", "2e-04", "0.0e+00 (absolute)", ""],
        ["mask", "2e-04", "3.0e-04 **MISS**", "not a number"],
    ]


def test_of_many_tensors_those_nearest_to_their_limit_are_shown():
    many = [check(f"t{i}", i * 1e-6) for i in range(100)]
    found = rows(show(record(**{"train_step/highest": {"rows": many}})))
    assert [row[0] for row in found[1:]] == [f"t{i}" for i in range(99, 87, -1)]


def timed(seconds, first=None, **more):
    return {
        "seconds": {"forward": seconds},
        "checks": {"delta": [1.0, first or -2.0]},
        "compile_seconds": {},
        "first_seconds": {"forward": 9.0},
        "benchmark": {"test_dives": 2, "train_dives": 4},
        "peak_bytes": 2**31,
        **more,
    }


def test_times_are_medians_with_ratios_and_agreement():
    xla = {"compile_seconds": {"forward": 60.4}, "compiled_here": 0}
    measured = {
        "forward/float32/1/PyTorch reference": timed([0.3, 0.1, 0.2]),
        "forward/float32/1/XLA": timed([0.05, 0.04, 0.06], **xla),
        "forward/float32/1/PyTorch compiled": timed([0.1], first=-2.1),
    }
    text = show(record(**measured))
    assert rows(text)[1:] == [
        ["forward, float32, 1", "XLA", "50.00", "40.00", "60.00"]
        + ["reference 4.00, compiled 2.00", "60 (cached)", "2.00", "the measure"],
        [
            "forward, float32, 1",
            "PyTorch reference",
            "200.00",
            "100.00",
            "300.00",
            "",
            "9 (first run)",
        ]
        + ["2.00", "0e+00"],
        [
            "forward, float32, 1",
            "PyTorch compiled",
            "100.00",
            "100.00",
            "100.00",
            "",
            "9 (first run)",
        ]
        + ["2.00", rows(text)[3][-1]],
    ]
    assert rows(text)[3][-1].startswith("XLA and PyTorch compiled disagree on delta by 4.8e-02")


def test_scoring_is_held_against_pytorchs_one_way():
    xla = timed([0.1], compile_seconds={"one": 1.0}, compiled_here=2, video_batch=4)
    xla["seconds"] = {"encode_batch": [0.4], "compare": [0.02], "new_dive": [0.1]}
    torch = timed([1.0])
    torch["seconds"] = {"score_dive": [1.0]}
    names = ("evaluation/float32/1/XLA", "evaluation/float32/1/PyTorch reference")
    found = {
        row[0]: row for row in rows(show(record(**dict(zip(names, (xla, torch), strict=True)))))
    }
    assert found["new_dive, float32, 1"][5] == "reference 10.00"
    # A query's share of the bank: (2 + 4) / 2 encodings of 0.1 s, and a comparison.
    assert found["test_protocol, float32, 1"][2] == "320.00"
    assert found["test_protocol, float32, 1"][5] == "reference 3.12"


def test_memory_stands_beside_the_plan_and_what_was_foreseen():
    gib = 2**30
    plan = {"arguments": gib, "temporaries": 2 * gib, "total": 4 * gib}
    result = {"plan": plan, "peak": 5 * gib, "limit": 60 * gib}
    foreseen = {("train", "float32", 8): {"temporaries": 3 * gib, "total": 4.5 * gib}}
    cells = rows(
        show(record(**{"memory/train/8": result, "memory/score/1": {"plan": {}}}), foreseen)
    )
    assert cells[1] == [
        "train, 8",
        "3.00",
        "4.50",
        "1.00",
        "2.00",
        "4.00",
        "5.00",
        "1.250",
        "60.00",
    ]
    assert cells[2] == ["score, 1"] + [""] * 8


def test_predictions_are_read_from_what_compile_wrote(tmp_path):
    row = {"program": "train", "dtype": "float32", "remat": "none", "batch_size": 8}
    estimates = [
        {**row, "memory": {"total": 5}},
        {**row, "remat": "blocks", "memory": {"total": 3}},
    ]
    content = {"config": {"train": {"accumulate": 2}}, "estimates": estimates}
    (tmp_path / "h100_1_train.json").write_text(json.dumps(content))
    (tmp_path / "h100_1_other.json").write_text("[]")
    (tmp_path / "v5e_1_train.json").write_text(json.dumps(content))
    found = table.read_predictions(tmp_path)
    assert found == {("train", "float32", 8): {"total": 5, "accumulate": 2}}


def test_two_steps_and_kernels_have_their_tables():
    twice = {"digest": "12ab", "option": None, "differ": 1, "arrays": 9}
    equal = {"digest": "34cd", "option": "xla_x", "differ": 0, "arrays": 9, "worst": None}
    times = {"ms": 6.0, "share": 0.75, "count": 3}
    kernels = {
        "kernels": [{"kernel": "a|b", "operation": "dot.1", "from": "jit(f)/x", **times}],
        "parts": [{"part": "base_model", **times}],
        "runs": 3,
        "span_ms": 9.0,
        "busy_share": 0.5,
        "kernel_count": 30,
    }
    text = show(
        record(
            **{
                "twice/as it is": {**twice, "worst": {"array": "['w']", "relative": 1e-7}},
                "twice/deterministic": equal,
                "kernels/train": kernels,
            }
        )
    )
    cells = rows(text)
    assert ["as it is", "none", "1 of 9", "['w']: 1.0e-07", "12ab"] in cells
    assert ["deterministic", "xla_x", "0 of 9", "equal bit for bit", "34cd"] in cells
    assert "kernels/train: 3.00 ms a run while traced, a kernel runs 50% of it; 10 kernels" in text
    assert ["base_model", "2.000", "75.0%", "1"] in cells
    assert ["`a/b`", "dot.1", "`jit(f)/x`", "2.000", "75.0%", "1"] in cells


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_measurement_cut_off_before_its_first_round_breaks_nothing(status):
    early = timed([])
    content = record(**{"forward/float32/1/XLA": {**early, "compiled_here": 1}})
    content["measurements"]["forward/float32/1/XLA"]["status"] = status
    assert len(rows(show(content))) == 1
