"""A run that was begun before the config had a schema is read: network, optimiser and config."""

import pathlib
import tarfile

import jax
import numpy as np
import pytest
from write_old_run import SIZES, value_of

from finecausal_jax.runtime.checkpoints import OPTIMISER, VARIABLES, CheckpointStore
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.settings import config as configs
from finecausal_jax.settings import things, workdirs
from finecausal_jax.training.state import init_state


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old_run")
    with tarfile.open(pathlib.Path(__file__).with_name("old_run.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


def by_name(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_its_config_is_read(old_run):
    settings = workdirs.saved_settings(old_run)
    flat = configs.flattened(settings)
    assert {name: flat[name] for name in SIZES} == {**SIZES, "model.stage_frames": [4, 4, 4]}
    assert settings.data.split == "official"  # what it did not have has its default
    workdirs.refuse_other_run(old_run, settings)


@pytest.mark.slow  # Orbax takes its time over 1,300 arrays, and so does tracing the network
def test_its_network_and_its_optimiser_are_read(old_run):
    settings, layout = workdirs.saved_settings(old_run), make_layout()
    step, variables = things.load_network(settings, old_run, "best", layout)
    assert step == 7
    for name, leaf in by_name(variables).items():
        np.testing.assert_array_equal(leaf, np.float32(value_of(name)), err_msg=name)

    _, optimiser = things.make_training_step(settings, 45, layout)
    shapes = things.variable_shapes(settings)
    abstract = layout.shapes(jax.eval_shape(lambda x: init_state(x, optimiser), shapes))
    wanted = {"step": abstract.step, "opt_state": abstract.opt_state}
    with CheckpointStore(old_run) as store:
        items = store.load(7, {VARIABLES: abstract.variables, OPTIMISER: wanted})
    adam = items[OPTIMISER]["opt_state"][1]
    assert int(adam.count) == int(items[OPTIMISER]["step"]) == 7
    for name, leaf in by_name(adam.mu).items():
        half = np.float32(value_of(f"params/{name}")) * np.float32(0.5)
        np.testing.assert_array_equal(leaf, half, err_msg=name)
