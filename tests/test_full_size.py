"""The full-size commands on a small rendered release at 455 x 256: a training step, an evaluation.

Hours on the real data start with these commands, so they are run as typed.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def test_full_size_training_step_and_evaluation(tmp_path):
    sizes = {
        "data.manual_dir": tmp_path / "release",
        "data.data_dir": tmp_path / "tfds",
        "data.workers": 0,
        "data_name": "rendered data",
        "rendered.train_dives": 2,
        "rendered.test_dives": 2,
        "train.batch_size": 1,
        "train.epochs": 1,
        "evaluate.exemplars": 1,
        "evaluate.video_batch": 1,
        "evaluate.pair_batch": 1,
    }
    options = [f"--config.{key}={value}" for key, value in sizes.items()]
    run = f"--workdir={tmp_path / 'run'}"
    # Unlike the other tests this one computes enough for XLA's optimisations to pay.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}

    def launch(*arguments):
        subprocess.run(
            [sys.executable, "launch.py", *arguments, *options],
            cwd=ROOT,
            env=environment,
            check=True,
        )

    config = "--config=configs/finediving_hm.py"
    launch("render", config)
    launch("build", config)
    launch("train", config, run)

    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (losses,) = [line for line in lines if "train/loss" in line]
    assert losses["step"] == 2
    for name in ("loss", "loss_aqa", "loss_tas", "loss_mask"):
        assert math.isfinite(losses[f"train/{name}"]), name
    # Untrained, a pixel's mask and a frame's transition are even odds: a loss of about ln 2 each.
    assert losses["train/loss_tas"] > 0

    launch("evaluate", config, run, "--checkpoint=latest")
    table = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert len(table["dives"]) == 2
    for dive in table["dives"]:
        assert math.isfinite(dive["predicted_score"])
