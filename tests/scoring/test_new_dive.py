"""A dive that no data set holds: exemplars, result, distance and what is refused."""

import dataclasses

import numpy as np
import pytest

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import new_dive, protocol
from finecausal_jax.scoring.new_dive import Announced

CHOICE = protocol.Choice(exemplars=3)


@pytest.fixture
def clip(test_source):
    """A clip of sixteen frames, which is the least, made of eight."""
    short = test_source[0].clip
    return dataclasses.replace(
        short, key=("own.mp4", 0), frame_numbers=np.arange(16), frames=short.frames * 2, masks=None
    )


def test_a_new_dive_gets_what_its_exemplars_say(scorer, clip, train_source):
    found = new_dive.score_new(scorer, Announced(clip, "101b", 2.5), train_source, CHOICE)
    assert found.is_own_number and {one.dive_number for one in found.exemplars} == {"101b"}
    dives = [train_source[train_source.keys.index(one.key)] for one in found.exemplars]
    want = scorer.score(clip, dives)
    np.testing.assert_array_equal(found.votes, want.votes)
    assert found.score == pytest.approx(2.5 * found.completeness)
    assert found.completeness == pytest.approx(np.mean(found.votes))
    mean = np.mean([one.completeness for one in found.exemplars])
    assert found.stage_parts.sum() + mean == pytest.approx(found.completeness, abs=1e-4)
    # The stand-in's transitions, frames 1 or 2 and 6 of 8, among 16.
    (start, first), (again, second), (last, end) = found.stages
    assert (start, end) == (0, 15) and first == again and second == last
    assert 0 < first < second < 15
    assert found.distance is None and not found.is_far


@pytest.mark.parametrize(
    ("number", "nearest"),
    [("103b", {"101b"}), ("105c", {"107c"}), ("5251b", {"5253b"}), ("201b", {"101b"})],
)
def test_a_number_without_exemplars_gets_the_nearest(number, nearest, train_source):
    chosen = new_dive.choose_exemplars(number, ("own", 0), train_source.infos, CHOICE)
    assert not chosen.is_own and set(chosen.dive_numbers) == nearest
    assert {train_source.infos[row].dive_number for row in chosen.rows} == nearest


def test_exemplars_do_not_depend_on_their_order(train_source):
    infos = train_source.infos
    rows = new_dive.choose_exemplars("101b", ("own", 0), infos, CHOICE).rows
    turned = new_dive.choose_exemplars("101b", ("own", 0), infos[::-1], CHOICE).rows
    assert [infos[row].key for row in rows] == [infos[::-1][row].key for row in turned]


def test_a_video_unlike_all_of_the_bank_is_told(scorer, clip, make_info, make_source):
    infos = [make_info("Cup", row, "101b", 10.0, 2.0) for row in range(25)]
    bank = make_source(infos, levels=[100 + row for row in range(25)])
    known = dict(scorer.encode(bank, range(25)))
    levels = make_source(
        [make_info("own", row, "101b", 10.0, 2.0, 16) for row in range(2)], levels=[112, 250]
    )

    def distance(row):
        dive = Announced(levels[row].clip, "101b", 2.0)
        return new_dive.score_new(scorer, dive, bank, CHOICE, known)

    assert distance(0).distance < 1 and not distance(0).is_far
    assert distance(1).distance > 10 and distance(1).is_far


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dive_number": "999z"}, "'999z' is no dive number"),
        ({"difficulty": 0.5}, "difficulty is 0.5, expected 1.0 to 5.0"),
        ({"difficulty": 32.0}, "difficulty is 32, expected 1.0 to 5.0"),
    ],
)
def test_what_is_announced_is_checked(clip, change, expected):
    with pytest.raises(InputError, match=expected):
        Announced(**{"clip": clip, "dive_number": "101b", "difficulty": 2.0, **change})


def test_too_few_frames_or_no_exemplars(clip, test_source, train_source):
    with pytest.raises(InputError, match="has 8 frames, expected at least 16"):
        Announced(test_source[0].clip, "101b", 2.0)
    with pytest.raises(InputError, match="there are no dives to compare with"):
        new_dive.choose_exemplars("101b", clip.key, (), CHOICE)
