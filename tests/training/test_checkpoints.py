"""Checkpoints as several processes see them."""

import numpy as np
import pytest

from finecausal_jax.training.checkpoints import VARIABLES, CheckpointStore, has_checkpoints


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
