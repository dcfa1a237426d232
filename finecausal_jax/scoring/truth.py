"""What a scorer has learnt of a rendered dive's truth: each aspect of execution, and each stage."""

from __future__ import annotations

from collections.abc import Mapping

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.features import Key
from finecausal_jax.scoring.predictions import Predictions
from tfds_finecausal.rendered.judging import ASPECTS, STAGES
from tfds_finecausal.rendered.truth import DiveTruth


def compare_with_truth(
    dives: Predictions, truth: Mapping[Key, DiveTruth]
) -> dict[str, dict[str, float]]:
    """Ranks dives by each part of the truth.

    Args:
      dives: predictions of n dives.
      truth: of at least those, see `tfds_finecausal.rendered.read_truth`.

    Returns:
      By aspect ("splash"), and by stage ("points kept in entry": points not lost there), the
      Spearman correlation with it of the predicted completeness, "network", and of the judges',
      "judges"; not a number where either is constant.

    Raises:
      InputError: a dive is not in the truth: it is another release's.
    """
    missing = [info.key for info in dives.infos if info.key not in truth]
    if missing:
        raise InputError(
            f"the truth lacks {len(missing)} of {len(dives.infos)} dives, the first being "
            f"{missing[0]}: expected the rendered release that the data set was built from"
        )
    known = [truth[info.key] for info in dives.infos]
    parts = {name: [getattr(one.execution, name) for one in known] for name in ASPECTS}
    for stage in STAGES:
        parts[f"points kept in {stage}"] = [-one.points_lost[stage] for one in known]
    ranked = {"network": dives.completeness, "judges": dives.true_completeness}
    return {
        part: {who: metrics.spearman(values, own) for who, values in ranked.items()}
        for part, own in parts.items()
    }
