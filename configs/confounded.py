"""Rendered dives whose background tells their quality, and what is left of a score without that.

One command at a time; `:tied` to train and to test where the background tells as much as in
training, `:untied` and `:reversed` to test where it tells nothing or the opposite:

    python launch.py render --config=configs/confounded.py:tied
    python launch.py build --config=configs/confounded.py:tied
    python launch.py train --config=configs/confounded.py:tied --workdir=runs/confounded
    python launch.py evaluate --config=configs/confounded.py:reversed --workdir=runs/confounded
    python launch.py stress --config=configs/confounded.py:tied --workdir=runs/confounded

The test dives are the same in all three but for their backgrounds, and so are the training dives,
which the exemplars are chosen from. What came out: docs/causality.md.
"""

import ml_collections

from finecausal_jax.configs import demo

TIES = {"tied": 0.9, "untied": 0.0, "reversed": -0.9}


def get_config(tie: str = "tied") -> ml_collections.ConfigDict:
    """Returns the config.

    Args:
      tie: how the background tells the quality of a test dive: "tied", "untied" or "reversed".
    """
    if tie not in TIES:
        raise ValueError(f"configs/confounded.py:{tie}: expected tied, untied or reversed")
    config = demo.get_config()
    config.data.manual_dir = f"data/confounded_{tie}"
    config.data.data_dir = f"data/confounded_{tie}_tfds"
    config.train.mask_foreground = 0.8
    config.train.loss_weights = (1.0, 1.0, 100.0)
    config.train.epochs = 8
    config.train.schedule_epochs = 8
    config.rendered.test_dives = 240
    config.rendered.competitions = 16
    config.rendered.unseen_competitions = 4
    config.rendered.confounders = "background"
    config.rendered.confounding = 0.9
    config.rendered.test_confounding = TIES[tie]
    return config
