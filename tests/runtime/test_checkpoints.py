"""Checkpoints as several processes see them."""

import jax
import numpy as np
import pytest

from finecausal_jax.runtime.checkpoints import (
    VARIABLES,
    CheckpointStore,
    has_checkpoints,
    recover,
)


def items(value):
    return {VARIABLES: {"params": np.full(2, value, np.float32)}}


def saved_value(store, step):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {VARIABLES: {"params": jax.ShapeDtypeStruct((2,), np.float32, sharding=here)}}
    return float(store.load(step, abstract)[VARIABLES]["params"][0])


def test_a_checkpoint_saved_again_has_the_new_values_and_metrics(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(3, items(1))
        store.save(3, items(2), {"spearman": 0.25})
    with CheckpointStore(tmp_path) as store:
        assert store.metrics(3) == {"spearman": 0.25}
        assert saved_value(store, 3) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_saving_a_step_again_warns_of_nothing(tmp_path, caplog):
    """A training does it at every evaluation; users would take a warning for a fault."""
    with CheckpointStore(tmp_path, keep_latest=1) as store:
        for step, spearman in ((3, 0.5), (6, 0.25), (9, 0.125)):  # 3 stays, the best; 6 goes
            store.save(step, items(1))
            store.save(step, items(2), {"spearman": spearman})
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [3, 9]
        assert store.find("best") == 3


def test_a_kill_between_two_saves_of_a_step_loses_nothing(tmp_path, monkeypatch):
    with CheckpointStore(tmp_path) as store:
        store.save(3, items(1))
    with CheckpointStore(tmp_path) as store:

        def kill(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(store._checkpointer, "save_checkpointables_async", kill)
        with pytest.raises(KeyboardInterrupt):
            store.save(3, items(2), {"spearman": 0.25})
        store._aside = None  # a killed process would not close the store
    assert not has_checkpoints(tmp_path)
    recover(tmp_path)
    with CheckpointStore(tmp_path, clean=True) as store:
        assert store.steps() == [3]
        assert saved_value(store, 3) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_recovering_prefers_the_finished_successor(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(3, items(2))
    (tmp_path / "checkpoints_replaced" / "3").mkdir(parents=True)
    recover(tmp_path)
    with CheckpointStore(tmp_path) as store:
        assert saved_value(store, 3) == 2
    assert not (tmp_path / "checkpoints_replaced").exists()


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
