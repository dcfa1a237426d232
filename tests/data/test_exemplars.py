"""Exemplars depend on the seed and the dives, and on nothing else."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from synthetic_dives import make_info

from finecausal_jax.data import exemplars, seeding

NUMBERS = ["107b"] * 6 + ["5253b"] * 3 + ["301c"]
INFOS = [make_info(index, number) for index, number in enumerate(NUMBERS)]


def test_digest_is_the_same_on_every_machine():
    # Computed once with Python 3.11: a change would silently draw other data in resumed runs.
    assert seeding.digest("order", 7) == 9147043775196009180107371537018008753
    assert seeding.digest("ab") != seeding.digest("a", "b")
    assert seeding.digest(("cup", np.int64(3))) == seeding.digest(("cup", 3))
    assert seeding.generator("a", 1).random() == seeding.generator("a", 1).random()
    assert seeding.generator("a", 1).random() != seeding.generator("a", 2).random()


def test_training_exemplar_is_another_dive_of_the_same_number():
    for epoch in range(20):
        for row, number in enumerate(NUMBERS):
            chosen = exemplars.training_exemplar(INFOS, row, seed=0, epoch=epoch)
            assert NUMBERS[chosen] == number
            assert (chosen == row) == (number == "301c")


def test_training_exemplar_is_spread_evenly_over_epochs():
    chosen = [exemplars.training_exemplar(INFOS, 0, seed=3, epoch=epoch) for epoch in range(1000)]
    counts = collections.Counter(chosen)
    # 200 each expected; the standard deviation is 12.6.
    assert set(counts) == {1, 2, 3, 4, 5}
    assert all(150 < count < 250 for count in counts.values())
    other = [exemplars.training_exemplar(INFOS, 0, seed=4, epoch=epoch) for epoch in range(1000)]
    assert 100 < sum(a == b for a, b in zip(chosen, other, strict=True)) < 300


def test_choices_do_not_depend_on_the_order_of_the_dives():
    order = np.random.default_rng(0).permutation(len(INFOS))
    shuffled = [INFOS[row] for row in order]
    for place, row in enumerate(order):
        plain = exemplars.training_exemplar(INFOS, int(row), seed=1, epoch=2)
        moved = exemplars.training_exemplar(shuffled, place, seed=1, epoch=2)
        assert shuffled[moved].key == INFOS[plain].key
        plain = exemplars.evaluation_exemplars(INFOS[row], INFOS, count=3, seed=1)
        moved = exemplars.evaluation_exemplars(INFOS[row], shuffled, count=3, seed=1)
        assert [shuffled[one].key for one in moved] == [INFOS[one].key for one in plain]


def test_evaluation_exemplars_are_distinct_and_fewer_where_there_are_fewer():
    query = make_info(50, "107b")
    chosen = exemplars.evaluation_exemplars(query, INFOS, count=4, seed=0)
    assert chosen.dtype == np.int64 and chosen.shape == (4,)
    assert len(set(chosen.tolist())) == 4 and set(chosen.tolist()) <= set(range(6))
    everything = exemplars.evaluation_exemplars(query, INFOS, count=10, seed=0)
    assert sorted(everything.tolist()) == [0, 1, 2, 3, 4, 5]
    assert everything[:4].tolist() == chosen.tolist()

    choices = {
        tuple(exemplars.evaluation_exemplars(query, INFOS, count=4, seed=seed)) for seed in range(9)
    }
    assert len(choices) > 5
    rows = collections.Counter(
        row
        for index in range(300)
        for row in exemplars.evaluation_exemplars(make_info(index, "107b"), INFOS, count=1, seed=0)
        if index >= len(INFOS)
    )
    assert set(rows) == {0, 1, 2, 3, 4, 5} and max(rows.values()) < 80  # 48 each expected


def test_evaluation_of_training_dives_leaves_out_the_dive_itself():
    assert 2 not in exemplars.evaluation_exemplars(INFOS[2], INFOS, count=10, seed=0)
    assert exemplars.evaluation_exemplars(INFOS[9], INFOS, count=10, seed=0).tolist() == [9]


def test_unknown_dive_number_is_named():
    with pytest.raises(ValueError, match=r"\('Test Cup', 77\) has dive number '6245d', which none"):
        exemplars.evaluation_exemplars(make_info(77, "6245d"), INFOS, count=10, seed=0)
    with pytest.raises(ValueError, match="exemplars must be at least 1, got 0"):
        exemplars.evaluation_exemplars(INFOS[0], INFOS, count=0, seed=0)
