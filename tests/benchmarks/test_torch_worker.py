"""The PyTorch baseline's worker, with encoders that cost nothing."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch, which is not installed")

from benchmarks import throughput  # noqa: E402
from benchmarks import torch_baseline as tb  # noqa: E402
from benchmarks.task import Task, write_inputs, write_weights  # noqa: E402
from benchmarks.torch_baseline.worker import TorchJob  # noqa: E402
from configs import finediving_hm  # noqa: E402
from finecausal_jax.settings import read  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Full-size weights and three videos."""
    path = tmp_path_factory.mktemp("benchmark")
    write_weights(read(finediving_hm.get_config()), path)
    write_inputs(read(finediving_hm.get_config()), 3, path)
    return path


@pytest.fixture(autouse=True)
def _cheap_encoders(monkeypatch):
    """Features that are means of the frames, in shapes of the real ones."""
    before = torch.get_num_threads()

    def encode(self, *runs):
        videos = torch.cat(runs)
        level = videos.mean((1, 2, 3, 4))[:, None, None] * self.awl.params.mean()
        v = len(videos)
        maps = tuple(level[..., None, None].expand(v, 9, 16, 112, 112) for _ in range(5))
        return tb.Features(
            level.expand(v, 9, 1024), level.expand(v, 9, 1024), level.expand(v, 96, 512), maps
        )

    monkeypatch.setattr(tb.FineCausal, "encode", encode)
    yield
    torch.set_num_threads(before)


def task(folder, section, setting="reference", device="cpu", dtype="float32"):
    config = finediving_hm.get_config()
    config.train.accumulate = 1
    config.model.dtype = dtype
    return Task(section, str(folder), config.to_dict(), 1, 2, 1, 0, 1, device, 8, setting)


@pytest.mark.parametrize(
    ("section", "operation", "check", "count"),
    [
        ("forward", "forward", "transition_probability", 2 * 96 * 2),
        ("train", "train", "loss_mask", 1),
        ("evaluation", "score_dive", "delta", 2),
    ],
)
@pytest.mark.slow  # full-size weights
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_section_runs_and_tells_what_came_out(folder, section, operation, check, count, dtype):
    job = TorchJob(task(folder, section, dtype=dtype))
    assert job.matmul()().dtype == getattr(torch, dtype)
    before = job.model.decoder4.state_dict()["model.0.norm_q.weight"].clone()
    prepared = job.prepare()
    assert len(prepared["checks"][check]) == count
    assert all(value != 0 for value in prepared["checks"][check])
    assert prepared["flops"][operation] > 1e6
    job.operations()[operation]()
    after = job.model.decoder4.state_dict()["model.0.norm_q.weight"]
    assert torch.equal(before, after) != (section == "train")


@pytest.mark.slow
def test_only_the_plain_setting_counts_operations(folder):
    job = TorchJob(task(folder, "forward", "channels_last"))
    assert job.model.frames_format == torch.channels_last
    assert job.prepare()["flops"] == {}


@pytest.mark.slow
def test_a_score_of_the_check_is_a_mean_of_the_run(folder):
    job = TorchJob(task(folder, "evaluation"))
    deltas = job.prepare()["checks"]["delta"]
    assert job.operations()["score_dive"]() == pytest.approx(sum(deltas) / 2, rel=1e-5)


def test_a_missing_gpu_is_told_before_all_else(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="--device=gpu: PyTorch .* finds no GPU; look for one"):
        TorchJob(task(tmp_path, "forward", device="gpu"))


@pytest.fixture
def gpu_job(monkeypatch):
    """A job that takes this machine for one with a GPU, before its model is made."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()

    def make(setting):
        job = object.__new__(TorchJob)
        job.task, job.device = task("", "forward", setting, "gpu"), torch.device("cuda")
        job._use_device()
        return job

    yield make
    torch.backends.cudnn.benchmark = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize("setting", throughput.TORCH_SETTINGS)
def test_a_gpu_is_used_as_well_as_it_can_be_but_by_the_plain_setting(gpu_job, setting):
    def state():
        cudnn = torch.backends.cudnn
        return cudnn.benchmark, torch.get_float32_matmul_precision(), cudnn.allow_tf32

    job = gpu_job(setting)
    plain = setting == "reference"
    expected = (False, "highest", True) if plain else (True, "high", True)
    assert state() == expected
    # What is checked has whole products in both.
    assert job._exactly(state, None) == (not plain, "highest", False)
    assert state() == expected
