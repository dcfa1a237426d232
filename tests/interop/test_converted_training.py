"""A training that goes on from a PyTorch checkpoint, by the commands and with the real step."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from synthetic_weights import BUFFERS, NEVER_CALLED, trained_adam

from configs import demo
from finecausal_jax.interop import export
from finecausal_jax.interop.order import OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import to_pytorch
from finecausal_jax.models.initial_values import init_variables
from finecausal_jax.settings import read, things
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]

# A small network, and two micro-batches an epoch, both of them for one step of the optimiser.
SETTINGS = {
    "data.frames": 16,
    "data.frame_size": 16,
    "data.resize_width": 16,
    "data.resize_height": 28,
    "model.window_frames": 8,
    "model.window_stride": 8,
    "model.width": 1 / 16,
    "model.frame_width": 1 / 8,
    "model.embedding": 8,
    "model.stage_frames": (4, 4, 4),
    "model.stage_margin": 1,
    "train.epochs": 2,
    "train.batch_size": 2,
    "train.accumulate": 2,
    "train.log_every": 1,
    "evaluate.exemplars": 2,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    release = render_release(
        folder / "release",
        train_dives=4,
        test_dives=3,
        frames=(20, 23),
        width=64,
        height=48,
        dive_numbers=2,
        workers=0,
        progress=False,
    )
    build_dataset(release, folder / "data")
    return folder / "data"


def launch(command, *arguments):
    command = [sys.executable, "launch.py", command, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_pytorch_checkpoint_is_trained_on(tmp_path, data_dir, torch, write_pth):
    config = demo.get_config()
    config.update_from_flattened_dict(SETTINGS)
    model = things.make_model(read(config))
    variables = init_variables(model, config.data.frame_size, jax.random.key(3))
    state = to_pytorch(jax.tree.map(np.asarray, variables))
    _, adam = trained_adam(torch, state, OPTIMIZER_GROUPS, steps=1)
    source = write_pth(tmp_path / "best.pth", state, optimizer=adam.state_dict())

    run = tmp_path / "run"
    with_config = [
        "--config=configs/demo.py",
        f"--config.data.data_dir={data_dir}",
        *(f"--config.{key}={value}" for key, value in SETTINGS.items()),
        f"--workdir={run}",
    ]
    text = launch("convert", f"--source={source}", *with_config)
    assert "training goes on after their 1 steps" in text

    # One step of Adam is two micro-batches, one epoch: the second epoch is left.
    assert "trained to step 4" in launch("train", *with_config)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in training] == [3, 4]
    assert [row["train/epoch"] for row in training] == [1.5, 2.0]
    assert all(math.isfinite(row["train/loss"]) for row in training)
    (test,) = [row for row in rows if "test/r_l2_x100" in row]

    content = export.read_checkpoint(run, which="latest", model=model)
    assert content.step == 4
    assert content.adam["count"] == 2
    moved = 0
    for module, tensors in state.items():
        for key, before in tensors.items():
            off = np.max(np.abs(content.state[module][key] - before))
            name = f"{module}/{key}"
            if key.endswith(BUFFERS) or name.startswith(NEVER_CALLED):
                continue
            # Adam's second step: |m| / sqrt(v), corrected for the start, is at most 1.
            assert 0 < off < 1.01 * config.train.base_lr, name
            moved += 1
    assert moved == len(jax.tree.leaves(variables["params"]))
    # Statistics of batches, by the first micro-batch already.
    before, after = (
        tensors["video_encoder"]["backbone.layer1.0.bn1.running_mean"]
        for tensors in (state, content.state)
    )
    assert not np.array_equal(before, after)

    text = launch("evaluate", *with_config, "--checkpoint=latest")
    assert "checkpoint of step 4; wrote" in text
    assert len(json.loads((run / "evaluation.json").read_text())["dives"]) == 3

    output = tmp_path / "back" / "trained.safetensors"
    text = launch("export", f"--workdir={run}", "--format=safetensors", f"--output={output}")
    assert "progress: epoch 1, " in text
    assert "left at what the reference starts with: L2_min 1000\n" in text
    saved = json.loads(output.with_name("config.json").read_text())
    assert saved["progress"]["RL2_min"] == pytest.approx(test["test/r_l2_x100"] / 100)
    assert saved["model"]["delta_scale"] == config.model.delta_scale
