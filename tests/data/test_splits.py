"""Splits: every dive on one side, no competition on both, the same in every run."""

from __future__ import annotations

import dataclasses
import pickle

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from synthetic_dives import SomeDives, make_info

from finecausal_jax.data import exemplars, pipeline, splits
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.sources import Dives
from finecausal_jax.data.splits import Split, Table, competition_groups, open_split

SMALL = Preprocessing(frames=6, frame_size=8, resize_width=10, resize_height=12)


def table_of(sizes, train_of=lambda row: row % 4 != 0):
    """A table with some dives of each competition, by name; every fourth dive is a test dive."""
    infos = [
        make_info(index, ("107b", "5253b", "301c")[index % 3], competition=name)
        for name, size in sizes.items()
        for index in range(size)
    ]
    stored = ["train" if train_of(row) else "test" for row in range(len(infos))]
    return Table(tuple(infos), tuple(stored))


def competitions(table, rows):
    return {table.infos[row].competition for row in rows}


names_and_sizes = st.dictionaries(
    st.text("abc0129", min_size=1, max_size=4), st.integers(1, 12), min_size=2, max_size=12
)


@hypothesis.given(sizes=names_and_sizes, data=st.data())
@hypothesis.settings(deadline=None, max_examples=60)
def test_held_out_competitions_divide_every_dive_once(sizes, data):
    table = table_of(sizes)
    count = data.draw(st.integers(2, len(sizes)))
    tested = []
    for group in range(count):
        train, test = Split.parse(f"competitions:{count}:{group}").divide(table)
        assert sorted(train + test) == list(range(len(table.infos)))
        assert not competitions(table, train) & competitions(table, test)
        assert list(train) == sorted(train) and list(test) == sorted(test)
        tested.append(test)
    assert sorted(row for test in tested for row in test) == list(range(len(table.infos)))
    dives = [len(test) for test in tested]
    assert max(dives) - min(dives) <= max(sizes.values())

    order = data.draw(st.permutations(range(len(table.infos))))
    moved = [table.infos[row] for row in order]
    assert competition_groups(moved, count) == competition_groups(table.infos, count)


def test_groups_are_the_same_in_every_run():
    # Written down once: other groups would make results of before another test.
    sizes = {"Cup": 9, "Games": 9, "Final": 4, "01": 4, "26": 4, "Trials": 2}
    groups = competition_groups(table_of(sizes).infos, 3)
    # 9 and 9, then 4 three times to what has 0, 4 and 8, then 2 to one of those with 9.
    assert groups == {"Games": 0, "Cup": 1, "01": 2, "26": 2, "Final": 2, "Trials": 0}


def test_official_is_what_is_stored():
    table = table_of({"Cup": 5, "Games": 4})
    assert Split.parse("official").divide(table) == ((1, 2, 3, 5, 6, 7), (0, 4, 8))


def test_subsets_narrow_the_test_dives_down_and_leave_training_alone():
    table = table_of({"01": 4, "Cup": 4, "26": 4, "27": 4, "1": 4}, lambda row: row % 2)
    train = tuple(range(1, 20, 2))
    expected = {
        "official/first:3": (0, 2, 4),
        "official/first:99": tuple(range(0, 20, 2)),
        "official/without_mtl_aqa": (4, 6, 12, 14, 16, 18),
        "official/only_mtl_aqa": (0, 2, 8, 10),
        "official/only_mtl_aqa/first:3": (0, 2, 8),
        "official/first:3/only_mtl_aqa": (0, 2),
    }
    for name, test in expected.items():
        assert Split.parse(name).divide(table) == (train, test), name
    held_out = Split.parse("competitions:5:0").divide(table)
    assert Split.parse("competitions:5:0/first:2").divide(table) == (
        held_out.train,
        held_out.test[:2],
    )


def test_dives_without_exemplars_can_be_left_out():
    numbers = ["107b", "5253b", "301c", "107b", "6245d"]
    names = ["Cup", "Cup", "Cup", "Games", "Games"]
    infos = [
        make_info(index, number, competition=name)
        for index, (number, name) in enumerate(zip(numbers, names, strict=True))
    ]
    table = Table(tuple(infos), ("train",) * 5)
    split = Split.parse("competitions:2:0/with_exemplars")
    train, test = split.divide(table)
    assert (train, test) == ((3, 4), (0,))
    with pytest.raises(ValueError, match="'5253b', which none .*/with_exemplars leaves out all"):
        exemplars.evaluation_exemplars(infos[1], [infos[row] for row in train], count=1, seed=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("competition:5:0", "'competition:5:0' is none of official, competitions:K:I"),
        ("", "'' is none of official, competitions:K:I"),
        ("official:2", "'official:2' should read official, with whole numbers"),
        ("competitions:5", "'competitions:5' should read competitions:K:I, with whole numbers"),
        ("competitions:5:x", "'competitions:5:x' should read competitions:K:I, with whole"),
        ("competitions:5:01", "'competitions:5:01' should read competitions:K:I, with whole"),
        ("competitions:5:5", "competitions:5:5: expected .* from 0 to K-1"),
        ("competitions:1:0", "competitions:1:0: expected .* at least 2 groups"),
        ("official/last:3", "'last:3' is none of first:N, without_mtl_aqa, only_mtl_aqa, with_"),
        ("official/first:0", "first:0: expected first:N with at least 1 dive"),
        ("official/first:-1", "'first:-1' should read first:N, with whole numbers"),
        ("official/", "'' is none of first:N"),
    ],
)
def test_unknown_splits_list_the_known_ones(name, message):
    with pytest.raises(ValueError, match=f"unknown split '{name}': {message}") as caught:
        Split.parse(name)
    for known in (*splits.RULES, *splits.SUBSETS):
        assert known in str(caught.value)


