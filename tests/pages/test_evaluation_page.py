"""The evaluation's page: what it says, that nothing gets out of it, and how a browser sees it."""

import dataclasses
import re

import numpy as np
import pytest

from finecausal_jax.pages import evaluation
from finecausal_jax.scoring.assessment import assess
from finecausal_jax.scoring.conformal import calibrate
from finecausal_jax.scoring.intervals import Bootstrap
from tests.pages import browser
from tests.pages.browser import in_browser
from tests.scoring.simulated import predictions_of, simulate

HOSTILE = "<script>alert(1)</script> & 'Cup'"


@pytest.fixture(scope="module")
def assessed():
    first, second = simulate(np.random.default_rng(1), dives=120, competitions=6)
    infos = tuple(
        dataclasses.replace(
            info, competition=HOSTILE if info.competition == "Cup 02" else info.competition
        )
        for info in first.infos
    )
    infos = tuple(
        dataclasses.replace(info, judge_scores=(info.score / info.difficulty / 3,) * 3)
        for info in infos
    )
    first, second = (dataclasses.replace(one, infos=infos) for one in (first, second))
    first = dataclasses.replace(first, spread=np.abs(second.completeness))
    calibration = calibrate(predictions_of(first, range(40)))
    return assess(first, infos, Bootstrap(100), calibration=calibration, other=second)


@pytest.fixture(scope="module")
def page(assessed, tmp_path_factory):
    rows = evaluation.worst_dives(assessed)
    image = np.random.default_rng(0).integers(0, 255, (72, 128, 3), np.uint8)
    keys = [assessed.predictions.infos[row].key for row in rows]
    return evaluation.write_page(
        assessed,
        tmp_path_factory.mktemp("page") / "evaluation.html",
        data_name="rendered data",
        thumbnails={key: [image] * 5 for key in keys},
        tables=[evaluation.Table("Masks", "Of test dives.", ("which", "IoU"), [("all", 0.5)])],
    )


def test_the_page_holds_the_figures(page, assessed):
    text = page.read_text()
    own = assessed.figures["model 0"]["execution_spearman"]
    assert f"{own.value:.3f}" in text
    assert f"{own.by_dives.low:.3f} to {own.by_dives.high:.3f}" in text
    assert "nothing here says how well a network scores real dives" in text
    assert "Against model 1" in text and "undecided" in text
    assert "perhaps trimmed" in text and "Kendall" in text and "90% on 40 calibration" in text
    assert text.count('src="data:image/jpeg') == 50
    assert '<th scope="row">all</th><td class="n">0.500</td>' in text


def test_nothing_gets_out_of_the_page_or_into_it(page):
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    places = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert places and all(one.startswith(("data:image/", "#")) for one in places)
    assert "default-src 'none'" in text
    assert len(text) < 1_500_000


def test_what_is_not_there_is_left_out_or_none(assessed, tmp_path):
    blind = dataclasses.replace(assessed.predictions, completeness=np.full(120, 20.0), spread=None)
    page = evaluation.write_page(
        assess(blind, blind.infos, Bootstrap(100)), tmp_path / "blind.html", data_name="own data"
    )
    text = page.read_text()
    assert "execution Spearman of none" in text and "nan" not in re.sub("<svg.*?</svg>", "", text)
    assert "Rendered data" not in text and "Against" not in text and "Kendall" not in text
    assert "<img" not in text


def test_the_sentence_to_quote(assessed):
    text = evaluation.quotation(assessed, "rendered data")
    own = assessed.figures["model 0"]["execution_spearman"]
    interval = f"{own.by_competitions.low:.3f} to {own.by_competitions.high:.3f}"
    assert text.startswith("On 120 dives of 6 competitions (rendered data) model 0 reaches an")
    assert (
        f"execution Spearman of {own.value:.3f} (95% interval by competitions {interval})" in text
    )
    assert text.endswith("says nothing of how well it scores real dives.") and "nan" not in text


@in_browser
def test_a_browser_finds_nothing_wrong(page):
    with browser.opened() as opened:
        assert browser.complaints(opened, page) == []


@in_browser
def test_the_browser_would_find_faults(tmp_path):
    faulty = tmp_path / "faulty.html"
    faulty.write_text(
        "<html><body style='width: 3000px'><img src='http://localhost:9/a.png'>"
        "<script>console.error('oh')</script><p style='color: #eee'>pale</p></body></html>"
    )
    with browser.opened() as opened:
        found = " ".join(browser.complaints(opened, faulty))
    for fault in ("asks for http://localhost:9/a.png", "oh", "wider", "image-alt", "html-has-lang"):
        assert fault in found
