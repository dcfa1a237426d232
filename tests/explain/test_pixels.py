"""Interventions on pixels: what is changed, what stays, and that no change has no effect."""

import numpy as np
import pytest

from finecausal_jax.data.clips import Clip
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.explain import explanation, pixels
from finecausal_jax.explain.pixels import Pixels
from finecausal_jax.scoring.scorer import Scorer
from tests.scoring.conftest import FakeModel, encode

SIZES = Preprocessing(frames=8, frame_size=8, resize_width=8, resize_height=8)


@pytest.fixture
def query():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (12, 16, 16, 3), np.uint8)
    frames[8:] = 60  # still water, but for a splash
    frames[9, 12:14, 10:13] = 250
    diver = np.zeros((12, 16, 16), bool)
    diver[:, 3:9, 4:8] = True
    return Pixels(frames, diver, (3, 8))


@pytest.fixture
def exemplar(query):
    frames = np.full((12, 16, 16, 3), 7, np.uint8)
    diver = np.zeros((12, 16, 16), bool)
    diver[:, 5:9, 6:10] = True
    return Pixels(frames, diver, (5, 9))


def test_each_change_is_where_it_says(query, exemplar):
    changed = pixels.edits(query, exemplar)
    np.testing.assert_array_equal(changed["nothing is changed"], query.frames)
    for name, where in (
        ("diver: blurred", query.diver),
        ("rest: blurred", ~query.diver),
        ("rest: the exemplar's", ~query.diver),
        ("diver: the exemplar's", query.diver | exemplar.diver[0]),
    ):
        differs = (changed[name] != query.frames).any(axis=-1)
        assert differs.any(), name
        assert not differs[~where].any(), name
    assert (changed["rest: the exemplar's"][~query.diver] == 7).all()
    splash = (changed["splash: blurred"] != query.frames).any(axis=-1)
    assert splash[9, 12:14, 10:13].all() and not splash[:9].any() and not splash[10:].any()


def test_stages_are_replaced_whole_and_alone(query, exemplar):
    changed = pixels.edits(query, exemplar)
    for stage, rows in (("forward", range(3)), ("twist", range(3, 8)), ("entry", range(8, 12))):
        found = changed[f"{stage}: the exemplar's frames"]
        for row in range(12):
            want = exemplar.frames[0] if row in rows else query.frames[row]
            np.testing.assert_array_equal(found[row], want)


def test_frames_are_taken_from_the_same_place_in_the_stage():
    rows = pixels._aligned((3, 8), (5, 9), 12, 12)
    assert rows[0] == 0 and rows[3] == 5 and rows[8] == 9 and rows[-1] == 11
    assert (np.diff(rows) >= 0).all()


def clip(level, number):
    frame = np.full((8, 8, 3), level, np.uint8)
    return Clip(("dive", number), np.arange(8), (encode(frame),) * 8)


def test_no_change_has_no_effect_and_a_change_has_one():
    scorer = Scorer(FakeModel(), {"weight": np.float32(3.0)}, SIZES, progress=False)
    seen = [explanation.see(scorer, clip(*one)) for one in ((60, 0), (90, 1), (200, 2))]
    known = {("dive", number): seen[number].encoding for number in (1, 2)}
    changed = {"nothing": seen[0].frames, "brighter": seen[2].frames}
    nothing, brighter = pixels.effects_of(
        scorer, changed, seen[0].encoding, [("dive", 1), ("dive", 2)], known
    )
    np.testing.assert_array_equal(nothing.change, 0.0)
    assert (brighter.change > 0).all() and brighter.spread == pytest.approx(0.0, abs=1e-5)
    assert seen[0].mask.shape == (8, 8, 8) and len(seen[0].rows) == 8
