"""A config for trainings that are broken off: the demo's network and data, as few as can be."""

import pathlib

from configs import demo
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release


def get_config():
    """The demo's config with eight steps an epoch, each logged, half saved."""
    config = demo.get_config()
    config.data.data_dir = "data"
    config.train.epochs = 4
    config.train.schedule_epochs = 4
    config.train.log_every = 1
    config.train.checkpoint_every = 4
    config.train.evaluate_every = 2
    config.evaluate.exemplars = 2
    return config


def build(folder: pathlib.Path) -> pathlib.Path:
    """Renders and builds a data set of 32 training dives and 3 test dives; returns its folder."""
    release = render_release(
        folder / "release",
        train_dives=32,
        test_dives=3,
        dive_numbers=3,
        width=160,
        height=90,
        workers=0,
        progress=False,
    )
    build_dataset(release, folder / "data")
    return folder / "data"
