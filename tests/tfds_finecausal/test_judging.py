import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfds_finecausal.rendered.judging import (
    ASPECTS,
    QUALITY_DEVIATION,
    STAGES,
    Execution,
    draw_execution,
    execution_points,
    judge_marks,
    points_of,
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
    assert abs(float(np.median(marks)) - points_of(quality)) < 1.5


def test_quality_is_the_weighted_mean_of_its_aspects():
    assert {field.name for field in dataclasses.fields(Execution)} == set(ASPECTS)
    assert sum(aspect.share for aspect in ASPECTS.values()) == pytest.approx(1.0)
    assert {aspect.stage for aspect in ASPECTS.values()} == set(STAGES)
    assert Execution().quality == pytest.approx(1.0)
    nothing = dict.fromkeys(ASPECTS, 0.0)
    for name, aspect in ASPECTS.items():
        assert Execution(**{**nothing, name: 1.0}).quality == pytest.approx(aspect.share)


def test_points_lost_add_up_to_the_mark():
    execution = Execution(lean=0.7, legs=0.0, splash=0.4)
    lost = execution.points_lost
    assert lost == pytest.approx({"takeoff": 0.36, "flight": 1.2, "entry": 2.7})
    best = 10 * (0.5 + 1.5 * 0.5)  # beyond the scale's end
    assert points_of(execution.quality) == pytest.approx(best - sum(lost.values()))


def test_aspects_are_drawn_independently():
    rng = np.random.default_rng(0)
    drawn = [draw_execution(rng) for _ in range(500)]
    values = np.array([[getattr(one, name) for name in ASPECTS] for one in drawn])
    between = np.corrcoef(values.T) - np.eye(len(ASPECTS))
    assert np.abs(between).max() < 0.2
    assert (values.min(0) < 0.05).all() and (values.max(0) > 0.95).all()
    qualities = np.array([one.quality for one in drawn])
    assert qualities.std() == pytest.approx(QUALITY_DEVIATION, rel=0.1)
    points = np.array([points_of(quality) for quality in qualities])
    for column, aspect in zip(values.T, ASPECTS.values(), strict=True):
        # None alone tells the mark.
        alone = aspect.share / (np.sqrt(12.0) * QUALITY_DEVIATION)
        assert np.corrcoef(column, points)[0, 1] == pytest.approx(alone, abs=0.12) and alone < 0.75
