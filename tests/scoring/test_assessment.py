"""All figures of predictions: by hand, by scipy, and of predictors that theory knows."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import assessment_report, conformal
from finecausal_jax.scoring.assessment import METRICS, assess
from finecausal_jax.scoring.conformal import calibrate
from finecausal_jax.scoring.intervals import Bootstrap
from finecausal_jax.scoring.judges import agreement
from finecausal_jax.scoring.predictions import Predictions
from tests.scoring.simulated import predictions_of, simulate

QUICK = Bootstrap(100)


@pytest.fixture(scope="module")
def models():
    return simulate(np.random.default_rng(1), dives=120, competitions=6)


@pytest.fixture(scope="module")
def assessed(models):
    first, second = models
    return assess(first, first.infos, QUICK, other=second)


def printed(assessment):
    file = io.StringIO()
    console = Console(file=file, width=200)
    assessment_report.print_assessment(assessment, data_name="rendered data", console=console)
    return [line.split() for line in file.getvalue().splitlines()]


def test_figures_are_scipys(models, assessed):
    first, second = models
    figures = assessed.figures[first.name]
    want = stats.spearmanr(first.completeness, first.true_completeness).statistic
    assert figures["execution_spearman"].value == pytest.approx(want, abs=1e-12)
    assert figures["spearman"].value == pytest.approx(want, abs=1e-12)  # one difficulty
    other = stats.spearmanr(second.completeness, second.true_completeness).statistic
    assert assessed.differences["spearman"].value == pytest.approx(want - other, abs=1e-12)
    competitions = np.array([info.competition for info in first.infos])
    inside = [
        (np.sum(rows), stats.spearmanr(first.score[rows], first.true_score[rows]).statistic)
        for rows in (competitions == name for name in set(competitions))
    ]
    sizes, values = np.array(inside).T
    within = figures["spearman_within_competitions"].value
    assert within == pytest.approx(np.sum(sizes * values) / sizes.sum(), abs=1e-12)
    ranged = assessed.within["spearman_within_competitions"]
    assert (ranged.lowest, ranged.highest) == pytest.approx((values.min(), values.max()))
    off = (first.score - first.true_score) / np.ptp(first.true_score)
    assert figures["r_l2_x100"].value == pytest.approx(100 * np.mean(off**2))


def test_a_blind_predictor_has_no_order_and_that_is_no_error(models, assessed):
    blind = dataclasses.replace(models[0], completeness=np.full(120, 20.0))
    figures = assess(blind, blind.infos, QUICK).figures[blind.name]
    assert np.isnan(figures["execution_spearman"].value)
    assert np.isnan(figures["spearman"].value)  # all dives have one difficulty here
    assert figures["r_l2_x100"].value > 0
    rows = printed(assess(blind, blind.infos, QUICK))
    assert ["execution", "Spearman", "model", "0", "none", "none", "none"] in rows
    assert figures.keys() == METRICS.keys() == assessed.differences.keys()


def test_random_predictions_are_undecided(models):
    rng = np.random.default_rng(5)
    one, other = (
        dataclasses.replace(models[0], name=name, completeness=rng.normal(size=120))
        for name in ("one", "other")
    )
    result = assess(one, one.infos, QUICK, other=other)
    low, high = result.figures["one"]["execution_spearman"].by_dives
    assert low < 0 < high
    assert assessment_report.decided(result.differences["execution_spearman"]) == "undecided"


def test_groups_and_the_worst_of_them(models, assessed):
    first = models[0]
    off = first.score - first.true_score
    for kind, of in (
        ("competitions", lambda info: info.competition),
        ("dive numbers", lambda info: info.dive_number),
        ("stages", lambda info: f"{len(info.sub_action_names)} sub-actions"),
    ):
        groups = assessed.groups[kind]
        assert sum(group.dives for group in groups) == 120
        for group in groups:
            rows = [row for row, info in enumerate(first.infos) if of(info) == group.name]
            assert group.mean_error == pytest.approx(np.mean(np.abs(off[rows])))
            assert group.bias == pytest.approx(np.mean(off[rows]))
    everything = [one for groups in assessed.groups.values() for one in groups if one.dives >= 8]
    assert assessed.worst_group.mean_error == max(one.mean_error for one in everything)


def test_spread_that_tells_the_error_is_told(models):
    first = models[0]
    off = np.abs(first.completeness - first.true_completeness)
    told = dataclasses.replace(first, spread=off)
    assert assess(told, first.infos, QUICK).spread_tau == pytest.approx(1.0)
    flat = dataclasses.replace(first, spread=np.ones(120))
    assert np.isnan(assess(flat, first.infos, QUICK).spread_tau)


def test_intervals_of_scores_by_hand(models):
    first = models[0]
    own = predictions_of(first, range(40))
    calibration = calibrate(own, 0.9, least=20)
    errors = np.sort(np.abs(own.completeness - own.true_completeness))
    assert calibration.pooled == errors[36]  # the 37th of 40: 0.9 of 41, rounded up
    assert calibration.by_dive_number == {}  # three or four dives each
    result = assess(first, first.infos, QUICK, calibration=calibration)
    inside = np.abs(first.completeness - first.true_completeness) <= calibration.pooled
    assert result.coverage.covered.value == pytest.approx(np.mean(inside))
    assert result.coverage.half_widths == pytest.approx(2 * calibration.pooled)
    text = json.dumps(assessment_report.to_json(result)["coverage"]["score_intervals"].tolist())
    low, high = json.loads(text)[0]
    assert (low + high) / 2 == pytest.approx(first.score[0])
    with pytest.raises(InputError, match="need at least 9 calibration dives, found 8"):
        calibrate(predictions_of(first, range(8)), 0.9)


def test_a_calibration_is_kept_for_own_videos(models, tmp_path):
    calibration = calibrate(predictions_of(models[0], range(60)), least=20)
    path = conformal.write(calibration, tmp_path / "calibration.json", "the weights a")
    assert conformal.read(path, "the weights a") == calibration
    half = calibration.half_width("999z", 3.0)
    assert half == pytest.approx(3.0 * calibration.pooled)
    with pytest.raises(InputError, match="is of the weights a, the score is of the weights b"):
        conformal.read(path, "the weights b")
    path.write_text('{"scored_by": "the weights a", "level": 0.9, "pooled": NaN, "dives": 3}')
    with pytest.raises(InputError, match="calibration"):
        conformal.read(path, "the weights a")


def test_a_dive_number_with_enough_dives_has_a_width_of_its_own(models):
    first = simulate(np.random.default_rng(3), dives=90, competitions=3, numbers=2)[0]
    number = first.infos[0].dive_number
    calm = np.where([info.dive_number == number for info in first.infos], 0.1, 2.0)
    exact = dataclasses.replace(first, completeness=first.true_completeness + calm)
    calibration = calibrate(exact)
    assert sorted(calibration.by_dive_number.values()) == pytest.approx([0.1, 2.0])
    assert calibration.pooled == pytest.approx(2.0)


def test_judges_agree_by_size_of_panel(models):
    infos = models[0].infos[:40]
    quality = np.linspace(3, 9, 40)
    marks = [tuple(round(2 * q) / 2 + step for step in (-0.5, 0.0, 0.5)) for q in quality]
    sums = [dict(score=2.0 * sum(one), judge_scores=one) for one in marks]
    three = [dataclasses.replace(i, **s) for i, s in zip(infos, sums, strict=True)]
    five = [dataclasses.replace(i, judge_scores=(1.0, 2.0, 3.0, 4.0, 45.0)) for i in infos[:3]]
    none = [dataclasses.replace(i, judge_scores=()) for i in infos[:3]]
    (panel,) = agreement([*three, *five, *none], QUICK)
    assert (panel.size, panel.dives, panel.trimmed) == (3, 40, 1.0)
    assert panel.spearman.value == pytest.approx(1.0)
    assert panel.difference == pytest.approx((0.75 + 0.0 + 0.75) / 3)


def test_other_dives_cannot_be_compared(models):
    first, second = models
    with pytest.raises(InputError, match="of other dives, or in another order"):
        assess(first, first.infos, QUICK, other=predictions_of(second, range(119)))
    with pytest.raises(InputError, match="no dives to assess"):
        assess(Predictions("none", (), np.zeros(0)), first.infos, QUICK)


def test_the_tables_hold_the_figures(models, assessed):
    rows = printed(assessed)
    value = assessed.figures["model 0"]["execution_spearman"]
    found = [row for row in rows if row[:4] == ["execution", "Spearman", "model", "0"]]
    assert f"{value.value:.4f}" in found[0] and f"{value.by_dives.low:.4f}" in found[0]
    assert ["model", "0", "less", "model", "1,", "intervals", "of", "95%,", "paired"] in rows
    assert any(row[:2] == ["worst", "group:"] for row in rows)
