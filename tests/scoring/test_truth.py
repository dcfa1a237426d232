import numpy as np
import pytest

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring.metrics import MaskCounts
from finecausal_jax.scoring.protocol import DiveScore
from finecausal_jax.scoring.truth import compare_with_truth
from tfds_finecausal.rendered.judging import Execution
from tfds_finecausal.rendered.truth import DiveTruth


def _dive(index, predicted, completeness):
    return DiveScore(
        key=("Cup", index),
        dive_number="101b",
        difficulty=1.0,
        score=completeness,
        exemplars=(("Cup", 99),),
        target="completeness",
        exemplar_targets=np.zeros(1),
        deltas=np.array([predicted]),
        stage_deltas=np.zeros((1, 3)),
        transitions=np.zeros((1, 2), np.int64),
        true_transitions=np.zeros(2, np.int64),
        tious=np.zeros(1),
        counts=MaskCounts(*[0] * 6),
    )


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
    dives = [_dive(row, 10 * splashes[row], 10 * leans[row]) for row in range(4)]
    found = compare_with_truth(dives, truth)
    assert found["splash"]["network"] == found["points kept in entry"]["network"] == 1
    assert found["lean"]["judges"] == found["points kept in takeoff"]["judges"] == 1
    assert found["splash"]["judges"] == found["lean"]["network"] == pytest.approx(-0.4)
    assert np.isnan(found["legs"]["network"])  # all alike: no order
    with pytest.raises(InputError, match="lacks 1 of 5 dives, the first being .'Cup', 7."):
        compare_with_truth([*dives, _dive(7, 1.0, 1.0)], truth)
