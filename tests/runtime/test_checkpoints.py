"""Checkpoints as several processes see them."""

import math
import shutil

import jax
import numpy as np
import pytest

from finecausal_jax.runtime.checkpoints import (
    VARIABLES,
    CheckpointStore,
    has_checkpoints,
    recover,
)
from finecausal_jax.runtime.errors import InputError


def items(value):
    return {VARIABLES: {"params": np.full(2, value, np.float32)}}


def saved_value(store, step):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {VARIABLES: {"params": jax.ShapeDtypeStruct((2,), np.float32, sharding=here)}}
    return float(store.load(step, abstract)[VARIABLES]["params"][0])


def test_an_evaluation_is_kept_beside_the_checkpoint(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(3, items(1))
        assert store.metrics(3) == {} if store.steps() == [3] else True
        store.evaluated(3, {"spearman": 0.25, "execution_spearman": math.nan})
    with CheckpointStore(tmp_path) as store:
        assert store.metrics(3) == {"spearman": 0.25}
        assert saved_value(store, 3) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_the_best_by_spearman_stays(tmp_path, caplog):
    with CheckpointStore(tmp_path, keep_latest=1) as store:
        for step, spearman in ((3, 0.5), (6, 0.25), (9, 0.125)):  # 3 stays, the best; 6 goes
            store.save(step, items(1))
            store.evaluated(step, {"spearman": spearman})
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [3, 9]
        assert store.find("best") == 3
        assert store.find() == 9


def test_checkpoints_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    with CheckpointStore(tmp_path / "run", keep_latest=1) as store:
        for step in (3, 6, 9):
            store.save(step, items(step))
            store.evaluated(step, {"spearman": float(step)})
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"6", "9"}


def test_what_an_earlier_version_was_killed_amid_replacing_is_found_by_readers(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(3, items(1))
        store.save(6, items(2))
    (tmp_path / "checkpoints_replaced").mkdir()
    (tmp_path / "checkpoints" / "6").rename(tmp_path / "checkpoints_replaced" / "6")
    with CheckpointStore(tmp_path) as store:
        assert store.find() == 6
        assert saved_value(store, 6) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_recovering_prefers_the_finished_successor(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(3, items(2))
    (tmp_path / "checkpoints_replaced" / "3").mkdir(parents=True)
    recover(tmp_path)
    with CheckpointStore(tmp_path) as store:
        assert saved_value(store, 3) == 2
    assert not (tmp_path / "checkpoints_replaced").exists()


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_every_damaged_file_is_named_with_the_step_to_go_back_to(tmp_path, damage):
    with CheckpointStore(tmp_path / "whole") as store:
        store.save(3, items(1))
        store.save(6, items(2))
    names = [
        path.relative_to(tmp_path / "whole") for path in files_of(tmp_path / "whole/checkpoints/6")
    ]
    assert len(names) > 5
    for number, name in enumerate(names):
        run = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", run)
        content = bytearray((run / name).read_bytes())
        if damage == "remove":
            (run / name).unlink()
        elif damage == "cut":
            (run / name).write_bytes(content[: len(content) // 2])
        elif content:
            content[len(content) // 2] ^= 1
            (run / name).write_bytes(content)
        if damage == "remove" and name.name == "checksums.json" or not content:
            continue  # as of earlier versions, which had none
        with pytest.raises(InputError, match="checkpoint 6 is damaged.*--checkpoint=3") as caught:
            with CheckpointStore(run) as store:
                saved_value(store, 6)
        assert name.name in str(caught.value)
        with CheckpointStore(run) as store:
            assert saved_value(store, 3) == 1


def test_a_damaged_evaluation_is_named(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(3, items(1))
        store.evaluated(3, {"spearman": 0.5})
    (tmp_path / "checkpoints/3/evaluation.json").write_text("")
    with CheckpointStore(tmp_path) as store:
        with pytest.raises(InputError, match="evaluation.json: expected the metrics"):
            store.find("best")
        assert saved_value(store, 3) == 1


@pytest.mark.parametrize("clean", [False, True])
def test_only_the_trainer_removes_unfinished_saves(tmp_path, clean):
    assert not has_checkpoints(tmp_path)
    with CheckpointStore(tmp_path) as store:
        store.save(3, {VARIABLES: {"params": np.ones(2, np.float32)}})
    # As Orbax names a save under way.
    unfinished = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with CheckpointStore(tmp_path, clean=clean) as store:
        assert store.steps() == [3]
        store.save(5, {VARIABLES: {"params": np.ones(2, np.float32)}})  # waits for the removal
    assert unfinished.exists() == (not clean)
    assert has_checkpoints(tmp_path)
