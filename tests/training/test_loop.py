"""The loop around the step: resuming, killing, losses that are not finite, retracing.

The step here is a few operations that depend on everything a step may depend on (state, batch and
key), so that these tests see the loop and not the network; `test_steps` has the real step.
"""

import dataclasses
import json
import os
import signal
import struct
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from finecausal_jax.runtime import interruption
from finecausal_jax.runtime.checkpoints import CheckpointStore
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.layout import make_layout
from finecausal_jax.scoring.protocol import Evaluation
from finecausal_jax.settings import read, things, workdirs
from finecausal_jax.training import loop, replay
from finecausal_jax.training.compiling import CompiledStep
from finecausal_jax.training.losses import Losses
from finecausal_jax.training.optimiser import OptimiserSettings, make_optimiser
from finecausal_jax.training.schedule import Schedule
from finecausal_jax.training.start import Start
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release

METRICS = {"spearman": 0.5, "execution_spearman": 0.4, "r_l2_x100": 1.0, "tiou_50": 0.9}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    release = render_release(
        folder / "release",
        train_dives=6,
        test_dives=2,
        frames=(20, 23),
        width=48,
        height=32,
        dive_numbers=2,
        workers=0,
        progress=False,
    )
    build_dataset(release, folder / "data")
    return folder / "data"


@pytest.fixture
def config(data_dir):
    config = demo.get_config()
    config.data.data_dir = str(data_dir)
    config.data.frames, config.data.frame_size = 16, 16
    config.data.resize_width, config.data.resize_height = 16, 24
    config.model.windows, config.model.window_frames, config.model.window_stride = 2, 8, 8
    config.train.epochs = 3
    config.train.batch_size = 2  # 3 steps an epoch, 9 in all
    config.train.checkpoint_every = 2
    config.train.log_every = 1
    return config


class Killed(BaseException):
    """What the tests raise in place of a signal."""


@pytest.fixture(scope="module")
def jitted():
    """A step for all tests of this file, its optimiser, and how often it was traced."""
    optimiser = make_optimiser(OptimiserSettings(Schedule(6)))
    shared = types.SimpleNamespace(optimiser=optimiser, traces=0)

    @jax.jit
    def step(state, batch, key):
        shared.traces += 1
        pixels = jnp.mean(batch["query"]["frames"].astype(jnp.float32), axis=(0, 2, 3, 4)) / 255
        noise = jax.random.normal(jax.random.fold_in(key, state.step), pixels.shape)
        gradients = {"base_model": {"kernel": pixels + noise}}
        params, opt_state = optimiser.apply(gradients, state.opt_state, state.params)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        loss = jnp.mean(pixels)
        return state, Losses(loss=loss, loss_aqa=loss, loss_tas=loss, loss_mask=loss)

    shared.step = step
    return shared


@pytest.fixture
def cheap(config, jitted):
    """Trains with a step and an evaluation that cost nothing.

    `cheap.at[step]` is called before that step; `cheap.loss[step]` replaces losses.
    """
    control = types.SimpleNamespace(at={}, loss={}, spoil=set())
    control.evaluate = lambda variables: Evaluation((), METRICS, {})

    def watched(state, batch, key):
        number = int(state.step) + 1
        control.at.get(number, lambda: None)()
        state, losses = jitted.step(state, batch, key)
        if number in control.spoil:
            state = state.replace(params=jax.tree.map(lambda x: x / 0, state.params))
        return state, losses.replace(**control.loss.get(number, {}))

    def variables():
        return {"params": {"base_model": {"kernel": jnp.zeros(16)}}, "batch_stats": {}}

    def make_run():
        settings = read(config)
        run = things.make_run(settings, make_layout())
        return dataclasses.replace(
            run,
            start=Start(jitted.optimiser, run.layout, variables, variables),
            compile=lambda *_: CompiledStep(watched, flops=1e6),
            evaluate=lambda variables: control.evaluate(variables),
        )

    def train(folder):
        return loop.train(make_run(), folder, lambda: workdirs.claim(folder, read(config)))

    control.run, control.train = make_run, train
    return control


@pytest.fixture(scope="module")
def runs():
    """Where `unbroken` keeps its run from test to test."""
    return []


