"""A middle size for rendered dives: 64 pixels, 48 frames, a quarter of the width.

python launch.py render --config=configs/rendered.py
python launch.py build --config=configs/rendered.py
python launch.py train --config=configs/rendered.py --workdir=runs/rendered
python launch.py evaluate --config=configs/rendered.py --workdir=runs/rendered --masks
"""

import ml_collections

from configs import finediving_hm


def get_config() -> ml_collections.ConfigDict:
    """Returns the full-size config, smaller, for a training of an hour or two on two cores."""
    config = finediving_hm.get_config()
    config.data_name = "rendered data"

    config.data.manual_dir = "data/rendered_middle"
    config.data.data_dir = "data/rendered_middle_tfds"
    config.data.workers = 0
    config.data.frames = 48
    config.data.frame_size = 64
    # Squeezed as at full size, a diver of this size is a pixel wide and no mask can be learnt.
    config.data.keep_aspect = True
    config.data.resize_height = 96
    config.data.crop_range = 0.2

    config.model.windows = 4
    config.model.window_stride = 10
    config.model.width = 0.25
    config.model.frame_width = 0.25
    config.model.embedding = 16
    config.model.stage_frames = (18, 30, 24)
    config.model.stage_margin = 3
    config.model.base_batch_norm = "batch"  # no Kinetics weights to keep
    config.model.delta_scale = 8.0

    config.train.mask_foreground = 0.8
    config.train.epochs = 8
    config.train.batch_size = 4
    config.train.accumulate = 1
    config.train.base_lr = 2e-3
    config.train.base_model_lr = 2e-3
    config.train.warmup_epochs = 1
    config.train.schedule_epochs = 8
    config.train.evaluate_every = 0
    config.train.checkpoint_every = 50

    config.rendered.train_dives = 400
    config.rendered.test_dives = 120
    config.rendered.width = 192
    config.rendered.height = 108
    config.rendered.competitions = 20
    config.rendered.unseen_competitions = 4
    return config
