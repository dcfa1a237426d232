"""The benchmark's order, arithmetic and failures; workers compute nothing, but for one."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import signal
import sys
import types

import numpy as np
import pytest
from rich.console import Console

from benchmarks import report, results, throughput, workers
from benchmarks.commands import benchmark as benchmark_command
from benchmarks.task import (
    INPUTS,
    WEIGHTS,
    Task,
    built_data_sets,
    write_inputs,
    write_weights,
)
from configs import demo, finediving_hm
from finecausal_jax.data.dives import DiveSource
from finecausal_jax.data.resizing import Resize
from finecausal_jax.interop.expected import Expected
from finecausal_jax.scoring import bank
from finecausal_jax.settings import read
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release

FAKE = pathlib.Path(__file__).with_name("fake_worker.py")
REFERENCE, FAST = "PyTorch reference", "PyTorch channels_last"
COMPILED = "PyTorch compiled"


@pytest.fixture
def config():
    """Small enough that weights and videos are written in no time."""
    config = demo.get_config()
    config.model.width = 0.0625
    config.data.data_dir = "nowhere"
    config.evaluate.exemplars = 2
    config.benchmark.matmul_size = 64
    return config


@pytest.fixture
def bench(config, tmp_path, monkeypatch):
    """Runs a benchmark of fake workers: name -> (seconds, *actions)."""
    written = []  # nothing is: fake workers read no files
    monkeypatch.setattr(throughput, "write_weights", lambda *_: written.append(WEIGHTS))
    monkeypatch.setattr(throughput, "write_inputs", lambda _, n, __: written.append((INPUTS, n)))

    def run(fakes, sections=("forward",), rounds=2):
        saved = []
        commands = {
            name: (sys.executable, str(FAKE), name, str(seconds), str(tmp_path / "log"), *actions)
            for name, (seconds, *actions) in fakes.items()
        }
        settings = [name.split()[1] for name in fakes if name != "XLA"]
        run.saved, run.lines = saved, []
        found = throughput.run(
            read(config),
            sections,
            settings,
            rounds=rounds,
            device="cpu",
            save=lambda found: saved.append(json.dumps(results.summarize(found), allow_nan=False)),
            report=run.lines.append,
            commands=commands,
        )
        return results.summarize(found)

    run.log = lambda: (tmp_path / "log").read_text().splitlines()
    run.written = written
    return run


def test_workers_are_prepared_alone_and_then_run_in_turn(bench):
    bench({"XLA": (1,), REFERENCE: (3,), FAST: (2,)})
    names = ("XLA", REFERENCE, FAST)
    first, second, third = (f"forward {name} run forward" for name in names)
    assert bench.log() == [
        *(f"forward {name} prepare" for name in names),
        *(first, second, third),
        *(second, third, first),  # who begins a round takes turns, too
        *(f"forward {name} memory" for name in names),
    ]


def test_medians_ratios_and_targets(bench):
    whole = bench({"XLA": (1,), REFERENCE: (3,), FAST: (0.5,)}, rounds=3)
    forward = whole["sections"]["forward"]
    row = forward["summary"]["XLA"]["forward"]
    # 4e9 operations in 1.2 s of a machine that does 1e10 a second
    share = 4e9 / 1.2 / 1e10
    assert row == pytest.approx(
        {"median": 1.2, "min": 1.1, "max": 1.3, "flops": 4e9, "share_of_matmul_peak": share}
    )
    # PyTorch's are its reference setting's.
    row = forward["summary"][FAST]["forward"]
    assert (row["flops"], row["share_of_matmul_peak"]) == (5e9, pytest.approx(5e9 / 0.7 / 1e10))
    first, second = whole["targets"]
    assert (first["setting"], first["met"]) == (REFERENCE, True)
    assert first["ratio"] == pytest.approx(3.2 / 1.2)
    spread = (first["ratio_min"], first["ratio_max"])
    assert spread == pytest.approx((3.3 / 1.3, 3.1 / 1.1))  # of one round each
    assert (second["setting"], second["met"]) == (FAST, False)
    assert second["ratio"] == pytest.approx(0.7 / 1.2)


def test_a_training_step_needs_little_memory_too(bench):
    whole = bench({"XLA": (1,), REFERENCE: (3,)}, sections=("train",))
    (row, best) = whole["targets"]
    assert row["memory_ratio"] == pytest.approx(1 / 3) and row["met"] is True
    assert best["met"] is True
    train = whole["sections"]["train"]["workers"]
    train["XLA"]["peak_bytes"] = 0.61 * train[REFERENCE]["peak_bytes"]
    assert [row["met"] for row in results.judge(whole)] == [False, True]
    del train["XLA"]["peak_bytes"]  # not measured is not met
    assert [row["met"] for row in results.judge(whole)] == [False, True]


def test_targets_are_of_a_cpu(bench):
    whole = bench({"XLA": (1,), REFERENCE: (3,)})
    assert results.judge({**whole, "device": "gpu"})[0]["met"] is None


def test_a_query_bears_its_share_of_the_bank(bench, config):
    config.benchmark.test_dives, config.benchmark.train_dives = 10, 30
    whole = bench({"XLA": (1,), REFERENCE: (60,)}, sections=("evaluation",), rounds=1)
    assert bench.written == [WEIGHTS, (INPUTS, 3)]  # a query's video and two exemplars'
    summary = whole["sections"]["evaluation"]["summary"]["XLA"]
    # Runs take 1.1 s (two videos encoded), 1.2 s (comparison) and 1.3 s.
    assert summary["encode"]["median"] == pytest.approx(0.55)
    assert summary["test_protocol"]["median"] == pytest.approx(0.55 * 40 / 10 + 1.2)
    assert summary["new_dive"]["median"] == pytest.approx(1.3)
    assert [row["at_least"] for row in whole["targets"]] == [10, 25]
    assert [row["ratio"] for row in whole["targets"]] == pytest.approx([60.1 / 3.4, 60.1 / 1.3])


def test_a_killed_worker_is_named_and_the_others_go_on(bench):
    whole = bench({"XLA": (1,), REFERENCE: (3, "die"), FAST: (2,)}, rounds=3)
    forward = whole["sections"]["forward"]
    assert list(forward["failures"]) == [REFERENCE]
    assert "killed by signal 9" in forward["failures"][REFERENCE]
    assert "--config.benchmark.batch_size" in forward["failures"][REFERENCE]
    counts = {name: len(entry["seconds"]["forward"]) for name, entry in forward["workers"].items()}
    assert counts == {"XLA": 3, REFERENCE: 1, FAST: 3}


def test_a_worker_that_cannot_start_is_named(bench):
    whole = bench({"XLA": (1,), REFERENCE: (3, "fail")})
    forward = whole["sections"]["forward"]
    assert forward["failures"] == {REFERENCE: f"{REFERENCE}: RuntimeError: no compiler"}
    assert list(forward["summary"]) == ["XLA"] and whole["targets"] == []


def test_one_wrong_result_is_not_timed_and_the_others_are(bench):
    whole = bench({"XLA": (1,), REFERENCE: (3,), FAST: (2, "wrong"), COMPILED: (2, "broken")})
    forward = whole["sections"]["forward"]
    assert set(forward["failures"]) == {FAST, COMPILED}
    assert "XLA and PyTorch channels_last disagree on delta by" in forward["failures"][FAST]
    assert "PyTorch compiled's delta is not finite" in forward["failures"][COMPILED]
    assert forward["disagreement"] == {REFERENCE: 0.0}
    assert {line.split(" run")[0] for line in bench.log() if " run " in line} == {
        "forward XLA",
        f"forward {REFERENCE}",
    }
    assert [row["setting"] for row in whole["targets"]] == [REFERENCE, REFERENCE]


def test_where_nobody_agrees_nobody_is_timed_and_the_next_section_comes(bench):
    whole = bench({"XLA": (1,), REFERENCE: (3, "wrong")}, sections=("forward", "train"))
    assert not any(" run " in line for line in bench.log())
    for section in ("forward", "train"):
        failures = whole["sections"][section]["failures"]
        assert list(failures) == [REFERENCE, "XLA"]
        assert all("XLA and PyTorch reference disagree" in text for text in failures.values())
    assert whole["targets"] == []


def test_out_of_memory_says_what_to_lower(bench):
    whole = bench({"XLA": (1, "full"), REFERENCE: (3,)})
    assert whole["sections"]["forward"]["failures"] == {
        "XLA": "XLA: out of memory; lower --config.benchmark.batch_size (in the evaluation "
        "--config.evaluate.video_batch) or close other programs\n    JaxRuntimeError: "
        "RESOURCE_EXHAUSTED: Out of memory"
    }


def test_where_and_when_it_ran_is_told(bench):
    whole = bench({"XLA": (1,)})
    assert whole["date"].endswith("+00:00")
    assert whole["commit"] is None or len(whole["commit"].partition("-")[0]) == 40
    assert whole["machine"]["memory_bytes"] > 1e9


def test_earlier_results_are_kept(config, tmp_path, monkeypatch, capsys):
    flags = types.SimpleNamespace(
        config=config,
        sections=["pipeline"],
        settings=[],
        rounds=1,
        device="cpu",
        workdir=tmp_path / "made" / "here",
    )
    config.data.data_dir = str(tmp_path / "nothing")  # which skips the only section
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert benchmark_command.run(flags) == 0
    first = (flags.workdir / "benchmark.json").read_text()
    assert "kept earlier" not in capsys.readouterr().out
    assert benchmark_command.run(flags) == 0
    names = ["benchmark.1.json", "benchmark.1.png", "benchmark.json", "benchmark.png"]
    assert sorted(path.name for path in flags.workdir.iterdir()) == names
    assert (flags.workdir / "benchmark.1.json").read_text() == first
    assert (
        f"kept earlier results as {flags.workdir / 'benchmark.1.json'}" in capsys.readouterr().out
    )
    flags.workdir = flags.workdir / "benchmark.json"
    with pytest.raises(ValueError, match="--workdir=.*expected a folder, .*json is none"):
        benchmark_command.run(flags)


@pytest.mark.parametrize(
    ("dtype", "tensor", "error", "agrees"),
    [
        ("float32", "mask", 1.9e-4, True),
        ("float32", "mask", 2.1e-4, False),
        ("bfloat16", "mask", 1e-2, True),
        ("bfloat16", "mask", 1e-1, False),
        ("bfloat16", "delta", 1.0, True),  # behind an argmax that may fall elsewhere
    ],
)
def test_limits_of_agreement(dtype, tensor, error, agrees):
    checks = {"XLA": {tensor: [0.0, -4.0]}, REFERENCE: {tensor: [4 * error, -4.0]}}
    errors, faults = results.check_agreement("forward", checks, dtype)
    assert (faults == {}) == agrees
    if agrees:
        assert set(errors) <= {REFERENCE}
    else:
        assert "run launch.py verify" in faults[REFERENCE] and errors == {}


def test_a_silent_worker_is_given_up(tmp_path):
    command = (sys.executable, str(FAKE), "XLA", "1", str(tmp_path / "log"), "silent")
    worker = workers.Worker("XLA", command, '{"section": "forward"}', patience_s=0.2)
    try:
        with pytest.raises(workers.WorkerError, match=r"XLA: no answer .* within 0.2 s"):
            worker.ask(op="run", name="forward")
    finally:
        worker._process.kill()
        worker.close()


def test_a_missing_data_set_skips_the_pipeline(bench):
    whole = bench({"XLA": (1,)}, sections=("pipeline",))
    assert "launch.py build makes it" in whole["sections"]["pipeline"]["skipped"]


def test_the_pipeline_is_timed_on_every_built_data_set(config, tmp_path):
    sizes = {"frames": (20, 21), "width": 48, "height": 32, "workers": 0, "progress": False}
    release = render_release(tmp_path / "rendered", train_dives=3, test_dives=1, **sizes)
    config.data.update(data_dir=str(tmp_path / "data"), frame_size=8, workers=0)
    config.data.update(frames=6, keep_aspect=False, resize_width=10, resize_height=12)
    assert built_data_sets(config.to_dict()) == ()
    build_dataset(release, config.data.data_dir)
    assert built_data_sets(config.to_dict()) == ("release",)
    build_dataset(release, config.data.data_dir, resize=Resize(10, 12))

    options = {"rounds": 2, "device": "cpu", "save": lambda _: None, "report": lambda _: None}
    found = throughput.run(read(config), ("pipeline",), (), **options)
    assert found["sections"]["pipeline"]["failures"] == {}
    entry = found["sections"]["pipeline"]["workers"]["XLA"]
    assert entry["pairs_a_run"] == 8
    assert entry["peak_bytes"] > 50e6 and "reset after warm-up" in entry["peak_method"]
    assert set(entry["versions"]) == {"jax", "jaxlib", "flax"}
    assert {name: len(runs) for name, runs in entry["seconds"].items()} == {
        "release": 2,
        "resized": 2,
    }
    whole = results.summarize(found)
    rate = whole["sections"]["pipeline"]["summary"]["XLA"]["pairs_a_second_resized"]
    assert rate["max"] == pytest.approx(8 / min(entry["seconds"]["resized"]))
    text = io.StringIO()
    report.print_tables(whole, Console(file=text, width=120))
    title, *rest = (line.strip() for line in text.getvalue().splitlines())
    assert title == "Pairs a second"  # and no table of seconds
    assert any(line.startswith("pairs a second, resized") for line in rest)
    assert any("of each core" in line for line in rest)
    # A bank made from the one serves for the other.
    sizes = (None, Resize(10, 12))
    both = [DiveSource(config.data.data_dir, "train", resize=size) for size in sizes]
    assert both[0].fingerprint == both[1].fingerprint != ""
    assert bank._hash_of_dives(both[0]) == bank._hash_of_dives(both[1])

    # Worker processes load ahead while another set is timed: then one set alone is.
    config.data.workers = 1
    assert built_data_sets(config.to_dict()) == ("release",)


def test_tables_json_and_plot(bench, tmp_path):
    fakes = {"XLA": (1,), REFERENCE: (3,), FAST: (2, "fail"), COMPILED: (4,)}
    whole = bench(fakes, ("forward", "pipeline"))
    text = io.StringIO()
    report.print_tables(whole, Console(file=text, width=120))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert "forward XLA 1.15 1.1 1.2 7 1 35 %" in lines
    assert "forward PyTorch reference 3.15 3.1 3.2 - 3 16 %" in lines  # nothing is compiled
    assert "forward PyTorch compiled 4.15 4.1 4.2 2 4 12 %" in lines  # in its first run
    assert "forward of a pair PyTorch reference 1.15 3.15 2.74 x 2.67 - 2.82 2.5 x yes" in lines
    assert "Pairs a second" not in lines
    assert f"forward failed: {FAST}: RuntimeError: no compiler" in lines
    assert any(line.startswith("pipeline skipped: config.data.data_dir nowhere") for line in lines)
    path = report.write_json(whole, tmp_path / "out" / "benchmark.json")
    assert json.loads(path.read_text()) == whole
    plot = report.write_plot(whole, tmp_path / "out" / "benchmark.png")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in path.parent.iterdir()) == ["benchmark.json", "benchmark.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sections": ["foward"]}, "--sections: foward is none of forward, train"),
        ({"torch_settings": ["fast"]}, "--settings: fast is none of reference"),
        ({"device": "abacus"}, "--device: abacus is none of cpu, gpu, tpu"),
        ({"rounds": 0}, "--rounds is 0"),
        ({"sections": []}, "--sections is empty, expected some of forward, train"),
        ({"has_torch": False}, "PyTorch is not installed.*--settings="),
        ({"device": "tpu"}, "baseline runs on cpu and gpu"),
    ],
)
def test_options_that_cannot_run(changes, message):
    options = {
        "sections": ["forward"],
        "torch_settings": ["reference"],
        "rounds": 1,
        "device": "cpu",
        "has_torch": True,
    }
    throughput.check_options(read(finediving_hm.get_config()), **options)
    with pytest.raises(ValueError, match=message):
        throughput.check_options(read(finediving_hm.get_config()), **{**options, **changes})


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("benchmark.batch_size", 0, 1),
        ("benchmark.matmul_size", 0, 1),
        ("benchmark.train_dives", -1, 0),
        ("benchmark.test_dives", 0, 1),
        ("evaluate.video_batch", 0, 1),
    ],
)
def test_sizes_that_cannot_be(name, value, least):
    config = finediving_hm.get_config()
    config.update_from_flattened_dict({name: value})
    message = f"config.{name} is {value}, expected at least {least}"
    with pytest.raises(ValueError, match=message):
        throughput.check_options(read(config), ["forward"], [], 1, "cpu", has_torch=False)


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("model.remat", "blocks", ""),
        ("model.dtype", "bfloat16", ""),
        ("model.graph_scope", "batch", ""),
        ("model.dropout", 0.2, "full size"),
        ("train.mask_foreground", 0.8, "has the reference's losses"),
        ("train.loss_weights", (1.0, 1.0, 1.0), "has the reference's losses"),
    ],
)
def test_which_models_the_baseline_has(name, value, refused):
    config = finediving_hm.get_config()
    config.update_from_flattened_dict({name: value})
    expected = pytest.raises(ValueError, match=refused) if refused else contextlib.nullcontext()
    with expected:
        throughput.check_options(read(config), ["train"], ["reference"], 1, "cpu", has_torch=True)


def test_the_baseline_needs_the_full_size():
    with pytest.raises(ValueError, match="exists at full size only"):
        throughput.check_options(
            read(demo.get_config()), ["forward"], ["reference"], 1, "cpu", has_torch=True
        )
    throughput.check_options(read(demo.get_config()), ["forward"], [], 1, "cpu", has_torch=False)


def test_settings_are_the_baselines():
    torch_baseline = pytest.importorskip(
        "benchmarks.torch_baseline", reason="needs PyTorch, which is not installed"
    )
    assert throughput.TORCH_SETTINGS == torch_baseline.SETTINGS


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few tensors", "whole"]
)
def test_a_task_travels_with_its_files(config, tmp_path, monkeypatch, whole):
    if not whole:  # the network takes seconds to trace
        tensors = {
            ("regressor_delta1", "layer1.weight"): Expected((64, 16), np.dtype("float32"), None),
            ("regressor_delta1", "layer1.bias"): Expected((64,), np.dtype("float32"), None),
            ("base_model", "num_batches_tracked"): Expected((), np.dtype("int64"), None),
        }
        monkeypatch.setattr("benchmarks.task.expected_tensors", lambda model: tensors)
    write_weights(read(config), tmp_path)
    write_inputs(read(config), 3, tmp_path)
    task = Task("forward", str(tmp_path), {"seed": 0}, 1, 2, 1, 0, 2, "cpu", 8)
    again = Task.from_json(task.to_json())
    assert again == task
    inputs = again.inputs()
    assert inputs["frames"].shape == (3, 32, 32, 32, 3)
    assert inputs["frames_uint8"].std() > 20 and 0 < inputs["mask"].mean() < 255
    layer = again.weights()["regressor_delta1"]
    assert layer["layer1.weight"].var() == pytest.approx(1.6 / 16, rel=0.2)
    assert 0 < np.abs(layer["layer1.bias"]).max() <= 0.1
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, INPUTS}


@pytest.mark.slow  # in parts: the pipeline's worker above, a forward pass in test_xla_worker
def test_a_real_worker_on_a_small_network(config):
    saved = []
    found = throughput.run(
        read(config),
        ("forward",),
        (),
        rounds=1,
        device="cpu",
        save=saved.append,
        report=saved.append,
    )
    assert found["sections"]["forward"]["failures"] == {}
    entry = found["sections"]["forward"]["workers"]["XLA"]
    assert entry["seconds"]["forward"][0] > 0 and entry["compile_seconds"]["forward"] > 0
    assert entry["peak_bytes"] > 50e6 and entry["flops"]["forward"] > 1e8
    assert "reset after warm-up" in entry["peak_method"]
    assert set(entry["versions"]) == {"jax", "jaxlib", "flax"}


@pytest.mark.slow
@pytest.mark.parametrize("section", ["forward", "evaluation"])
def test_the_full_size_baseline_agrees(section):
    pytest.importorskip("torch")
    config = finediving_hm.get_config()
    config.evaluate.exemplars, config.evaluate.video_batch = 1, 1
    config.benchmark.warmup = 0
    found = throughput.run(
        read(config), (section,), ("reference",), rounds=1, device="cpu", save=lambda _: None
    )
    assert found["sections"][section]["failures"] == {}
    assert 0 < found["sections"][section]["disagreement"][REFERENCE] < 2e-4
    assert len(results.summarize(found)["targets"]) == 2


@pytest.mark.parametrize(
    ("inherited", "reference"),
    [
        ("glibc.malloc.hugetlb=1", None),
        ("glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1", "glibc.malloc.arena_max=1"),
        ("glibc.malloc.arena_max=1", "glibc.malloc.arena_max=1"),
    ],
)
def test_the_reference_alone_has_no_huge_pages(monkeypatch, inherited, reference):
    monkeypatch.setenv("GLIBC_TUNABLES", inherited)
    for worker in ("XLA", "PyTorch channels_last", "PyTorch compiled"):
        assert throughput._environment("cpu", worker)["GLIBC_TUNABLES"] == inherited
    assert throughput._environment("cpu", "PyTorch reference").get("GLIBC_TUNABLES") == reference
