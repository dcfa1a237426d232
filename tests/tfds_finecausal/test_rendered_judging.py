import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfds_finecausal.rendered_judging import (
    SHARES,
    Execution,
    draw_execution,
    execution_points,
    judge_marks,
)


@pytest.mark.parametrize(
    ("marks", "points"),
    [
        ((7.0, 8.0, 6.5), 21.5),  # three judges: all count
        ((7.0, 8.0, 6.5, 9.0, 2.0), 21.5),  # five: the highest and the lowest are dropped
        ((7.0, 8.0, 6.5, 9.0, 2.0, 10.0, 0.0), 21.5),  # seven: two at each end
        ((8.5,) * 7, 25.5),
    ],
)
def test_the_three_middle_marks_count(marks, points):
    assert execution_points(marks) == points


def test_other_panels_are_refused():
    with pytest.raises(ValueError, match="3, 5 or 7 judges, got 4"):
        execution_points((5.0,) * 4)


@settings(deadline=None, max_examples=50)
@given(quality=st.floats(0, 1), judges=st.sampled_from((3, 5, 7)), seed=st.integers(0, 1000))
def test_marks_are_half_points_near_the_quality(quality, judges, seed):
    marks = judge_marks(quality, judges, np.random.default_rng(seed))
    assert len(marks) == judges
    assert all(0 <= mark <= 10 and (2 * mark).is_integer() for mark in marks)
    assert abs(float(np.median(marks)) - 10 * quality) < 1.5


def test_quality_is_the_weighted_mean_of_its_aspects():
    assert sum(SHARES.values()) == pytest.approx(1.0)
    assert Execution(1.0, 1.0, 1.0, 1.0, 1.0).quality == pytest.approx(1.0)
    assert Execution(0.0, 0.0, 0.0, 0.0, 1.0).quality == pytest.approx(SHARES["splash"])


def test_aspects_follow_the_overall_quality():
    rng = np.random.default_rng(0)
    drawn = [draw_execution(rng) for _ in range(300)]
    qualities = [one.quality for one in drawn]
    assert min(qualities) < 0.25 and max(qualities) > 0.9
    for aspect in SHARES:
        values = [getattr(one, aspect) for one in drawn]
        assert np.corrcoef(values, qualities)[0, 1] > 0.9
        assert values != qualities
