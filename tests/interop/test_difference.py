"""The difference between two sets of weights, largest first."""

import math

import numpy as np
import pytest

from finecausal_jax.interop.difference import differences, read_any
from finecausal_jax.runtime.checkpoints import CheckpointStore


def test_differences_are_sorted_and_complete():
    one = {
        "awl": {"params": np.array([1.0, 2.0, 3.0], np.float32)},
        "decoder1": {
            "model.0.norm2.weight": np.ones(4, np.float32),
            "model.0.norm2.bias": np.zeros(4, np.float32),
            "model.0.mlp.fc1.weight": np.ones((4, 2), np.float32),
            "extra": np.ones(1, np.float32),
        },
    }
    two = {m: {k: v.copy() for k, v in ts.items() if k != "extra"} for m, ts in one.items()}
    two["awl"]["params"][1] = 2.5
    two["decoder1"]["model.0.norm2.bias"][0] = np.nan
    two["decoder1"]["model.0.mlp.fc1.weight"] = np.ones((2, 4), np.float32)
    two["decoder2"] = {"x": np.ones(1, np.float32)}
    rows, only_one, only_two, equal = differences(one, two)
    assert [row.name for row in rows] == [
        "decoder1/model.0.mlp.fc1.weight",
        "decoder1/model.0.norm2.bias",
        "awl/params",
    ]
    assert rows[0].note == "shapes [4, 2] and [2, 4]"
    assert math.isinf(rows[1].absolute)
    assert rows[2].absolute == 0.5
    assert rows[2].relative == 0.5 / 3
    assert rows[2].leaf == "params/awl"
    assert only_one == ["decoder1/extra"]
    assert only_two == ["decoder2/x"]
    assert equal == 1


def test_files_and_checkpoints_are_read_alike(
    tmp_path, small_state, small_model, small_tensors, write_pth
):
    from finecausal_jax.interop import conversion

    path = write_pth(tmp_path / "best.pth", small_state, prefix="module.")
    conversion.save_converted(conversion.convert_file(path, model=small_model), tmp_path / "run")
    want, what = read_any(str(path))
    assert what == f"{path}, FineCausal checkpoint"
    for where in (str(tmp_path / "run"), f"{tmp_path / 'run'}:0"):
        found, what = read_any(where)
        assert what == f"{tmp_path / 'run'}, checkpoint of step 0"
        assert differences(found, want) == ([], [], [], len(small_tensors))


def test_the_best_checkpoint_is_read_unless_another_is_named(tmp_path):
    with CheckpointStore(tmp_path / "a:b") as store:
        for step, spearman in ((2, 0.9), (4, 0.1)):
            awl = np.full(3, step, np.float32)
            store.save(step, {"variables": {"params": {"awl": awl}}})
            store.evaluated(step, {"spearman": spearman})
    for which, step in (("", 2), (":best", 2), (":latest", 4), (":4", 4)):
        state, what = read_any(f"{tmp_path / 'a:b'}{which}")
        assert what == f"{tmp_path / 'a:b'}, checkpoint of step {step}"
        assert state["awl"]["params"].tolist() == [step] * 3
    with pytest.raises(ValueError, match="no checkpoint '3' in"):
        read_any(f"{tmp_path / 'a:b'}:3")