@pytest.fixture
def unbroken(cheap, jitted, runs, tmp_path_factory):
    """A run without incident: its last state, the steps that it logged, how often it traced."""
    if not runs:
        folder = tmp_path_factory.mktemp("unbroken")
        jitted.step.clear_cache()
        before = jitted.traces
        state = jax.device_get(cheap.train(folder))
        logged, traces = steps_logged(folder), jitted.traces - before
        runs.append(types.SimpleNamespace(state=state, logged=logged, traces=traces))
    return runs[0]


def kill():
    raise Killed


def steps_logged(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line["step"] for line in map(json.loads, lines) if "train/loss" in line]


def scalars(folder):
    from tensorboardX.proto import event_pb2

    found = {}
    for path in sorted((folder / "tensorboard").glob("events.*")):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def evaluated(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line["step"] for line in map(json.loads, lines) if "test/spearman" in line]


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("killed_at", [1, 6, 9])
def test_a_killed_run_ends_as_an_unbroken_one(cheap, unbroken, tmp_path, killed_at):
    assert int(unbroken.state.step) == 9

    cheap.at[killed_at] = kill
    with pytest.raises(Killed):
        cheap.train(tmp_path)
    del cheap.at[killed_at]
    with CheckpointStore(tmp_path) as store:
        done = store.steps()
    assert done == [s for s in (2, 4, 6, 8) if s < killed_at][-2:]

    same(cheap.train(tmp_path), unbroken.state)
    assert steps_logged(tmp_path) == unbroken.logged == list(range(1, 10))


def test_a_kill_while_evaluating_costs_no_training(cheap, tmp_path):
    evaluate, cheap.evaluate = cheap.evaluate, lambda variables: kill()
    with pytest.raises(Killed):
        cheap.train(tmp_path)
    with CheckpointStore(tmp_path) as store:
        assert store.find("latest") == 9
        assert store.metrics(9) == {}

    cheap.evaluate = evaluate
    cheap.train(tmp_path)  # nothing is left to train: it evaluates
    assert evaluated(tmp_path) == [9]
    with CheckpointStore(tmp_path) as store:
        assert store.metrics(9)["spearman"] == 0.5
    cheap.train(tmp_path)
    assert evaluated(tmp_path) == [9]


@pytest.mark.parametrize(
    "name, value, complaint",
    [
        ("train.log_every", 0, r"config.train.log_every is 0, expected at least 1"),
        ("evaluate.pair_batch", -1, r"config.evaluate.pair_batch is -1, expected at least 1"),
    ],
)
def test_counts_below_one_are_named_before_anything_is_written(
    config, cheap, tmp_path, name, value, complaint
):
    config.update_from_flattened_dict({name: value})
    with pytest.raises(ValueError, match=complaint):
        cheap.train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_step_is_traced_once(unbroken):
    assert unbroken.traces == 1


def test_another_seed_sees_other_pairs_and_draws_other_dropout(config, cheap, unbroken, tmp_path):
    config.seed = 1
    other = cheap.train(tmp_path)
    assert np.any(
        other.params["base_model"]["kernel"] != unbroken.state.params["base_model"]["kernel"]
    )


def test_a_loss_that_is_not_finite_is_named_and_not_saved(config, cheap, tmp_path):
    config.train.log_every = 50  # looked at before a save all the same
    cheap.loss[6] = {"loss_tas": jnp.float32(np.nan)}
    with pytest.raises(InputError, match=r"loss_tas is nan at step 6, whose dives.*base_lr"):
        cheap.train(tmp_path)
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [2, 4]

    told = replay.read_replay(tmp_path / "replay-6.json")
    assert (told.step, told.start, told.what) == (6, 4, "loss_tas is nan")
    seen = []
    cheap.at[5] = cheap.at[6] = lambda: seen.append(True)
    lines = replay.run_again(cheap.run(), told, tmp_path)
    assert lines[0] == "step 6: loss_tas is nan"
    assert len(seen) == 2  # steps 5 and 6 alone
    assert [line.split()[1].rstrip(",") for line in lines[2:]] == [q for q, _ in told.dives]
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [2, 4]


def test_a_gradient_that_is_not_finite_is_not_saved(cheap, tmp_path):
    cheap.spoil.add(3)
    with pytest.raises(InputError, match=r"gradient of params/base_model/kernel.*at step 4"):
        cheap.train(tmp_path)  # step 4 is the first that is saved after it
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [2]
    told = replay.read_replay(tmp_path / "replay-4.json")
    lines = replay.run_again(cheap.run(), told, tmp_path)
    assert lines[0] == "step 3: the gradient of params/base_model/kernel is not finite"


