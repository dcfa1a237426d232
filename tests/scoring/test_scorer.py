import dataclasses

import numpy as np
import pytest

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import protocol


def test_a_score_is_what_the_protocol_says(scorer, test_source, train_source):
    (wanted,) = protocol.score_dives(
        scorer, test_source, train_source, protocol.Choice(exemplars=3), rows=[0]
    )
    rows = [train_source.keys.index(key) for key in wanted.exemplars]
    dives = [train_source[row] for row in rows]
    # A clip without mask or labels, beside exemplars that have both.
    found = scorer.score(test_source[0].clip, dives)
    assert found.target == "completeness" and found.exemplars == wanted.exemplars
    np.testing.assert_array_equal(found.votes, wanted.deltas + wanted.exemplar_targets)
    np.testing.assert_array_equal(found.stage_deltas, wanted.stage_deltas)
    np.testing.assert_array_equal(found.transitions, wanted.transitions)
    difficulty = wanted.difficulty
    assert found.points(difficulty) == pytest.approx(wanted.predicted_score, rel=1e-12)


def test_a_score_as_the_target_is_not_multiplied(make_model, scorer, test_source, train_source):
    other = dataclasses.replace(scorer, model=make_model(target="score"))
    found = other.score(test_source[0], [train_source[0]])
    assert found.points(3.0) == found.votes[0]


def test_a_score_needs_exemplars(scorer, test_source, train_source):
    with pytest.raises(InputError, match="expected at least one dive to compare with"):
        scorer.score(test_source[0], [])
    with pytest.raises(InputError, match="two clips have the key"):
        scorer.score(train_source[0], [train_source[0]])


def test_a_score_that_is_no_number_is_refused(scorer, test_source, train_source):
    spoilt = dataclasses.replace(scorer, variables={"weight": np.float32("nan")})
    with pytest.raises(InputError, match="is not finite, compared with 2 of its 2 exemplars"):
        spoilt.score(test_source[0], [train_source[0], train_source[1]])
