"""Metrics against hand-computed values, SciPy, and a plain loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from finecausal_jax.scoring import metrics


def test_spearman_by_hand():
    # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15).
    assert metrics.spearman([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 99.0]) == pytest.approx(0.8)
    assert metrics.spearman([3.0, 2.0, 1.0], [1.0, 5.0, 9.0]) == -1.0


def test_spearman_gives_ties_their_average_rank():
    # Ranks 1 2.5 2.5 4 and 1 2 3 4, centred: 4.5 / sqrt(4.5 * 5).
    got = metrics.spearman([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    assert got == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 12, 40).astype(float)
    second = first + rng.integers(0, 9, 40)
    want = stats.spearmanr(first, second).statistic
    assert metrics.spearman(first, second) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second"), [([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0]), ([1.0], [1.0])]
)
def test_spearman_without_an_order_is_nan(first, second):
    assert np.isnan(metrics.spearman(first, second))


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="spearman: the prediction of row 1 is nan"):
        metrics.spearman([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="r_l2: the truth of row 0 is inf"):
        metrics.r_l2([1.0, 2.0], [np.inf, 2.0])
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        metrics.r_l2([1.0, 2.0], [1.0, 2.0, 3.0])


def test_r_l2_by_hand():
    # Errors 10, -20, 0 on a range of 100: (0.01 + 0.04 + 0) / 3.
    assert metrics.r_l2([10.0, 30.0, 100.0], [0.0, 50.0, 100.0]) == pytest.approx(0.05 / 3)
    assert np.isnan(metrics.r_l2([1.0, 2.0], [5.0, 5.0]))


@given(st.permutations(list(range(8))))
def test_the_order_of_dives_changes_no_score_metric(order):
    rng = np.random.default_rng(0)
    completeness, score, difficulty = rng.uniform(10, 20, (3, 8))
    want = metrics.score_metrics(completeness, score, difficulty)
    got = metrics.score_metrics(completeness[order], score[order], difficulty[order])
    assert got == pytest.approx(want, rel=1e-12)


def test_execution_leaves_difficulty_out():
    # Predictions follow difficulty, so scores are ranked perfectly and execution is reversed.
    got = metrics.score_metrics([9.0, 8.0, 7.0], [10.0, 24.0, 48.0], [1.0, 2.0, 3.0])
    assert got["spearman"] == 1.0
    assert got["execution_spearman"] == -1.0
    # 9 16 21 for 10 24 48, range 38.
    assert got["r_l2_x100"] == pytest.approx(100 * (1 + 64 + 729) / 3 / 38**2)


def test_equal_executions_tie_in_spite_of_rounding():
    # 71.4 / 3.4 is 21.000000000000004, 67.2 / 3.2 is 21; the judges gave both 21.
    score, difficulty = np.array([71.4, 67.2, 66.0]), np.array([3.4, 3.2, 3.0])
    assert np.unique(score / difficulty).size == 3
    got = metrics.score_metrics([2.0, 1.0, 3.0], score, difficulty)["execution_spearman"]
    assert got == pytest.approx(stats.spearmanr([2, 1, 3], [1.5, 1.5, 3]).statistic)


@pytest.mark.parametrize(
    ("predicted", "true", "want"),
    [
        ((20, 60), (20, 60), 1.0),
        ((10, 30), (20, 60), 10 / 50),
        ((25, 55), (20, 60), 30 / 40),
        ((0, 10), (20, 60), 0.0),
        ((20, 60), (40, 40), 0.0),  # an empty interval, inside
        ((40, 40), (40, 40), 0.0),  # both empty
    ],
)
def test_temporal_iou_by_hand(predicted, true, want):
    got = metrics.temporal_iou(np.array(predicted), np.array(true))
    assert got == pytest.approx(want, abs=0)


def test_temporal_iou_of_many_intervals_keeps_their_shape():
    predicted = np.array([[20, 60], [30, 50]])
    np.testing.assert_allclose(metrics.temporal_iou(predicted, np.array([[20, 60]])), [1.0, 0.5])


def naive_counts(logits, mask, stride, threshold):
    """Pixel by pixel; mask [t, h, w] of one video."""
    tp = fp = fn = tn = 0
    recalls = []
    for n, window in enumerate(logits):
        for f, frame in enumerate(window):
            hit = found = 0
            for y, x in np.ndindex(frame.shape):
                true, predicted = mask[n * stride + f, y, x] >= 0.5, frame[y, x] >= threshold
                tp += true and predicted
                fp += predicted and not true
                fn += true and not predicted
                tn += not true and not predicted
                hit += true and predicted
                found += true
            recalls.append(hit / found if found else 1.0)
    return tp, fp, fn, tn, sum(recalls), len(recalls)


@pytest.mark.parametrize("threshold", [metrics.LOGIT_THRESHOLD, metrics.PROBABILITY_THRESHOLD])
def test_mask_counts_are_those_of_a_loop(threshold):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    mask = rng.uniform(0.0, 1.0, (2, 11, 5, 6)).astype(np.float32)
    mask[0, 2:5] = 0.0  # frames without foreground
    counted = jax.jit(lambda a, b: metrics.mask_counts(a, b, 3, threshold))(logits, mask)
    for video in range(2):
        want = naive_counts(logits[video], mask[video], 3, threshold)
        got = [np.asarray(one)[video] for one in counted]
        np.testing.assert_array_equal(got[:4] + got[5:], want[:4] + want[5:])
        np.testing.assert_allclose(got[4], want[4], rtol=1e-6)


def test_both_edges_count_as_foreground():
    # A logit of exactly 0.5 and a mask of exactly 0.5; just below, both are background.
    logits = np.array([0.5, 0.5, 0.49, 0.49], np.float32).reshape(1, 1, 1, 2, 2)
    mask = np.array([0.5, 0.49, 0.5, 0.49], np.float32).reshape(1, 1, 2, 2)
    got = metrics.mask_counts(logits, mask, 1)
    assert [int(one[0]) for one in got[:4]] == [1, 1, 1, 1]


def test_windows_that_do_not_fit_the_mask_are_an_error():
    logits, mask = np.zeros((1, 3, 4, 2, 2), np.float32), np.zeros((1, 9, 2, 2), np.float32)
    with pytest.raises(ValueError, match="3 windows of 4 frames every 3 frames"):
        metrics.mask_counts(logits, mask, 3)


def test_mask_metrics_by_hand():
    counts = metrics.MaskCounts(6, 2, 4, 88, 1.5, 3)
    got = metrics.mask_metrics(counts)
    assert got == pytest.approx(
        {
            "mask_iou": 6 / 12,
            "mask_f1": 12 / 18,
            "mask_f2": 30 / 48,  # precision 0.75, recall 0.6: 5 * 0.45 / (4 * 0.75 + 0.6)
            "mask_accuracy": 94 / 100,
            "mask_recall": 0.5,
        }
    )
    assert got["mask_f2"] == pytest.approx(5 * 0.75 * 0.6 / (4 * 0.75 + 0.6))


def test_nothing_to_find_and_nothing_found_is_perfect():
    got = metrics.mask_metrics(metrics.MaskCounts(0, 0, 0, 10, 2.0, 2))
    assert set(got.values()) == {1.0}


def test_totals_do_not_overflow():
    full = 9 * 16 * 112 * 112
    one = metrics.MaskCounts(*[np.array([full], np.int32)] * 4, np.float32([144]), np.int32([144]))
    on_device = metrics.MaskCounts(*map(jnp.asarray, one))
    total = metrics.add_counts([one] * 1999 + [on_device])
    assert total.true_positive == 2000 * full > 2**31
    assert total.frames == 2000 * 144
    assert metrics.add_counts([]) == metrics.MaskCounts(0, 0, 0, 0, 0.0, 0)
