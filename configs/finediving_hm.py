"""FineCausal on FineDiving-HM at full size: the reference's setting.

    python launch.py build --config=configs/finediving_hm.py
    python launch.py train --config=configs/finediving_hm.py --workdir=runs/finediving_hm
    python launch.py evaluate --config=configs/finediving_hm.py --workdir=runs/finediving_hm

Time and score on the real data: not yet run. (The paper reports Spearman 0.9447, R-l2 x100 0.2338.)
Every key is explained by `python launch.py train --help`.
"""

import ml_collections

from finecausal_jax.settings import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the schema's defaults, which are the full size; other configs start from it."""
    return default_config()
