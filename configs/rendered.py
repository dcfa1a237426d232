"""A middle size for rendered dives: 64 pixels, 48 frames, a quarter of the width.

One command at a time:

    python launch.py render --config=configs/rendered.py
    python launch.py build --config=configs/rendered.py
    python launch.py train --config=configs/rendered.py --workdir=runs/rendered
    python launch.py evaluate --config=configs/rendered.py --workdir=runs/rendered --masks

It has been neither trained nor timed yet.
"""

import ml_collections

from configs import demo


def get_config() -> ml_collections.ConfigDict:
    """Returns the demo's config with larger sizes, and the mask's loss balanced."""
    config = demo.get_config()

    config.data.manual_dir = "data/rendered_middle"
    config.data.data_dir = "data/rendered_middle_tfds"
    config.data.frames = 48
    config.data.frame_size = 64
    config.data.resize_height = 96

    config.model.windows = 4
    config.model.window_stride = 10
    config.model.width = 0.25
    config.model.stage_frames = (18, 30, 24)
    config.model.stage_margin = 3

    config.train.mask_foreground = 0.8
    config.train.loss_weights = (1.0, 1.0, 100.0)
    config.train.epochs = 5
    config.train.schedule_epochs = 5

    config.rendered.train_dives = 800
    config.rendered.test_dives = 120
    config.rendered.width = 192
    config.rendered.height = 108
    config.rendered.competitions = 44
    config.rendered.unseen_competitions = 4
    return config
