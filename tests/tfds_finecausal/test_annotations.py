import os
import pickle

import numpy as np
import pytest

from tests.reliability.hostile_pickles import Calls, content, honest, hostile
from tfds_finecausal.annotations import FILES, ReleaseError, load_pickle, read_annotations


def _write(folder, table, content):
    (folder / "Annotations" / FILES[table]).write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("name", honest())
def test_honest_contents_come_back(tmp_path, name):
    path = tmp_path / "x.pkl"
    path.write_bytes(honest()[name])
    loaded = load_pickle(path)
    if name.startswith("Python 2"):
        array, text, number = loaded
        np.testing.assert_array_equal(array, [0, 1])
        assert (array.dtype, text, number) == (np.int64, "caf\xe9", 3)
    else:
        _assert_same(loaded, content())


def _assert_same(loaded, expected):
    if isinstance(expected, (np.ndarray, np.generic)):
        assert type(loaded) is type(expected) and loaded.dtype == expected.dtype
        np.testing.assert_array_equal(loaded, expected)
    elif isinstance(expected, dict):
        assert list(loaded) == list(expected)
        for key in expected:
            _assert_same(loaded[key], expected[key])
    elif isinstance(expected, list):
        assert type(loaded) is list and len(loaded) == len(expected)
        for one, other in zip(loaded, expected, strict=True):
            _assert_same(one, other)
    else:
        assert loaded == expected


def test_hostile_pickles_are_refused_and_not_run(tmp_path):
    ran = tmp_path / "was_run"
    # Those that take seconds are in `make reliability`.
    quick = {k: v for k, v in hostile(ran).items() if len(v) < 10**6 and "again" not in k}
    assert len(quick) > 60
    for name, data in quick.items():
        path = tmp_path / "bad.pkl"
        path.write_bytes(data)
        with pytest.raises(ValueError) as caught:
            load_pickle(path)
            pytest.fail(f"{name} was read")
        assert str(caught.value).partition(" ")[0] in {
            *("is", "has", "asks", "calls", "gives", "holds", "nests", "comes", "refers"),
        }, name
        assert not ran.exists(), name


@pytest.mark.parametrize("name", ["os.system, protocol 0", "os.system, protocol 5", "eval"])
def test_the_same_bytes_do_run_elsewhere(tmp_path, name):
    ran = tmp_path / "was_run"
    data = hostile(ran)[name]
    (tmp_path / "bad.pkl").write_bytes(data)
    asked = "eval" if name == "eval" else "system"
    with pytest.raises(ValueError, match=f"asks for .*{asked}; nothing of it was run"):
        load_pickle(tmp_path / "bad.pkl")
    pickle.loads(data)
    assert ran.exists()


def test_a_file_that_is_gone_is_named_as_such(tmp_path):
    with pytest.raises(ValueError, match="cannot be read \\(No such file"):
        load_pickle(tmp_path / "gone.pkl")


def test_all_bad_tables_are_listed_at_once(spoiled):
    (spoiled / "Annotations" / FILES["fine"]).unlink()
    _write(spoiled, "aqa", Calls(os.system, "true"))
    _write(spoiled, "train", {"not": "a list"})
    _write(spoiled, "sub_actions", {1: "Forward", "two": "Back"})
    _write(spoiled, "coarse", {"no pair": {}})
    with pytest.raises(ReleaseError) as caught:
        read_annotations(spoiled)
    paths = {problem.path for problem in caught.value.problems}
    tables = ("fine", "aqa", "train", "sub_actions", "coarse")
    assert paths == {f"Annotations/{FILES[table]}" for table in tables}
    text = str(caught.value)
    assert "5 problems" in text
    assert "cannot be read (No such file or directory)" in text
    assert "asks for posix.system" in text
    assert "holds dict, expected a list" in text


def test_splits_must_not_overlap_or_repeat(spoiled):
    splits = read_annotations(spoiled).splits
    _write(spoiled, "test", [*splits["test"], splits["train"][0]])
    with pytest.raises(ReleaseError, match="also in train_split.pkl"):
        read_annotations(spoiled)
    _write(spoiled, "test", [splits["test"][0]] * 2)
    with pytest.raises(ReleaseError, match="lists more than once"):
        read_annotations(spoiled)


def test_keys_may_hold_numpy_scalars(spoiled):
    splits = read_annotations(spoiled).splits
    _write(spoiled, "test", [(np.str_(name), np.int64(index)) for name, index in splits["test"]])
    again = read_annotations(spoiled).splits["test"]
    assert again == splits["test"]
    assert all(type(name) is str and type(index) is int for name, index in again)
