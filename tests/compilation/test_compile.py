"""Compiling for hardware that is not there: names, counts, the search, and small compilations."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.commands import compile as compile_command
from finecausal_jax.compilation import estimate, hardware, hlo, programs, report
from finecausal_jax.data.preprocessing import normalize
from finecausal_jax.models.finecausal import Features
from finecausal_jax.runtime import provenance
from finecausal_jax.runtime.layout import Layout, make_layout
from finecausal_jax.settings import config as configs
from finecausal_jax.settings import read, schema, things

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "chip", "devices"),
    [("v5e:2x4", "v5e", 8), ("v5e:1x1", "v5e", 1), ("v5p:2x2x2", "v5p", 8), ("h100:8", "h100", 8)],
)
def test_topologies(text, chip, devices):
    found = hardware.parse_topology(text)
    assert (found.chip.name, found.devices) == (chip, devices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v9x:2x4", "no chip 'v9x'(.|\n)*v5e: 1x1, 2x2, 2x4(.|\n)*h100: 1 to 8"),
        ("v5e:3x5", "no slice '3x5' of v5e(.|\n)*2x4"),
        ("v5e", "no slice ''"),
        ("h100:12", "multiple of 8"),
        ("h100:0", "1 to 8"),
        ("h100:two", "1 to 8"),
    ],
)
def test_unknown_topologies_are_refused_and_the_known_listed(text, message):
    with pytest.raises(ValueError, match=message):
        hardware.parse_topology(text)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x4", "tpu"), ("h100:8", "cuda12")])
def test_without_the_compiler_the_extra_is_named(monkeypatch, name, extra):
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"pip install -e '\.\[{extra}\]'"):
        hardware.make_layout(hardware.parse_topology(name))


COLLECTIVES_PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from finecausal_jax.compilation import hlo
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
def f(x, w):
    return jnp.sum(x @ w, axis=0), x * 2
shapes = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 32), jnp.float32)
step = jax.jit(f, in_shardings=(split, whole), out_shardings=(whole, whole))
for one in hlo.collectives(step.lower(*shapes).compile().as_text()):
    print(*one)
"""


def test_collectives_of_a_compiled_module():
    # Four devices: a sum over rows needs an all-reduce of [32], the whole of x an all-gather of
    # [8, 16], both float32.
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", COLLECTIVES_PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert result.stdout.split("\n")[:2] == ["all-gather 1 512", "all-reduce 1 128"]


HLO = """HloModule m

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %add = f32[] add(%a, %a)
}

ENTRY %main (p: bf16[4,8], q: f32[2]) -> f32[] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %q = f32[2]{0} parameter(1)
  %ags = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%p), dimensions={0}
  %agd = bf16[16,8]{1,0} all-gather-done(%ags)
  %both = (f32[2]{0}, f32[]) all-reduce(%q, %q), to_apply=%sum
  ROOT %out = f32[] get-tuple-element(%both), index=1
}
"""


def test_flops_are_those_that_a_platform_is_asked_for():
    def f(x, y):
        return jax.lax.platform_dependent(x, y, cuda=lambda x, y: x @ y, default=jnp.add)

    x, y = (jax.ShapeDtypeStruct((64, 64), jnp.float32) for _ in range(2))
    traced = jax.jit(f).trace(x, y)
    assert hlo.asked_flops(traced, "cuda") == pytest.approx(2 * 64**3, rel=0.01)
    assert hlo.asked_flops(traced, "tpu") == 64**2


def test_asynchronous_and_tuple_collectives_count_once():
    assert hlo.collectives(HLO) == [
        hlo.Collective("all-gather", 1, 16 * 8 * 2),
        hlo.Collective("all-reduce", 1, 2 * 4 + 4),
    ]


def test_bytes_of_kernels():
    def f(x, y):
        return jnp.sin(x @ y)

    x, y = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 16), (16, 32)))
    compiled = jax.jit(f).lower(x, y).compile()
    product = 4 * (8 * 16 + 16 * 32 + 8 * 32)  # reads both, writes the result
    sine = 4 * 2 * 8 * 32  # reads and writes, unless fused into the product
    assert product <= hlo.bytes_accessed(compiled.as_text()) <= product + 2 * sine


def test_workspace_of_a_library_call_is_no_traffic():
    line = '  %c = (f32[8]{0}, s8[4194304]{0}) custom-call(%p), custom_call_target="gemm"'
    text = "\nENTRY %main {\n  %p = f32[8]{0} parameter(0)\n" + line + "\n}\n"
    assert hlo.bytes_accessed(text) == 2 * 8 * 4


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[2,3]{1,0}", 24), ("pred[]", 1), ("(bf16[8]{0}, u32[])", 20), ("token[]", 0)],
)
def test_shape_bytes(shape, size):
    assert hlo.shape_bytes(shape) == size


