"""Where a training starts: pretrained trunks, converted checkpoints, and files that do not fit.

The training loop itself, with a step that only counts: no network is compiled.
"""

import pathlib
import shutil
import types

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from flax.traverse_util import flatten_dict
from synthetic_weights import trained_adam

from configs import demo
from finecausal_jax.data.batches import Batches
from finecausal_jax.interop.conversion import convert_file, save_converted
from finecausal_jax.interop.order import OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import WeightsError, from_pytorch
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.settings import read, things, workdirs
from finecausal_jax.training import loop
from finecausal_jax.training.compiling import CompiledStep
from finecausal_jax.training.losses import Losses
from finecausal_jax.training.optimiser import make_optimiser
from finecausal_jax.training.plan import Plan
from finecausal_jax.training.run import Run
from finecausal_jax.training.start import Start, initial_variables

STEPS_PER_EPOCH = 3
INITIAL = np.float32(0.25)  # what `small_init` fills with


class Stopped(BaseException):
    """What ends a training here."""


@pytest.fixture
def config():
    """Nine steps: three an epoch, two of them for each step of the optimiser."""
    config = demo.get_config()
    config.train.epochs, config.train.batch_size, config.train.accumulate = 3, 2, 2
    return config


@pytest.fixture
def begin(monkeypatch, small_model, small_init):
    """Starts a training; returns what its first step saw.

    It is stopped there, or after the last checkpoint if it is to be `saved`.
    """

    def run(config, workdir, saved=False, init=small_init):
        seen = types.SimpleNamespace(state=None, batch=None, warnings=[])
        settings = read(config)
        optimiser = make_optimiser(things.optimiser_settings(settings, STEPS_PER_EPOCH))

        def stop(*_):
            raise Stopped

        def step(state, batch, key):
            if seen.state is None:
                # What the real step needs, which donates its state.
                leaves = jax.tree.leaves(state.opt_state)
                assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
                seen.state, seen.batch = jax.device_get((state, batch))
            if not saved:
                stop()
            zero = jnp.float32(0)
            losses = Losses(loss=zero, loss_aqa=zero, loss_tas=zero, loss_mask=zero)
            return state.replace(step=state.step + 1), losses

        def initial():
            return initial_variables(
                small_model,
                0,
                jax.random.key(0),
                kinetics=settings.train.kinetics_i3d,
                resnet=settings.train.imagenet_resnet34,
                draw=init,
            )

        def shapes():
            return init(small_model, 0, jax.random.key(0))

        numbers = grain.MapDataset.range(100).map(lambda n: {"number": np.full(2, n)})
        layout = make_layout()
        made = Run(
            start=Start(optimiser, layout, initial, shapes, settings.train.accumulate),
            compile=lambda *_: CompiledStep(step),
            batches=Batches(numbers, 0, {"seed": 0}),
            evaluate=stop,
            plan=Plan(STEPS_PER_EPOCH, settings.train.epochs, evaluate_every=0),
            layout=layout,
            key=jax.random.key(0),
        )
        with monkeypatch.context() as patched:
            patched.setattr(logging, "warning", lambda text, *of: seen.warnings.append(text % of))
            with pytest.raises(Stopped):
                loop.train(made, workdir, claim=lambda: workdirs.claim(workdir, settings))
        return seen

    return run


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    """Where `convert` keeps from test to test what it copies, and by steps what that was."""
    return tmp_path_factory.mktemp("conversions"), {}


@pytest.fixture
def convert(tmp_path, conversions, torch, small_state, small_model, write_pth):
    """Converts a `best.pth` into the workdir "run", after some steps of PyTorch's Adam."""
    folder, done = conversions

    def write(steps=0):
        if steps not in done:
            optimizer = None
            if steps:
                _, adam = trained_adam(torch, small_state, OPTIMIZER_GROUPS, steps=steps)
                optimizer = adam.state_dict()
            path = write_pth(folder / "best.pth", small_state, optimizer=optimizer)
            done[steps] = convert_file(path, model=small_model)
            save_converted(done[steps], folder / str(steps))
        shutil.copytree(folder / str(steps), tmp_path / "run")
        return done[steps]

    return write


