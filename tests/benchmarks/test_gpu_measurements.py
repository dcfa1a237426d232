"""What each measurement of the GPU computes, on stand-ins for the network and for a trace."""

from __future__ import annotations

import types

import jax.numpy as jnp
import numpy as np
import pytest

import finecausal_jax as fc
from benchmarks.gpu import inputs, kernels, precision, timing, twice
from benchmarks.gpu.kernels import Event
from benchmarks.task import INPUTS, WEIGHTS


class Product:
    """A delta is a product of the two sides; the predicted transitions are one frame late."""

    def __init__(self, dtype):
        self.dtype = dtype

    def apply(self, weight, query, exemplar, *, transitions, method):
        assert method == "compare"
        delta = (query.astype(self.dtype) * weight.astype(self.dtype)) @ exemplar.T
        nothing = dict.fromkeys(fc.Outputs.__dataclass_fields__)
        return fc.Outputs(**{**nothing, "delta": delta, "transitions": transitions + 1})


def test_errors_are_told_by_tensor_as_shares_of_the_largest_value():
    rng = np.random.default_rng(0)
    query, exemplar = rng.uniform(1, 2, (2, 3, 4)).astype(np.float32)
    exact = 0.3 * (query.astype(np.float64) @ exemplar.T.astype(np.float64))
    case = {"seed": 1, "batch": 3, "delta": exact, "transitions": np.array([[4.0, 8.0]])}

    def errors(dtype):
        arguments = (Product(dtype), jnp.float32(0.3), query, exemplar, "compare")
        rows = [precision.row(check) for check in precision.errors("compare", case, *arguments)]
        return {row["tensor"]: row for row in rows}

    full, short = errors(jnp.float32), errors(jnp.bfloat16)
    assert full["delta"]["relative"] < 1e-6
    assert full["delta"]["passed"]
    # A bfloat16 has 8 bits: half a unit of the last one is 2^-9 of the value.
    assert 2**-11 < short["delta"]["relative"] < 2**-6
    assert short["delta"]["relative"] == pytest.approx(short["delta"]["absolute"] / exact.max())
    assert not short["delta"]["passed"]
    # Cut at the recorded transitions; the predicted ones are held against them, in frames.
    assert short["transitions"]["absolute"] == 1.0
    assert short["transitions"]["counts"] == "absolute"


class TestTwice:
    def test_equal_results_have_no_difference(self):
        tree = {"a": np.array([1.0, -0.0], np.float32), "b": np.array(3)}
        found = twice.differences(tree, {name: value.copy() for name, value in tree.items()})
        assert (found["arrays"], found["differ"], found["worst"]) == (2, 0, None)

    def test_bits_count_and_the_worst_array_is_named(self):
        first = {"a": np.array([0.0, 2.0]), "b": np.array([4.0, 1.0]), "c": np.array(1)}
        second = {"a": np.array([-0.0, 2.0]), "b": np.array([4.0, 3.0]), "c": np.array(1)}
        found = twice.differences(first, second)
        assert found["differ"] == 2  # -0 is another pattern of bits than 0
        assert found["worst"] == {"array": "['b']", "relative": 0.5}
        assert found["digest"] != twice.differences(second, first)["digest"]

    def test_the_compiler_is_asked_for_its_options(self):
        names = ("xla_no_such_option", "xla_gpu_exclude_nondeterministic_ops")
        assert twice.known_option(names) == names[1]
        assert twice.known_option(names[:1]) is None


def line(name, *events):
    """A line of a trace; events are (name, start, duration, operation)."""
    return types.SimpleNamespace(
        name=name,
        events=[
            types.SimpleNamespace(
                name=kernel,
                start_ns=start,
                duration_ns=duration,
                stats=[("hlo_op", operation)] if operation else [(None, 1)],
            )
            for kernel, start, duration, operation in events
        ],
    )


