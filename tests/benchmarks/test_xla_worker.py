"""XLA's worker around networks that cost nothing: what it runs, checks and says."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import finecausal_jax as fc
from benchmarks import xla_worker
from benchmarks.task import Task, write_inputs
from configs import demo
from finecausal_jax.lowering.convolution import convolve
from finecausal_jax.settings import read


@pytest.fixture
def config():
    config = demo.get_config()
    config.data.frames, config.data.frame_size = 8, 8
    return config


@pytest.fixture
def make_job(config, tmp_path, monkeypatch):
    """A section in this process; the network has no weights."""
    monkeypatch.setattr(xla_worker._XlaJob, "_variables", lambda self: jnp.float32(2.0))
    # Or every later test of this process would compile its operations again.
    monkeypatch.setattr(xla_worker.jax, "clear_caches", lambda: None)

    def make(section, device="cpu"):
        write_inputs(read(config), 3, tmp_path)
        sizes = {"batch_size": 1, "exemplars": 2, "video_batch": 2, "matmul_size": 8}
        options = {"warmup": 0, "threads": 1, "device": device}
        plain = {**config.to_dict()}
        return xla_worker.make_job(Task(section, str(tmp_path), plain, **sizes, **options))

    return make


class Mean:
    """A video's features are its mean, a delta is the difference of two times a variable."""

    window_stride = 4
    graph_scope = "pair"

    def __init__(self):
        self.precisions = []

    def clone(self, **changes):
        assert changes == {"graph_scope": "pair"}
        return self

    def apply(self, scale, *features, method=None):
        self.precisions.append((method, jax.config.jax_default_matmul_precision))
        if method is None:
            return self._whole(scale, *features)
        if method == "encode":
            (videos,) = features
            mean = jnp.mean(videos, axis=(1, 2, 3, 4))[:, None, None]
            logits = jnp.stack([videos[:, s : s + 4, ..., 0] for s in (0, 4)], axis=1)
            return fc.Features(mean, mean, mean, (logits,))
        size = scale * (features[0].video_feature - features[1].video_feature)[:, 0]
        delta = jnp.concatenate([size, -size])
        stages = jnp.broadcast_to(delta, (len(delta), 3))
        return types.SimpleNamespace(
            delta=delta,
            stage_delta_dynamic=stages,
            stage_delta_static=stages,
            transitions=jnp.zeros((len(delta), 2), jnp.int32),
        )

    def _whole(self, scale, query, exemplar):
        """A delta is a sum of pixels, by one product of matrices: nothing else is to be counted."""
        videos = jnp.concatenate([query, exemplar])
        delta = videos.reshape(2, -1) @ jnp.full((query.size, 1), scale)
        return types.SimpleNamespace(
            delta=delta,
            transition_probability=jnp.zeros((2, 8, 2)),
            stage_delta_dynamic=delta,
            stage_delta_static=delta,
            mask_logits=(None, videos[:, None, ..., 0]),  # the last one counts
        )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_forward_pass_is_compiled_timed_counted_and_checked(make_job, monkeypatch, device):
    model = Mean()
    monkeypatch.setattr(xla_worker.things, "make_model", lambda config: model)
    job = make_job("forward", device)
    report = job.prepare()
    frames = job.task.inputs()["frames"][:2]
    assert report["compile_seconds"]["forward"] > 0 and report["first_seconds"]["forward"] > 0
    assert report["flops"]["forward"] == 2 * frames.size
    sums = 2 * frames.sum((1, 2, 3, 4))
    for name in ("delta", "stage_delta_dynamic", "stage_delta_static"):
        np.testing.assert_allclose(report["checks"][name], sums, rtol=1e-4, atol=1e-3)
    assert report["checks"]["transition_probability"] == [0] * 2 * 8 * 2
    mask = frames[:, None, ::5, ::8, ::8, 0]
    np.testing.assert_array_equal(report["checks"]["mask"], mask.ravel())
    # Timed as it is, and where that is inexact checked apart from it.
    assert model.precisions == ([(None, "highest")] if device == "gpu" else []) + [(None, None)]
    assert set(job.operations()) == {"forward"}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_evaluation_is_checked_with_whole_products(make_job, monkeypatch, device):
    model = Mean()
    monkeypatch.setattr(xla_worker.things, "make_model", lambda config: model)
    job = make_job("evaluation", device)
    checks = job.prepare()["checks"]
    means = job.task.inputs()["frames"].mean((1, 2, 3, 4))
    np.testing.assert_allclose(checks["delta"], 2 * (means[0] - means[1:]), rtol=1e-3, atol=1e-6)
    # Timed as it is, and where that is inexact checked apart from it.
    exact = [("encode", "highest"), ("compare", "highest")]
    plain = [("encode", None), ("compare", None), ("encode", None)]  # one video, then several
    assert model.precisions == plain + (exact if device == "gpu" else [])
    assert set(job.operations()) == {"encode_batch", "compare", "new_dive"}


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("Unknown backend cuda"), "Unknown backend"), (AssertionError(), "nothing")],
)
def test_a_device_that_is_not_there_says_what_to_install(make_job, monkeypatch, error, said):
    def devices():
        raise error

    monkeypatch.setattr(xla_worker.jax, "devices", devices)
    message = rf"--device=gpu: JAX finds no such device.*'\.\[cuda12\]'; it says: {said}"
    with pytest.raises(RuntimeError, match=message):
        make_job("forward", "gpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_of_the_models_dtype(make_job, config, dtype):
    config.model.dtype = dtype
    product = make_job("forward").matmul()()
    assert (product.dtype, product.shape) == (dtype, (8, 8))


def test_a_convolution_counts_as_written_however_it_is_computed():
    x, kernel = jnp.ones((4, 2, 8, 8, 16)), jnp.ones((1, 3, 3, 16, 5))
    padding = ((0, 0), (0, 0), (0, 0))
    traced = jax.jit(lambda x, k: convolve(x, k, (1, 1, 1), padding)).trace(x, kernel)
    assert "convolution" not in traced.lower().as_text()  # Winograd's, on a CPU
    assert xla_worker.plain_flops(traced) == 2 * (4 * 2 * 6 * 6) * (3 * 3 * 16 * 5)
