"""Intervals of figures: against scipy, on simulated test sets of known truth, at the edges."""

import numpy as np
import pytest
from scipy import stats

from finecausal_jax.scoring import intervals
from finecausal_jax.scoring.conformal import calibrate
from finecausal_jax.scoring.intervals import Bootstrap
from tests.scoring.simulated import predictions_of, simulate


def test_resampled_figures_are_those_of_the_resample():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 40).astype(float), rng.normal(size=40)  # x with ties
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=20).astype(float)
    got = intervals.spearman(x, y)(counts)
    for row, one in zip(counts.astype(int), got, strict=True):
        want = stats.spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic
        assert one == pytest.approx(want, abs=1e-12)


def test_inside_groups_by_hand():
    x = np.array([1.0, 2, 3, 1, 2, 3, 4, 5])
    y = np.array([1.0, 2, 3, 5, 4, 3, 2, 1])
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    ones = np.ones((1, 8))
    assert intervals.spearman_within(x, y, groups, 3)(ones) == pytest.approx((3 - 5) / 8)
    assert intervals.spearman_within(x, y, groups, 4)(ones) == -1
    assert np.isnan(intervals.spearman_within(x, y, groups, 6)(ones))
    # Two dives of the second group are not drawn: too few are left, the first group alone counts.
    drawn = np.array([[1.0, 1, 1, 1, 1, 1, 0, 0]])
    assert intervals.spearman_within(x, y, groups, 3)(drawn) == 0  # both have three
    assert intervals.spearman_within(x, y, groups, 4)(drawn) != intervals.spearman_within(
        x, y, groups, 4
    )(ones)


def test_a_constant_has_no_figure():
    truth = np.arange(12.0)
    figure = Bootstrap(100).figure(intervals.spearman(np.ones(12), truth), np.arange(12) // 4)
    assert np.isnan(figure.value)
    assert np.isnan([*figure.by_dives, *figure.by_competitions]).all()


def test_a_nearly_perfect_order_stays_within_its_bounds():
    truth = np.arange(30.0)
    swapped = truth.copy()
    swapped[[4, 5]] = swapped[[5, 4]]
    clusters = np.arange(30) // 10
    figure = Bootstrap(100).figure(intervals.spearman(swapped, truth), clusters)
    assert 0.98 < figure.by_dives.low < figure.value < figure.by_dives.high <= 1
    perfect = Bootstrap(100).figure(intervals.spearman(truth, truth), clusters)
    assert perfect.value == 1 and np.isnan(perfect.by_dives.low)  # every resample is as perfect


def test_one_competition_has_no_interval_by_competitions():
    dives, noise = np.arange(20.0), np.random.default_rng(0).normal(size=20)
    figure = Bootstrap(100).figure(intervals.spearman(dives, dives + noise), np.zeros(20, int))
    assert np.isnan(figure.by_competitions.low) and figure.by_dives.low < figure.value


def test_what_has_no_say_in_a_figure_gives_it_no_interval():
    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(size=20), rng.normal(size=20), np.repeat([0, 1], [15, 5])
    # One group alone has enough dives: drawing groups again changes nothing in it.
    figure = Bootstrap(100).figure(intervals.spearman_within(x, y, groups, 8), groups)
    assert np.isnan(figure.by_competitions.low) and figure.by_dives.low < figure.value


def test_the_same_seed_gives_the_same_interval():
    x, clusters = np.random.default_rng(0).normal(size=(2, 50)), np.arange(50) // 5
    statistic = intervals.spearman(*x)
    first, again, other = (Bootstrap(200, seed=s).figure(statistic, clusters) for s in (1, 1, 2))
    assert first == again != other


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="level is 95.0, expected a share"):
        Bootstrap(level=95.0)
    with pytest.raises(ValueError, match="resamples is 10, expected at least 100"):
        Bootstrap(10)


def test_a_paired_difference_is_narrower_than_that_of_two_test_sets():
    first, second = simulate(np.random.default_rng(0), dives=200, competitions=20)
    a = intervals.spearman(first.completeness, first.true_completeness)
    b = intervals.spearman(second.completeness, second.true_completeness)
    clusters = intervals.numbered([info.competition for info in first.infos])
    bootstrap = Bootstrap(400)
    alone = bootstrap.figure(a, clusters).by_dives
    paired = bootstrap.figure(intervals.difference(a, b), clusters, intervals.DIFFERENCE)
    apart = np.sqrt(2) * (alone.high - alone.low)
    assert paired.by_dives.high - paired.by_dives.low < 0.8 * apart


# What docs/evaluation.md says of 1,000 simulated test sets; three standard errors are 0.021.
SETS = 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dives", "competitions", "shared", "by"),
    [
        (300, 300, 0.0, "by_dives"),
        (300, 30, 0.2, "by_competitions"),
        (749, 40, 0.2, "by_competitions"),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(dives, competitions, shared, by):
    bootstrap = Bootstrap(500)
    # Of normal variables with correlation r, Spearman's is this.
    truth = 6 / np.pi * np.arcsin(0.8 / 2)
    held = np.zeros(2)
    for number in range(SETS):
        first, second = simulate(
            np.random.default_rng([number, dives, competitions]),
            dives=dives,
            competitions=competitions,
            shared=shared,
        )
        a = intervals.spearman(first.completeness, first.true_completeness)
        b = intervals.spearman(second.completeness, second.true_completeness)
        clusters = intervals.numbered([info.competition for info in first.infos])
        alone = getattr(bootstrap.figure(a, clusters), by)
        paired = getattr(
            bootstrap.figure(intervals.difference(a, b), clusters, intervals.DIFFERENCE), by
        )
        held += [alone.low <= truth <= alone.high, paired.low <= 0 <= paired.high]
    print(dives, competitions, shared, by, held / SETS)
    assert 0.93 <= held[0] / SETS <= 0.97
    assert 0.93 <= held[1] / SETS <= 0.97


@pytest.mark.slow
def test_scores_intervals_hold_the_truth_as_often_as_they_say():
    held, pairs = 0.0, 0
    for number in range(SETS):
        rng = np.random.default_rng([number, 7])
        both, _ = simulate(rng, dives=400, competitions=400)
        own = calibrate(predictions_of(both, range(200)), 0.9)
        held += float(own.covered(predictions_of(both, range(200, 400))).mean())
        pairs += 1
    print("conformal", held / pairs)
    assert 0.89 <= held / pairs <= 0.92
