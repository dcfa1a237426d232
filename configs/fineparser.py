"""FineParser on FineDiving-HM at full size: the model that FineCausal was built on.

    CONFIG=configs/fineparser.py
    python launch.py convert --config=$CONFIG --source=best.pth --workdir=runs/fineparser
    python launch.py evaluate --config=$CONFIG --workdir=runs/fineparser

FineParser (Xu et al., CVPR 2024) has neither graph nor temporal attention: transitions and stages
are read from motion weighted by the mask feature. The exemplar's score plus the regressed
difference is the score; difficulty has no part in it. The three losses are added as they are. Its
parameters are FineCausal's without `causal_intervention`, `temporal_causal_attn` and `awl`, so that
a file of it fills this network. (Its authors train on four GPUs, with two pairs on each.)

Time and score on the real data: not yet run.
"""

import ml_collections

from finecausal_jax.settings import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the full-size config with FineParser's choices where they differ."""
    config = default_config()
    config.model.graph_intervention = False
    config.model.without_graph = "fused"
    config.model.temporal_attention = False
    config.model.target = "score"
    config.model.loss_weighting = "sum"
    config.train.epochs = 400
    config.train.schedule_epochs = 400
    return config