class TestKernels:
    def test_a_gpus_streams_are_read_and_nothing_twice(self):
        streams = [
            line("Stream #1(Compute)", ("sm90_gemm", 0, 5, "dot.1"), ("fusion_2", 5, 1, "")),
            line("Stream #2(Memcpy)", ("MemcpyH2D", 2, 4, "")),
            line("XLA Ops", ("dot.1", 0, 5, "dot.1")),
        ]
        planes = {"/device:GPU:0": streams, "/host:CPU": [line("main", ("work", 0, 9, "x"))]}
        profile = types.SimpleNamespace(
            planes=[types.SimpleNamespace(name=n, lines=lines) for n, lines in planes.items()]
        )
        found = list(kernels.read(profile, "gpu", ["dot.1", "fusion.2"]))
        assert found == [
            Event("sm90_gemm", "dot.1", 0, 5),
            Event("fusion_2", "fusion.2", 5, 6),  # by its name, as in a CUDA graph
            Event("MemcpyH2D", "", 2, 6),
        ]

    def test_kernels_and_parts_are_summed_and_ordered(self):
        sources = {"a": "jit(f)/N/base_model/c/mul", "b": "jit(f)/transpose(jvp(N))/head.m/add"}
        events = [
            Event("k1", "a", 0e6, 2e6),
            Event("k2", "b", 1e6, 4e6),  # beside the first, on another stream
            Event("k1", "a", 6e6, 8e6),
            Event("k3", "", 9e6, 10e6),
        ]
        found = kernels.summary(events, sources, ["base_model", "head"])
        assert [(row["kernel"], row["ms"], row["count"]) for row in found["kernels"]] == [
            ("k1", 4.0, 2),
            ("k2", 3.0, 1),
            ("k3", 1.0, 1),
        ]
        assert found["kernels"][0]["share"] == 0.5
        assert [row["part"] for row in found["parts"]] == [
            "base_model",
            "head, backward",
            "unknown",
        ]
        assert found["span_ms"] == 10.0
        assert found["busy_share"] == pytest.approx(0.7)  # 0 to 4, 6 to 8 and 9 to 10

    def test_operations_are_found_in_the_compiled_text(self):
        text = (
            '  ROOT %fusion.1 = f32[2]{0} fusion(%p), metadata={op_name="jit(f)/a/mul" line=3}\n'
            '  dot.2 = f32[] dot(x, y), metadata={op_type="dot" op_name="jit(f)/b/dot"}\n'
            "  constant.3 = f32[] constant(1)\n"
        )
        found = dict(kernels._OP_NAME.findall(text))
        assert found == {"fusion.1": "jit(f)/a/mul", "dot.2": "jit(f)/b/dot"}


def test_checks_are_thinned_alike_for_all_workers():
    values = [i / 7 for i in range(1000)]
    kept = timing.thinned({"mask": values, "delta": [1 / 3]})
    assert kept["delta"] == [pytest.approx(1 / 3, rel=1e-8)]
    assert len(kept["mask"]) == 250
    assert kept["mask"][1] == pytest.approx(4 / 7, rel=1e-8)


def test_the_tiny_config_is_one_that_a_network_takes():
    config = inputs.make_settings("tiny", "bfloat16")
    model = config.model
    assert (model.windows - 1) * model.window_stride + model.window_frames == config.data.frames
    assert model.embedding == 512 * model.frame_width / 8
    assert (model.dtype, config.train.accumulate) == ("bfloat16", 1)


def test_weights_and_videos_are_written_once(tmp_path):
    options = {"sizes": "tiny", "source": "abc", "cache": str(tmp_path)}
    config = inputs.make_settings("tiny", "float32")
    written = []

    def weights(config, folder):
        written.append("weights")
        (folder / WEIGHTS).write_text("w")

    def videos(config, count, folder):
        if count == 4:
            raise OSError("full")
        written.append(count)
        (folder / INPUTS).write_text(f"{count} videos")

    def folder(count, **changes):
        return inputs.folder_for({**options, **changes}, config, count, weights, videos)

    assert (folder(2) / INPUTS).read_text() == "2 videos"
    assert folder(2) == folder(2)
    assert (folder(3) / WEIGHTS).samefile(folder(2) / WEIGHTS)
    with pytest.raises(OSError, match="full"):
        folder(4)
    assert len(list((tmp_path / "inputs").iterdir())) == 2  # nothing half written is left
    folder(2, source="def")
    assert written == ["weights", 2, 3, "weights", 2]
