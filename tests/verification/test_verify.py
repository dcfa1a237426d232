"""`verify` on the recorded cases: all pass, and a wrong number is noticed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models.finecausal import Outputs
from finecausal_jax.training import losses, steps
from finecausal_jax.verification import training, verify
from finecausal_jax.verification.reference import Reference

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
    results = verify.verify(reference, QUICK, report=lines.append)
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
    results = verify.verify(copy, report=lines.append, only_misses=True)
    assert [check.tensor for check in results if not check.passed] == [
        "learning_rate_small: rest",
        "frame_stages",
    ]
    assert sum("MISS" in line for line in lines) == 2
    assert not any(line.startswith("ok") for line in lines)


def test_a_wrong_sum_of_losses_in_the_training_step_is_noticed(monkeypatch):
    """Whatever the step makes of outputs: here of synthetic ones, without gradients."""
    random = np.random.default_rng(2)
    made = {field.name: None for field in dataclasses.fields(Outputs)} | {
        "delta": random.normal(size=(2, 1)).astype(np.float32),
        "transitions": np.array([[3, 9], [4, 8]], np.int32),
        "transition_probability": random.uniform(0.1, 0.9, (2, 12, 2)).astype(np.float32),
        "mask_logits": [random.normal(size=(2, 2, 6, 4, 4)).astype(np.float32)],
    }
    masks = (random.uniform(size=(2, 12, 4, 4)) > 0.5).astype(np.float32)

    class Model:
        window_stride = 6

        def apply(self, variables, query, exemplar, **_):
            return Outputs(**jax.tree.map(jnp.asarray, made)), {"batch_stats": {}}

    # The same by hand, in float64.
    delta = made["delta"].astype(np.float64)[:, 0]
    aqa = (delta[0] - (20 - 23.5)) ** 2 + (delta[1] + (20 - 23.5)) ** 2
    target = np.zeros((2, 12, 2))
    target[[0, 0, 1, 1], [2, 7, 5, 9], [0, 1, 0, 1]] = 1
    tas = -np.mean(np.log(np.abs(1 - target - made["transition_probability"])))
    right = 1 / (1 + np.exp(-made["mask_logits"][0] * (2 * masks.reshape(2, 2, 6, 4, 4) - 1.0)))
    mask = np.mean(-((1 - right) ** 2) * np.log(right))
    p = np.array([1.0, 2.0, 0.5])
    total = np.sum([5, 1, 1] * (0.5 / p**2 * [aqa, tas, mask] + np.log1p(p**2)))
    record = {
        "case": {
            "seed": 0,
            "batch": 1,
            "query_transitions": [[2, 7]],
            "exemplar_transitions": [[5, 9]],
            "query_completeness": [20.0],
            "exemplar_completeness": [23.5],
        },
        "outputs": {"loss_aqa": aqa, "loss_tas": tas, "loss_mask": mask, "loss": total},
        "gradients": {},
        "running_statistics_after": {},
    }

    class Made(Reference):
        def __init__(self):
            """Reads no folder."""

        def case(self, name):
            return record

        def variables(self, seed):
            return {"params": {"awl": p.astype(np.float32)}, "batch_stats": {}}

        def clip(self, seed, name, batch):
            return np.zeros(1), masks[:1] if name == "query" else masks[1:]

    monkeypatch.setattr(training, "_without_dropout", lambda case: Model())
    assert misses(training.train_step(Made())) == []

    def reversed_rows(delta, query, exemplar):
        return losses.delta_loss(delta[::-1], query, exemplar)

    spoiled = types.SimpleNamespace(**vars(losses) | {"delta_loss": reversed_rows})
    monkeypatch.setattr(steps, "losses", spoiled)
    missed = [check.tensor for check in training.train_step(Made()) if not check.passed]
    assert missed == ["loss", "loss_aqa"]


def test_unknown_cases_are_named(reference, tmp_path, copy):
    with pytest.raises(ValueError, match="no case comparison; it has schedule, preprocessing"):
        verify.verify(reference, ["comparison"])
    with pytest.raises(ValueError, match=r"has no seeded\.py, manifest\.json, cases"):
        verify.verify(tmp_path)
    (copy / "cases" / "backward.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"found backward"):
        verify.verify(copy)


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