def test_roofline_takes_the_lowest_roof():
    topology = hardware.parse_topology("v5e:2x4")
    links = (hlo.Collective("all-reduce", 3, 10**9), hlo.Collective("all-gather", 1, 10**9))
    times = estimate.roofline(topology, "bfloat16", 197e12, 819e8, links)
    assert times["compute"] == pytest.approx(1)
    assert times["memory"] == pytest.approx(0.1)
    # 200 GB/s a chip; 7/8 of a gathered result, twice that of a reduced one.
    assert times["links"] == pytest.approx(3 * 7 / 8 / 200)
    assert times["total"] == times["compute"]
    assert estimate.roofline(topology, "bfloat16", None, None, ()) == {}


def test_memory_of_a_refused_program_is_read_from_the_message():
    message = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
    message += "space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    assert estimate.used_memory(message) == {"total": int(20.5 * 2**30)}
    assert estimate.used_memory("RESOURCE_EXHAUSTED") == {}


def made(batch_size, *, each, arguments=2**30, limit=16 * 2**30, devices=1):
    total = arguments + each * batch_size // devices
    return estimate.Estimate(
        program="train",
        topology="v5e:1x1",
        dtype="float32",
        remat="none",
        batch_size=batch_size,
        fits=total <= limit,
        memory={"arguments": arguments, "total": total},
        limit=limit,
        flops=1e12,
        bytes_accessed=1e9,
        collectives=(),
        roofline={"compute": 1.0, "total": 1.0},
        compile_seconds=0.0,
    )


def searched(each, *, devices=1, most=20):
    """A search where all but 1 GiB grows by `each` bytes a pair: (result, batch sizes, lines)."""
    lines, sizes = [], []

    def compile_for(batch_size):
        sizes.append(batch_size)
        return made(batch_size, each=each, devices=devices)

    return estimate.largest_batch(compile_for, devices, lines.append, most), sizes, lines


