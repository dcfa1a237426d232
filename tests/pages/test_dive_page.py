"""The page of one dive: its parts add up, nothing gets in or out, and its videos play together."""

import dataclasses
import re

import numpy as np
import pytest

from finecausal_jax.data.dives import DiveInfo
from finecausal_jax.explain.explanation import Explanation
from finecausal_jax.explain.interventions import Effect
from finecausal_jax.models.causal_graph import NODE_KINDS
from finecausal_jax.pages import dive
from finecausal_jax.scoring.new_dive import NewScore
from finecausal_jax.scoring.scorer import Score
from tests.data import videos
from tests.pages import browser
from tests.pages.browser import in_browser

HOSTILE = "<script>alert(1)</script>.mp4"
STAGES = ((0, 6), (6, 14), (14, 23))


def made(exemplars=3):
    rng = np.random.default_rng(0)
    static, dynamic = rng.normal(size=(2, exemplars, 3))
    known = rng.uniform(15, 25, exemplars)
    infos = tuple(
        DiveInfo(f"Cup <b>{k}", k, "407c", 3.0 * one, 3.0, np.arange(9), np.arange(9))
        for k, one in enumerate(known)
    )
    deltas = (static + dynamic).sum(axis=1)
    comparison = Score(
        target="completeness",
        exemplars=tuple(info.key for info in infos),
        exemplar_targets=known,
        deltas=deltas,
        stage_deltas=static + dynamic,
        transitions=np.tile([6, 14], (exemplars, 1)),
    )
    result = NewScore(
        dive_number="407c",
        difficulty=3.2,
        score=comparison.points(3.2),
        completeness=comparison.predicted_target,
        votes=comparison.votes,
        exemplars=infos,
        is_own_number=True,
        stages=STAGES,
        stage_parts=comparison.stage_deltas.mean(axis=0),
        distance=None,
        comparison=comparison,
    )
    explanation = Explanation(
        static_parts=static,
        dynamic_parts=dynamic,
        node_kinds=NODE_KINDS,
        graph_attention=rng.dirichlet(np.ones(4), (2, 4, 4)),
        window_attention=rng.dirichlet(np.ones(16), (2, 16)),
        temporal_attention=rng.dirichlet(np.ones(3), (2, 1, 3)),
        effects=(
            Effect("nothing is changed", "none", np.zeros(exemplars)),
            Effect("entry: no tokens", "stage", rng.normal(size=exemplars)),
        ),
    )
    return result, explanation


@pytest.fixture(scope="module")
def shown():
    frames = videos.frames(24, 96, 96)
    other = ((0, 4), (4, 9), (9, 15))
    return [
        dive.Shown("This dive", frames, STAGES),
        dive.Shown("An exemplar", frames[:16], other),
    ]


@pytest.fixture(scope="module")
def page(shown, tmp_path_factory):
    result, explanation = made()
    return dive.write_page(
        tmp_path_factory.mktemp("page") / "score.html",
        result,
        explanation,
        name=HOSTILE,
        warnings=["This score means nothing."],
        shown=shown,
        truth=[("splash", 0.25)],
    )


def test_parts_add_up_to_the_score(page):
    result, explanation = made()
    parts = dive._parts(result, explanation)
    total = result.comparison.exemplar_targets.mean() + sum(one["both"] for one in parts)
    assert 3.2 * total == pytest.approx(result.score, abs=1e-4)
    text = page.read_text()
    assert f"{result.score:.2f} points" in text
    assert f"{parts[2]['static']:+.2f}" in text and "a part of the output, not a cause" in text
    assert "This score means nothing." in text and "0.25" in text


def test_a_score_as_the_target_is_brought_to_completeness():
    result, explanation = made()
    comparison = dataclasses.replace(result.comparison, target="score")
    score = comparison.points(3.2)
    result = dataclasses.replace(result, comparison=comparison, score=score)
    parts = dive._parts(result, explanation)
    total = comparison.exemplar_targets.mean() / 3.2 + sum(one["both"] for one in parts)
    assert 3.2 * total == pytest.approx(score, abs=1e-4)


def test_nothing_gets_out_of_the_page_or_into_it(page):
    text = page.read_text()
    assert text.count("<script") == 1  # its own, by its hash
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.mp4" in text and "Cup &lt;b&gt;" in text
    assert "script-src 'sha256-" in text and "unsafe-inline'; script-src" in text
    places = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert places and all(one.startswith(("data:", "#")) for one in places)
    assert len(text) < 4_000_000


def test_without_pictures_graph_or_temporal_attention(tmp_path):
    result, explanation = made()
    bare = dataclasses.replace(
        explanation,
        node_kinds=(),
        graph_attention=np.zeros((2, 0, 0, 0)),
        window_attention=np.zeros((2, 0, 0)),
        temporal_attention=np.zeros((0, 0, 3, 3)),
    )
    text = dive.write_page(tmp_path / "bare.html", result, bare, name="own").read_text()
    for absent in ("<video", "Graph attention", "Temporal attention", "Film strip"):
        assert absent not in text


def test_the_border_of_a_mask_is_drawn():
    frames = np.zeros((1, 6, 6, 3), np.uint8)
    masks = np.zeros((1, 6, 6), bool)
    masks[0, 1:5, 1:5] = True
    drawn = dive.outlined(frames, masks)[0].any(axis=-1)
    assert drawn.sum() == 12 and not drawn[2:4, 2:4].any()


@in_browser
def test_a_browser_finds_nothing_wrong_and_both_videos_play(page):
    stages = "[...document.querySelectorAll('video')].map(one => JSON.parse(one.dataset.stages))"
    times = "[...document.querySelectorAll('video')].map(one => one.currentTime)"
    with browser.opened() as opened:
        assert browser.complaints(opened, page) == []
        view = opened.new_page()
        view.goto(page.as_uri())
        view.wait_for_function(
            "[...document.querySelectorAll('video')].every(one => one.readyState >= 2)"
        )
        query, exemplar = view.evaluate(stages)
        # To the middle of the entry, by keyboard: both show that, a frame off at most.
        view.focus("#place")
        view.evaluate("place.value = 2.5; place.dispatchEvent(new Event('input', {bubbles: true}))")
        view.wait_for_timeout(400)
        found = view.evaluate(times)
        for one, (first, last) in zip(found, (query[2], exemplar[2]), strict=True):
            assert one == pytest.approx((first + last) / 2, abs=1 / 25)
        view.keyboard.press("Home")
        view.wait_for_timeout(300)
        before = view.evaluate(times)
        view.click("#play")
        view.wait_for_timeout(1200)
        after = view.evaluate(times)
        assert all(later > earlier for earlier, later in zip(before, after, strict=True))
        assert view.inner_text("#play") == "Pause"
