import numpy as np
import pytest

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring.predictions import Predictions
from finecausal_jax.scoring.truth import compare_with_truth
from tfds_finecausal.rendered.judging import Execution
from tfds_finecausal.rendered.truth import DiveTruth


def _predictions(predicted, completeness, keys=None):
    """Predictions of dives of difficulty 1."""
    keys = keys or [("Cup", row) for row in range(len(predicted))]
    infos = tuple(
        DiveInfo(*key, "101b", float(true), 1.0, np.arange(9), np.repeat([1, 2, 3], 3))
        for key, true in zip(keys, completeness, strict=True)
    )
    return Predictions("model", infos, np.array(predicted, np.float64))


def _truth(execution):
    stages = {"takeoff": (0, 3), "flight": (3, 6), "entry": (6, 9)}
    lost = execution.points_lost
    return DiveTruth("test", "101b", 1.0, (5.0,) * 3, 15.0, execution, lost, stages, 7, 0.5)


def test_scores_are_ranked_by_each_part_of_the_truth():
    splashes, leans = (0.1, 0.4, 0.6, 0.9), (0.8, 0.2, 0.6, 0.4)
    truth = {
        ("Cup", row): _truth(Execution(splash=splash, lean=lean))
        for row, (splash, lean) in enumerate(zip(splashes, leans, strict=True))
    }
    scores = [[10 * one for one in splashes], [10 * one for one in leans]]
    dives = _predictions(*scores)
    found = compare_with_truth(dives, truth)
    assert found["splash"]["network"] == found["points kept in entry"]["network"] == 1
    assert found["lean"]["judges"] == found["points kept in takeoff"]["judges"] == 1
    assert found["splash"]["judges"] == found["lean"]["network"] == pytest.approx(-0.4)
    assert np.isnan(found["legs"]["network"])  # all alike: no order
    with pytest.raises(InputError, match="lacks 1 of 5 dives, the first being .'Cup', 7."):
        keys = [*truth, ("Cup", 7)]
        compare_with_truth(_predictions(*([*one, 1.0] for one in scores), keys), truth)