@pytest.mark.parametrize(("each", "devices"), [(2**30, 1), (2**30, 8), (3 * 2**28, 1), (2**27, 4)])
def test_search_finds_the_largest_batch(each, devices):
    search, sizes, lines = searched(each, devices=devices)
    exact = 15 * 2**30 // each
    assert search.fits <= exact < search.too_many <= search.fits + max(1, search.fits // 8)
    assert search.ended
    assert len(sizes) <= 8 and len(set(sizes)) == len(sizes)
    assert {search.fits * devices, search.too_many * devices} <= set(sizes)
    assert any("does not fit" in line for line in lines)


def test_search_ends_where_nothing_fits_or_compilations_run_out():
    nothing, sizes, _ = searched(2**40)
    assert (nothing, nothing.ended, sizes) == (estimate.Search(0, 1), True, [1])
    unbounded, sizes, _ = searched(1, most=1)
    assert (unbounded, unbounded.ended, sizes) == (estimate.Search(1, None), False, [1])
    # 15 fit: 1, then 8 by prediction (2**3 <= 15), 16 too many, and 12 halves the gap.
    apart, sizes, _ = searched(2**30, most=3)
    assert (apart, apart.ended, sizes) == (estimate.Search(8, 16), False, [1, 8, 16])
    closer, sizes, _ = searched(2**30, most=4)
    assert (closer, closer.ended, sizes[-1]) == (estimate.Search(12, 16), False, 12)


@pytest.mark.parametrize(
    ("fits", "too_many", "line"),
    [
        (24, 27, "train: largest that fits: 24 pairs a device; 27 does not"),
        (1, 2, "train: largest that fits: 1 pair a device; 2 does not"),
        (0, 1, "train: not even 1 pair a device fits"),
        (8, None, "not bounded, the search was cut short: raise --compiles"),
        (16, 32, "16 pairs a device; 32 does not; the search was cut short: raise --compiles"),
    ],
)
def test_the_answer_of_a_search_in_words(fits, too_many, line):
    said = report.search_line("train", estimate.Search(fits, too_many))
    assert said.endswith(line) and (line.startswith("train") == (said == line))


CODE = {"commit": "a", "XLA_FLAGS": "", "jaxlib": "0.0"}


def test_report_and_json(tmp_path, capsys):
    topology = hardware.parse_topology("v5e:1x1")
    fine = made(2, each=2**30)
    refused = dataclasses.replace(fine, fits=False, memory={}, flops=None, roofline={})
    report.print_estimates([fine, refused], topology)
    printed = capsys.readouterr().out
    assert "3.00 / 16.00" in printed and "refused by the compiler" in printed
    path = tmp_path / "new" / "v5e.json"
    report.write_json([fine, refused], topology, {"seed": 0}, path, made_with=CODE)
    content = json.loads(path.read_text())
    assert content["estimates"][0]["memory"]["total"] == 3 * 2**30
    assert content["largest"] == {}
    report.write_json(
        [fine], topology, {}, path, {"train": estimate.Search(24, 27)}, made_with=CODE
    )
    content = json.loads(path.read_text())
    assert content["largest"] == {"train": 24} and content["too_many"] == {"train": 27}
    assert content["cut_short"] == {"train": False}
    report.write_json(
        [fine], topology, {}, path, {"train": estimate.Search(24, None)}, made_with=CODE
    )
    content = json.loads(path.read_text())
    assert content["too_many"] == {"train": None} and content["cut_short"] == {"train": True}
    assert [one.name for one in path.parent.iterdir()] == ["v5e.json"]


def test_a_search_goes_on_from_what_was_compiled(tmp_path, monkeypatch, capsys):
    from configs import demo

    compiled = []

    def compile_for(program, parts, topology, batch_size):
        compiled.append(batch_size)
        return dataclasses.replace(made(batch_size, each=2**30), program=program)

    monkeypatch.setattr(hardware, "prepare_environment", lambda: None)
    monkeypatch.setattr(hardware, "make_layout", lambda topology: make_layout())
    monkeypatch.setattr(estimate, "estimate", compile_for)
    monkeypatch.setattr(provenance, "compiled_with", lambda: CODE)
    flags = types.SimpleNamespace(
        config=demo.get_config(),
        topology="v5e:1x1",
        programs=["train"],
        batch_size=0,
        compiles=2,
        workdir=tmp_path,
    )
    file = report.file_name(hardware.parse_topology("v5e:1x1"), "train", "float32", "none", 0)
    assert compile_command.run(flags) == 0
    first = list(compiled)
    assert len(first) == 2 and "the search was cut short" in capsys.readouterr().out
    flags.compiles = 8
    assert compile_command.run(flags) == 0
    assert len(compiled) == len(set(compiled)) > 2  # none twice
    assert "largest that fits: 15 pairs" in capsys.readouterr().out
    rows = json.loads((tmp_path / file).read_text())["estimates"]
    assert [row["batch_size"] for row in rows] == compiled

    compiled.clear()
    monkeypatch.setattr(provenance, "compiled_with", lambda: {**CODE, "commit": "b"})
    assert compile_command.run(flags) == 0
    assert compiled[:2] == first
    kept = tmp_path / file.replace(".json", ".1.json")
    assert f"kept results of other code or XLA_FLAGS as {kept}" in capsys.readouterr().out
    assert json.loads(kept.read_text())["estimates"] == rows


def test_no_result_replaces_another(tmp_path):
    from configs import demo

    topology = hardware.parse_topology("v5e:2x4")
    names = [
        report.file_name(topology, program, *how, batch)
        for program in programs.PROGRAMS
        for how in (("float32", "none"), ("bfloat16", "none"), ("float32", "blocks"))
        for batch in (0, 8, 16)
    ]
    assert names[0] == "v5e_2x4_train_float32_none_largest.json"
    assert names[4] == "v5e_2x4_train_bfloat16_none_batch_8.json"
    assert len(set(names)) == len(names)

    path, config = tmp_path / names[0], demo.get_config()

    def differences(saved):
        return configs.differences(read(saved), read(config), schema.FIXED_ON_RESUME)

    assert report.earlier_estimates(path, differences, CODE) == []  # nothing is there yet
    one = dataclasses.replace(
        made(2, each=2**30), collectives=(hlo.Collective("all-reduce", 2, 8),)
    )
    report.write_json([one], topology, config.to_dict(), path, made_with=CODE)
    assert report.earlier_estimates(path, differences, CODE) == [one]
    for other in ({"commit": "b"}, {"commit": "a-dirty"}, {"XLA_FLAGS": "--xla_x"}):
        assert report.earlier_estimates(path, differences, {**CODE, **other}) == []
    config.data.frame_size = 48
    with pytest.raises(ValueError, match="another config(.|\n)*data.frame_size: was .* is 48"):
        report.earlier_estimates(path, differences, CODE)
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected results of `compile`"):
        report.earlier_estimates(path, differences, CODE)


SMALL = (
    "--config.data.frames=16",
    "--config.data.frame_size=16",
    "--config.model.windows=1",
    "--config.model.window_frames=8",
    "--config.model.width=0.0625",
    "--config.model.frame_width=0.125",
    "--config.model.embedding=8",
    "--config.model.stage_frames=(4,4,4)",
    "--config.model.stage_margin=1",
)


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "launch.py", "compile", "--config=configs/demo.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_explains_bad_input(tmp_path, monkeypatch):
    result = launch("--topology=v5e:9x9", f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert "no slice '9x9' of v5e" in result.stderr and "Traceback" not in result.stderr
    # And without the seconds of another start.
    monkeypatch.setattr(hardware, "prepare_environment", lambda: None)
    flags = {"topology": "v5e:2x4", "programs": ["train"], "batch_size": 0, "compiles": 8}
    flags |= {"workdir": str(tmp_path), "config": None}
    for wrong, message in (
        ({"programs": ["train", "fly"]}, "--programs=train,fly: expected some of"),
        ({"programs": []}, "--programs=: expected some of"),
        ({"batch_size": -1}, "--batch_size must be at least 0"),
        ({"compiles": 0}, "--compiles at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            compile_command.run(types.SimpleNamespace(**flags | wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "topology"), [("libtpu", "v5e:2x2"), ("jax_plugins.xla_cuda12", "h100:2")]
)
def test_a_small_scorer_compiles(package, topology, tmp_path):
    pytest.importorskip(package)
    batch = hardware.parse_topology(topology).devices
    result = launch(
        *SMALL,
        f"--topology={topology}",
        "--programs=score",
        f"--batch_size={batch}",
        f"--workdir={tmp_path}",
    )
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.iterdir()
    (found,) = json.loads(path.read_text())["estimates"]
    assert found["fits"] and found["flops"] > 1e6 and found["memory"]["arguments"] > 1e6
    # Pairs are split over the devices: videos and features may move, parameters must not.
    sent = sum(part["bytes"] for part in found["collectives"])
    assert sent < found["memory"]["arguments"] / 2


def test_lowering_picks_the_direct_convolution_of_a_missing_platform():
    # Whatever platforms a process has, the one lowered for decides; no compiler is needed.
    from finecausal_jax.lowering.convolution import convolve

    def f(x, kernel):
        return convolve(x, kernel, (1, 1, 1), ((1, 1),) * 3)

    shapes = (jnp.ones((1, 4, 6, 6, 2)), jnp.ones((3, 3, 3, 2, 2)))
    counts = {}
    for platform in ("cpu", "tpu", "cuda"):
        text = jax.jit(f).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        counts[platform] = text.count("stablehlo.convolution")
    assert counts == {"cpu": 3, "tpu": 1, "cuda": 1}


class Brightness:
    """A model whose only feature is a video's mean and whose mask is all that is bright."""

    window_stride = 1
    graph_scope = "pair"
    target = "completeness"

    def apply(self, variables, *arguments, method):
        if method == "encode":
            (videos,) = arguments
            mean = videos.mean(axis=(1, 2, 3, 4))[:, None]
            logits = videos[:, None, ..., 0]  # one window of all frames
            return Features(mean, mean, mean, (logits,))
        query, exemplar = (side.video_feature for side in arguments)
        delta = variables["scale"] * jnp.concatenate([query - exemplar, exemplar - query])
        transitions = jnp.zeros((delta.shape[0], 2), jnp.int32)
        stages = jnp.repeat(delta, 3, axis=1)
        return types.SimpleNamespace(
            delta=delta,
            stage_delta_dynamic=stages,
            stage_delta_static=stages,
            transitions=transitions,
        )


def test_the_scorer_computes_what_the_test_protocol_does():
    # Two pairs of one-frame videos of 2 x 2 pixels; 200 and 250 are above 0.5 when normalised.
    def side(*values):
        frames = jnp.array(values, jnp.uint8)[:, None, None, None, None]
        mask = jnp.full((2, 1, 2, 2), 255, jnp.uint8)
        return {"frames": jnp.broadcast_to(frames, (2, 1, 2, 2, 3)), "mask": mask}

    def mean(values):
        return normalize(values["frames"]).mean(axis=(1, 2, 3, 4))

    query, exemplar = side(200, 0), side(0, 250)
    score = jax.jit(programs.score_pairs, static_argnums=0)
    counts, compared = score(Brightness(), {"scale": 2.0}, query, exemplar)
    np.testing.assert_array_equal(counts.true_positive, [4, 0, 0, 4])  # q0, e0, q1, e1
    np.testing.assert_array_equal(counts.false_negative, [0, 4, 4, 0])
    np.testing.assert_allclose(compared.delta, 2 * (mean(query) - mean(exemplar)), rtol=1e-6)
    assert compared.delta[0] > 0 > compared.delta[1]
    assert compared.stage_delta.shape == (2, 3) and compared.transitions.shape == (2, 2)


def test_a_batch_that_devices_cannot_share_is_refused():
    from configs import demo

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1] * 8), ("data",))  # only counted
    parts = things.program_parts(read(demo.get_config()), Layout(mesh))
    with pytest.raises(ValueError, match="batch_size is 12, which 8 devices"):
        programs.lower("train", parts, 12)
