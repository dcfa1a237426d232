"""A middle size for rendered dives: 64 pixels, 48 frames, a quarter of the width.

One command at a time:

    python launch.py render --config=configs/rendered.py
    python launch.py build --config=configs/rendered.py
    python launch.py train --config=configs/rendered.py --workdir=runs/rendered
    python launch.py evaluate --config=configs/rendered.py --workdir=runs/rendered --masks

`configs/rendered.py:few` has the same network, and a few dives of other competitions to try trained
weights on. Time and scores: docs/rendered.md.
"""

import ml_collections

from finecausal_jax.settings import default_config


def get_config(dives: str = "all") -> ml_collections.ConfigDict:
    """Returns the config.

    Args:
      dives: "all" to train and test on, or "few" that training never saw, of another seed.
    """
    config = default_config()
    config.data_name = "rendered data"
    config.evaluate.thumbnails = True  # nobody's pictures

    config.data.manual_dir = "data/rendered_middle"
    config.data.data_dir = "data/rendered_middle_tfds"
    config.data.workers = 0
    config.data.frames = 48
    config.data.frame_size = 64
    # Squeezed as at full size, a diver would have a quarter of the pixels.
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

    # The mask is learnt beside the score, and at the reference's threshold (docs/rendered.md).
    config.train.mask_foreground = 0.8
    config.train.loss_weights = (1.0, 1.0, 100.0)
    config.train.epochs = 10  # two periods of the rate
    config.train.schedule_epochs = 5
    config.train.warmup_epochs = 1
    config.train.batch_size = 4
    config.train.accumulate = 1
    config.train.base_lr = 2e-3
    config.train.base_model_lr = 2e-3
    config.train.evaluate_every = 0  # only at the end
    config.train.checkpoint_every = 100

    config.rendered.train_dives = 800
    config.rendered.test_dives = 120
    config.rendered.width = 192
    config.rendered.height = 108
    config.rendered.competitions = 44
    config.rendered.unseen_competitions = 4
    if dives == "few":
        config.data.manual_dir = "data/rendered_few"
        config.data.data_dir = "data/rendered_few_tfds"
        config.rendered.seed = 1
        config.rendered.train_dives = 80
        config.rendered.test_dives = 40
        config.rendered.competitions = 8
        config.rendered.unseen_competitions = 0
    elif dives != "all":
        raise ValueError(f"configs/rendered.py:{dives}: expected all or few behind the colon")
    return config
