"""A worker's side: what it answers, and the memory it keeps."""

from __future__ import annotations

import pathlib
import sys

import pytest

from benchmarks import serve
from benchmarks.task import Task

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")


def task(device="cpu"):
    return Task("forward", "nowhere", {}, 1, 1, 1, 0, 1, device, 8)


class Job:
    """Computes nothing, on a device that may count its memory."""

    def __init__(self, device_bytes=None):
        self.device_bytes = device_bytes

    def prepare(self):
        return {}

    def operations(self):
        return {}

    def matmul(self):
        return lambda: None

    def peak_device_memory(self, *, reset):
        return self.device_bytes


def resident():
    """Bytes of this process's memory."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


@ON_LINUX
def test_memory_that_was_freed_goes_back_to_the_system():
    blocks = [bytes(1000) for _ in range(100_000)]
    last = blocks[-1]  # keeps the C library from giving back what lies before it
    full = resident()
    del blocks
    serve.give_memory_back(task("gpu"))
    assert resident() > full - 50e6
    serve.give_memory_back(task())
    assert resident() < full - 50e6
    assert len(last) == 1000


@ON_LINUX
def test_the_peak_counts_from_its_reset():
    big = bytearray(200_000_000)
    big[::4096] = bytes(len(big[::4096]))  # or the pages would not be there
    del big
    assert serve._reset_peak(Job())
    answer = serve._peak_memory(Job(), task(), reset=True)
    assert "reset after warm-up" in answer["peak_method"]
    assert abs(answer["peak_bytes"] - resident()) < 50e6


def test_a_peak_that_could_not_be_reset_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "_CLEAR_REFS", str(tmp_path / "missing" / "clear_refs"))
    assert not serve._reset_peak(Job())
    answer = serve._peak_memory(Job(), task(), reset=False)
    assert "compiling included" in answer["peak_method"]
    assert answer["peak_bytes"] >= 0.9 * resident() if sys.platform == "linux" else True


def test_a_device_that_counts_no_memory_has_no_peak():
    """The host's memory would say nothing about it."""
    unknown = {"peak_method": "unknown: nothing tells of the device's memory"}
    assert serve._peak_memory(Job(), task("tpu"), reset=True) == unknown
    known = serve._peak_memory(Job((7, "by its allocator")), task("gpu"), reset=True)
    assert known == {"peak_bytes": 7, "peak_method": "by its allocator"}