def test_names_are_kept():
    for name in ("official", "competitions:5:0", "official/without_mtl_aqa/first:20"):
        assert str(Split.parse(name)) == name
        assert Split.parse(name) == Split.parse(name)


def test_splits_that_a_data_set_does_not_allow_are_named():
    table = table_of({"Cup": 5, "Games": 4})
    with pytest.raises(ValueError, match="3 groups of competitions need .* the data set has 2"):
        Split.parse("competitions:3:0").divide(table)
    with pytest.raises(ValueError, match="'official/only_mtl_aqa' leaves no test dives of the 9"):
        Split.parse("official/only_mtl_aqa").divide(table)
    stored = dataclasses.replace(table, stored=("test",) * 9)
    with pytest.raises(ValueError, match="'official' leaves no train dives of the 9 in the data"):
        Split.parse("official").divide(stored)


# --- Opening ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    infos = {
        "train": [make_info(row, competition=f"Cup {row % 3}") for row in range(7)],
        "test": [make_info(row, competition=f"Cup {row % 3}") for row in range(7, 11)],
    }
    return {name: SomeDives(some) for name, some in infos.items()}


def test_official_hands_out_the_stored_sources(sources):
    sides = open_split(Split.parse("official"), sources)
    assert sides["train"] is sources["train"] and sides["test"] is sources["test"]
    sides = open_split(Split.parse("official/first:2"), sources)
    assert sides["train"] is sources["train"]
    assert sides["test"].keys == sources["test"].keys[:2]


def test_a_view_takes_dives_from_both_stored_splits(sources):
    sides = open_split(Split.parse("competitions:3:1"), sources)
    keys = [key for side in sides.values() for key in side.keys]
    assert sorted(keys) == sorted((*sources["train"].keys, *sources["test"].keys))
    for side in sides.values():
        assert isinstance(side, Dives)
        again = pickle.loads(pickle.dumps(side))
        assert repr(again) == repr(side) and again.keys == side.keys
        for row, dive in enumerate(side):
            assert dive.info is side.infos[row] and dive.key == side.keys[row]
            assert again[np.int64(row)].frames == dive.frames
        with pytest.raises(IndexError, match=f"row -1 of {side.name}, which has {len(side)} div"):
            side[-1]
    assert repr(sides["test"]) == "SelectedDives('test of competitions:3:1', dives=4)"
    # Cups 0 and 1 have four dives each; by its hash, cup 0 comes second.
    assert [info.index for info in sides["test"].infos] == [0, 3, 6, 9]


def test_a_view_s_fingerprint_is_of_the_stored_splits_it_reads(sources):
    marked = {name: SomeDives(source.infos) for name, source in sources.items()}
    for name, source in marked.items():
        source.fingerprint = f"{name} images"
    both = open_split(Split.parse("competitions:3:1"), marked)["test"]
    assert both.fingerprint == '["train images", "test images"]'
    one = open_split(Split.parse("official/first:2"), marked)["test"]
    assert one.fingerprint == '["test images"]'


def test_views_train_and_test(sources):
    sides = open_split(Split.parse("competitions:3:1"), sources)
    batch = next(pipeline.training_batches(sides["train"], SMALL, batch_size=7, seed=0))
    assert sorted(batch["query"]["row"].tolist()) == list(range(7))
    for role in ("query", "exemplar"):
        for place, row in enumerate(batch[role]["row"]):
            # The dive's index is in the brightness of its images (see `make_dive`).
            index = sides["train"].infos[row].index
            assert abs(int(batch[role]["frames"][place].max()) - (255 - 4 * index)) <= 2
    batch = next(pipeline.evaluation_videos(sides["test"], SMALL, range(4), batch_size=4))
    levels = batch["frames"].reshape(4, -1).max(axis=1).astype(int)
    np.testing.assert_allclose(levels, [255 - 4 * i.index for i in sides["test"].infos], atol=2)
