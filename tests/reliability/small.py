"""A config for trainings that are broken off: the demo's network and data, as few as can be."""

import pathlib

from configs import demo
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release

TRAIN_DIVES, TEST_DIVES = 32, 3
STEPS_PER_EPOCH = TRAIN_DIVES // 4  # the demo's batch


def get_config(epochs: str = "16"):
    """The demo's config with eight steps an epoch, each logged and every fourth one saved."""
    config = demo.get_config()
    config.data.data_dir = "data"
    config.train.epochs = int(epochs)
    config.train.schedule_epochs = int(epochs)
    config.train.log_every = 1
    config.train.checkpoint_every = 4
    config.train.evaluate_every = 4
    config.evaluate.exemplars = 2
    return config


def build(folder: pathlib.Path) -> pathlib.Path:
    """Renders and builds a small data set; returns its folder."""
    release = render_release(
        folder / "release",
        train_dives=TRAIN_DIVES,
        test_dives=TEST_DIVES,
        dive_numbers=3,
        width=160,
        height=90,
        workers=0,
        progress=False,
    )
    build_dataset(release, folder / "data")
    return folder / "data"