def test_a_replay_of_values_that_stay_finite_says_so(cheap, tmp_path):
    cheap.train(tmp_path)
    told = replay.Replay(9, 8, "loss is nan", ())
    assert "finite values this time" in replay.run_again(cheap.run(), told, tmp_path)[0]


@pytest.mark.parametrize("text", ["", "[]", '{"step": 1}', '{"step": 1, "start": 3}'])
def test_a_replay_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x.json: expected what a training wrote"):
        replay.read_replay(tmp_path / "x.json")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_at_hand(cheap, unbroken, tmp_path, number):
    cheap.at[5] = lambda: os.kill(os.getpid(), number)
    with interruption.raising():
        with pytest.raises(interruption.Interrupted, match="step 5 of 9, which is saved") as ended:
            cheap.train(tmp_path)
    assert ended.value.number == number
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [4, 5]
    del cheap.at[5]
    same(cheap.train(tmp_path), unbroken.state)
    assert steps_logged(tmp_path) == unbroken.logged


def test_a_second_signal_ends_at_once(cheap, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    cheap.at[5] = twice
    with pytest.raises(interruption.Interrupted, match="ended by SIGINT"):
        cheap.train(tmp_path)
    with CheckpointStore(tmp_path) as store:
        assert store.steps() == [2, 4]


def test_a_signal_ends_an_evaluation_at_once_and_it_comes_again(cheap, tmp_path):
    evaluate = cheap.evaluate
    cheap.evaluate = lambda variables: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(interruption.Interrupted):
        cheap.train(tmp_path)
    cheap.evaluate = evaluate
    cheap.train(tmp_path)
    assert evaluated(tmp_path) == [9]


def test_a_second_training_in_a_workdir_is_refused_and_the_first_goes_on(cheap, unbroken, tmp_path):
    refused = []

    def second():
        del cheap.at[5]
        with pytest.raises(InputError, match=r"is in use by a training, process \d+ on .* since"):
            cheap.train(tmp_path)
        refused.append(True)

    cheap.at[5] = second
    same(cheap.train(tmp_path), unbroken.state)
    assert refused == [True]
    assert steps_logged(tmp_path) == unbroken.logged


def test_every_row_is_in_tensorboard_once_after_kills(cheap, tmp_path):
    for step in (4, 7):
        cheap.at[step] = kill
        with pytest.raises(Killed):
            cheap.train(tmp_path)
        del cheap.at[step]
    evaluate, cheap.evaluate = cheap.evaluate, lambda variables: kill()
    with pytest.raises(Killed):
        cheap.train(tmp_path)
    cheap.evaluate = evaluate
    # A kill between the row of an evaluation and its place beside the checkpoint.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "test/spearman": 0.5}\n{"step": 9, "te')
    cheap.train(tmp_path)
    rows = scalars(tmp_path)
    assert [step for step, _ in rows["train/loss"]] == list(range(1, 10))
    assert rows["test/spearman"] == [(9, 0.5)]
    assert evaluated(tmp_path) == [9]


def test_rates_are_measured_and_trackers_take_all_rows(cheap, tmp_path):
    taken = []
    tracker = types.SimpleNamespace(
        write=lambda step, values: taken.append((step, values)), close=lambda: taken.append(None)
    )
    run = dataclasses.replace(cheap.run(), trackers=[lambda folder: tracker], peak_flops=1e12)
    loop.train(run, tmp_path, claim=lambda: None)
    assert [step for step, _ in taken[:-1]] == [*range(1, 10), 9]
    assert taken[-1] is None
    speed = {name for name in taken[0][1] if name.startswith("speed/")}
    assert speed == {
        f"speed/{name}"
        for name in ("steps_per_second", "pairs_per_second", "step_seconds", "input_wait_share")
        + ("tflops_per_second", "flops_utilisation")
    }
    assert 0 <= taken[3][1]["speed/input_wait_share"] <= 1


def test_steps_are_profiled(cheap, tmp_path):
    loop.train(cheap.run(), tmp_path, claim=lambda: None, profile=range(3, 5))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_the_best_checkpoint_is_kept(config, cheap, tmp_path):
    config.train.evaluate_every = 1
    spearman = iter([0.9, 0.1, 0.2])
    cheap.evaluate = lambda _: Evaluation((), METRICS | {"spearman": next(spearman)}, {})
    cheap.train(tmp_path)
    with CheckpointStore(tmp_path) as store:
        assert (store.find("best"), store.find("latest")) == (3, 9)