def same(found, want):
    found, want = flatten_dict(found, sep="/"), flatten_dict(want, sep="/")
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pretrained_trunks_are_taken(
    tmp_path, config, begin, small_state, small_model, kinetics, resnet, write_flat, suffix
):
    files = {
        "kinetics_i3d": write_flat(tmp_path / f"model_rgb{suffix}", kinetics),
        "imagenet_resnet34": write_flat(tmp_path / f"resnet34{suffix}", resnet),
    }
    config.train.update({name: str(path) for name, path in files.items()})
    seen = begin(config, tmp_path / "run", saved=True)
    assert seen.warnings == []
    want = flatten_dict(from_pytorch(small_state, model=small_model), sep="/")
    taken = 0
    for name, value in flatten_dict(seen.state.variables, sep="/").items():
        source = name.replace("segmenter/trunk", "base_model")
        if source.split("/")[1] == "base_model" or "/video_encoder/backbone/" in source:
            assert np.array_equal(value, want[source]), name
            taken += 1
        else:
            assert np.all(value == INITIAL), name
    assert taken == 3 * 5 * 2 + 2 + 4 + 1 + 4 + 4

    # A resumed run has its weights from the checkpoint.
    for path in files.values():
        path.unlink()
    config.train.epochs = 4
    again = begin(config, tmp_path / "run")
    assert int(again.state.step) == 9
    same(again.state.variables, seen.state.variables)


def test_what_is_untrained_is_told(tmp_path, config, begin, kinetics, write_flat):
    both = [
        "untrained, from random values: base_model and the segmenter's trunk "
        "(config.train.kinetics_i3d names no file)",
        "untrained, from random values: the static encoder's ResNet-34 "
        "(config.train.imagenet_resnet34 names no file)",
    ]
    assert begin(config, tmp_path / "none").warnings == both
    path = write_flat(tmp_path / "model_rgb.safetensors", kinetics)
    config.train.kinetics_i3d = str(path)
    assert begin(config, tmp_path / "one").warnings == both[1:]


def test_files_that_do_not_fit_leave_no_workdir(tmp_path, config, begin, resnet, write_flat):
    config.train.kinetics_i3d = str(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match=r"gone\.pth: 1 problem\n  there is no such file"):
        begin(config, tmp_path / "run")

    path = str(write_flat(tmp_path / "resnet34.safetensors", resnet))
    config.train.kinetics_i3d = path
    with pytest.raises(WeightsError, match="expected Kinetics I3D, found ImageNet ResNet-34"):
        begin(config, tmp_path / "run")

    config.train.kinetics_i3d, config.train.imagenet_resnet34 = "", path
    good = resnet["conv1.weight"]
    resnet["conv1.weight"] = good[:4]
    write_flat(pathlib.Path(path), resnet)
    with pytest.raises(WeightsError, match=r"resnet34\.safetensors: 1 problem") as caught:
        begin(config, tmp_path / "run")
    assert "video_encoder/backbone.conv1.weight: shape: expected" in str(caught.value)
    assert not (tmp_path / "run").exists()

    # Mended, it is taken: nothing remembers the other config.
    resnet["conv1.weight"] = good
    write_flat(pathlib.Path(path), resnet)
    assert int(begin(config, tmp_path / "run").state.step) == 0


def test_a_converted_run_goes_on(tmp_path, config, begin, convert):
    converted = convert(steps=3)
    seen = begin(config, tmp_path / "run", saved=True)
    same(seen.state.variables, converted.variables)
    for name in ("mu", "nu"):
        same(optax.tree_utils.tree_get(seen.state.opt_state, name), converted.adam[name])
    # Adam's bias correction, and the schedules of both groups.
    counts = optax.tree_utils.tree_get_all_with_path(seen.state.opt_state, "count")
    assert [int(count) for _, count in counts] == [3, 3, 3]
    # Two micro-batches a step: six are done, and so many batches passed over.
    assert int(seen.state.step) == 6
    assert seen.batch["number"].tolist() == [6, 6]

    # And on, from a checkpoint of its own.
    config.train.epochs = 4
    again = begin(config, tmp_path / "run")
    assert int(again.state.step) == 9
    assert again.batch["number"].tolist() == [9, 9]
    same(optax.tree_utils.tree_get(again.state.opt_state, "nu"), converted.adam["nu"])


def test_converted_weights_without_moments_begin_a_run(tmp_path, config, begin, convert):
    converted = convert()
    seen = begin(config, tmp_path / "run")
    same(seen.state.variables, converted.variables)
    assert int(seen.state.step) == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(seen.state.opt_state))
    assert seen.batch["number"].tolist() == [0, 0]
    assert seen.warnings == []


def test_moments_from_behind_the_end_are_an_error(tmp_path, config, begin, convert):
    convert(steps=3)
    config.train.epochs = 1
    with pytest.raises(ValueError, match="stands at step 6, config.train.epochs end at 3: raise"):
        begin(config, tmp_path / "run")
    config.train.epochs = 3
    assert int(begin(config, tmp_path / "run").state.step) == 6


def test_a_converted_checkpoint_of_another_network_is_refused(
    tmp_path, config, begin, convert, small_init
):
    convert()

    def wider(*arguments):
        variables = small_init(*arguments)
        variables["params"]["awl"] = np.zeros(4, np.float32)
        return variables

    with pytest.raises(ValueError, match="does not fit the model of this config") as caught:
        begin(config, tmp_path / "run", init=wider)
    assert "awl: expected (4,), found (3,)" in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()
