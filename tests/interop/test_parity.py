"""`verify` on the recorded cases: all pass, and a wrong number is noticed."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from finecausal_jax.interop import parity
from finecausal_jax.interop.reference import Reference

QUICK = ("schedule", "preprocessing", "stage_pooling")


def misses(results):
    return [str(check) for check in results if not check.passed]


@pytest.fixture
def copy(tmp_path, reference):
    """A copy of the reference folder that a test may spoil."""
    folder = tmp_path / "reference"
    folder.mkdir()
    (folder / "cases").mkdir()
    for name in (
        "seeded.py",
        "manifest.json",
        *(f"cases/{c}" for c in ("schedule.json", "stage_pooling.npz")),
    ):
        shutil.copy(reference / name, folder / name)
    return folder


def test_quick_cases_pass(reference):
    lines = []
    results = parity.verify(reference, QUICK, report=lines.append)
    assert misses(results) == []
    assert [check.case for check in results].count("preprocessing") == 6
    assert lines[0] == "schedule: running"
    assert lines[5].startswith("schedule: 4 of 4 within limits")


def test_wrong_numbers_are_noticed(copy):
    path = copy / "cases" / "schedule.json"
    record = json.loads(path.read_text())
    record["learning_rate_small"]["rows"][3][2] *= 1 + 2e-6
    path.write_text(json.dumps(record))
    path = copy / "cases" / "stage_pooling.npz"
    arrays = dict(np.load(path))
    arrays["frame_stages"][3, 7, 2] += 1e-2
    np.savez(path, **arrays)
    lines = []
    results = parity.verify(copy, report=lines.append, only_misses=True)
    assert [check.tensor for check in results if not check.passed] == [
        "learning_rate_small: rest",
        "frame_stages",
    ]
    assert sum("MISS" in line for line in lines) == 2
    assert not any(line.startswith("ok") for line in lines)


def test_unknown_cases_are_named(reference, tmp_path, copy):
    with pytest.raises(ValueError, match="no case comparison; it has schedule, preprocessing"):
        parity.verify(reference, ["comparison"])
    with pytest.raises(ValueError, match=r"has no seeded\.py, manifest\.json, cases"):
        parity.verify(tmp_path)
    (copy / "cases" / "backward.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"found backward"):
        parity.verify(copy)


def test_probes_are_those_of_the_reference(reference):
    probe = Reference(reference).probe("awl", "params", (3,))
    again = Reference(reference).seeded._uniform("probe/awl/params", (3,), -1, 1)
    assert np.array_equal(probe, again)
    assert probe.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases", ["compare,compare_train", "forward_pair", "forward_batch", "train_step"]
)
def test_recorded_cases_pass(reference, cases):
    """The command itself, and compiled as for a user: the other tests switch optimisation off."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    arguments = ["verify", f"--reference={reference}", f"--cases={cases}", "--only_misses"]
    result = subprocess.run(
        [sys.executable, "launch.py", *arguments],
        cwd=reference.parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "MISS" not in result.stdout
    assert "checks within limits" in result.stdout
