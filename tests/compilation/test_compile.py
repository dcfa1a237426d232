"""Compiling for hardware that is not there: names, counts, the search, and small compilations."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.compilation import estimate, hardware, hlo, programs, report

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
        hardware.make_mesh(hardware.parse_topology(name))


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


@pytest.mark.parametrize(("each", "devices"), [(2**30, 1), (2**30, 8), (3 * 2**28, 1), (2**27, 4)])
def test_search_finds_the_largest_batch(each, devices):
    lines = []
    done = estimate.largest_batch(
        lambda b: made(b, each=each, devices=devices), devices, lines.append, most=20
    )
    best = max(one.batch_size for one in done if one.fits) // devices
    exact = 15 * 2**30 // each
    assert best <= exact <= best + max(1, best // 8)
    assert len(done) <= 8
    assert len({one.batch_size for one in done}) == len(done)
    assert any("does not fit" in line for line in lines)


def test_search_ends_where_nothing_fits_or_compilations_run_out():
    nothing = estimate.largest_batch(lambda b: made(b, each=2**40), 1, lambda _: None)
    assert [one.fits for one in nothing] == [False]
    few = estimate.largest_batch(lambda b: made(b, each=1), 1, lambda _: None, most=2)
    assert len(few) == 2


def test_report_and_json(tmp_path, capsys):
    topology = hardware.parse_topology("v5e:1x1")
    fine = made(2, each=2**30)
    refused = dataclasses.replace(fine, fits=False, memory={}, flops=None, roofline={})
    report.print_estimates([fine, refused], topology)
    printed = capsys.readouterr().out
    assert "3.00 / 16.00" in printed and "refused by the compiler" in printed
    path = tmp_path / "new" / "v5e.json"
    report.write_json([fine, refused], topology, {"seed": 0}, path)
    content = json.loads(path.read_text())
    assert content["estimates"][0]["memory"]["total"] == 3 * 2**30
    assert not list(path.parent.glob("*.partial"))


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "launch.py", "compile", "--config=configs/demo.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_explains_bad_input(tmp_path):
    result = launch("--topology=v5e:9x9", f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert "no slice '9x9' of v5e" in result.stderr and "Traceback" not in result.stderr
    result = launch("--topology=v5e:2x4", "--programs=train,fly")
    assert result.returncode == 2 and "--programs" in result.stderr
    assert not list(tmp_path.iterdir())


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
    from finecausal_jax.models.convolution import convolve

    def f(x, kernel):
        return convolve(x, kernel, (1, 1, 1), ((1, 1),) * 3)

    shapes = (jnp.ones((1, 4, 6, 6, 2)), jnp.ones((3, 3, 3, 2, 2)))
    counts = {}
    for platform in ("cpu", "tpu", "cuda"):
        text = jax.jit(f).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        counts[platform] = text.count("stablehlo.convolution")
    assert counts == {"cpu": 3, "tpu": 1, "cuda": 1}


def test_a_batch_that_devices_cannot_share_is_refused():
    from configs import demo

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1] * 8), ("data",))  # only counted
    with pytest.raises(ValueError, match="batch_size is 12, which 8 devices"):
        programs.lower("train", demo.get_config(), mesh, 12)
