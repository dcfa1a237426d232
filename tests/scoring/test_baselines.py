"""Predictors without pixels, by hand."""

import numpy as np
import pytest

from finecausal_jax.scoring import baselines


@pytest.fixture
def train(make_info):
    return [
        make_info("Cup", 0, "101b", 10.0, 2.0),
        make_info("Cup", 1, "101b", 14.0, 2.0),
        make_info("Open", 2, "107c", 21.0, 3.0),
    ]


@pytest.fixture
def test(make_info):
    return [
        make_info("Open", 3, "101b", 11.0, 2.0),
        make_info("Cup", 4, "107c", 20.0, 3.0),
        make_info("New", 5, "309c", 13.0, 3.5),  # neither number nor competition seen
    ]


def test_predictions_by_hand(train, test):
    np.testing.assert_allclose(baselines.difficulty_only(test, train), [15.0, 15.0, 15.0])
    np.testing.assert_allclose(baselines.dive_number_mean(test, train), [12.0, 21.0, 15.0])
    np.testing.assert_allclose(baselines.competition_mean(test, train), [21.0, 12.0, 15.0])


def test_metrics_by_hand(train, test):
    got = baselines.evaluate(test, train)
    # Scores 22, 60, 45.5 with a range of 38; difficulty ranks them 1, 2, 3 instead of 1, 3, 2.
    assert got["difficulty_only"]["spearman"] == pytest.approx(0.5)
    errors = np.array([30.0 - 22.0, 45.0 - 60.0, 52.5 - 45.5])
    assert got["difficulty_only"]["r_l2_x100"] == pytest.approx(100 * np.mean((errors / 38) ** 2))
    assert np.isnan(got["difficulty_only"]["execution_spearman"])
    # 24, 63, 52.5 and, without difficulty, 12, 21, 15 for 11, 20, 13.
    assert got["dive_number_mean"]["spearman"] == 1.0
    assert got["dive_number_mean"]["execution_spearman"] == 1.0
    # 42, 36, 52.5 rank 2, 1, 3 for 1, 3, 2; executions 21, 12, 15 rank 3, 1, 2 for 1, 3, 2.
    assert got["competition_mean"]["spearman"] == pytest.approx(1 - 6 * (1 + 4 + 1) / 24)
    assert got["competition_mean"]["execution_spearman"] == -1.0


def test_a_baseline_depends_on_no_order(train, test):
    want = baselines.dive_number_mean(test, train)
    np.testing.assert_allclose(baselines.dive_number_mean(test[::-1], train[::-1]), want[::-1])


def test_no_training_dives_is_an_error(test):
    with pytest.raises(ValueError, match="need training dives"):
        baselines.evaluate(test, [])
