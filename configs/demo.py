"""The same network and protocol, shrunk for two CPU cores, on rendered dives.

    make demo-train

or, one command at a time:

    python launch.py render --config=configs/demo.py
    python launch.py build --config=configs/demo.py
    python launch.py train --config=configs/demo.py --workdir=runs/demo_train
    python launch.py evaluate --config=configs/demo.py --workdir=runs/demo_train --checkpoint=latest

Time: on two busy CPU cores the training took under five minutes, a quarter of it compiling; the
rest of `make demo-train` takes about one, packages aside. docs/rendered.md has its scores.
"""

import ml_collections

from finecausal_jax.settings import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the full-size config with smaller sizes and a training that starts from nothing."""
    config = default_config()
    config.data_name = "rendered data"
    config.evaluate.thumbnails = True  # nobody's pictures

    config.data.manual_dir = "data/rendered"
    config.data.data_dir = "data/rendered_tfds"
    config.data.workers = 0
    config.data.frames = 32
    config.data.frame_size = 32
    # Squeezed as at full size, a diver would have eight pixels.
    config.data.keep_aspect = True
    config.data.resize_height = 48
    config.data.crop_range = 0.2

    config.model.windows = 2
    config.model.window_stride = 16
    config.model.width = 0.125
    config.model.frame_width = 0.25
    config.model.embedding = 16
    config.model.stage_frames = (12, 20, 16)
    config.model.stage_margin = 2
    config.model.base_batch_norm = "batch"  # no Kinetics weights to keep

    # Ten epochs are too few for the regressors to grow to points by themselves.
    config.model.delta_scale = 8.0

    config.train.epochs = 10
    config.train.batch_size = 4
    config.train.accumulate = 1
    config.train.base_lr = 2e-3
    config.train.base_model_lr = 2e-3
    config.train.warmup_epochs = 1
    config.train.schedule_epochs = 10
    config.train.evaluate_every = 0  # only at the end
    config.train.checkpoint_every = 50

    config.rendered.train_dives = 240
    config.rendered.test_dives = 60
    config.rendered.competitions = 12
    config.rendered.unseen_competitions = 2
    config.rendered.width = 160
    config.rendered.height = 90
    return config
