import os
import pickle
import subprocess

import numpy as np
import pytest

from tfds_finecausal.annotations import FILES, ReleaseError, load_pickle, read_annotations


def _write(folder, table, content):
    (folder / "Annotations" / FILES[table]).write_bytes(pickle.dumps(content))


def test_numpy_contents_come_back(tmp_path):
    content = {
        ("Final", np.int64(3)): [
            np.float64(81.6),
            np.arange(4),
            np.array([489.0, 501.0]),
            np.array([], np.float32),
            np.bool_(True),
            np.str_("407c"),
        ]
    }
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        # Bytes in pickles of protocol 2 go through _codecs.encode, which is not NumPy's.
        if protocol == 2:
            continue
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        ((key, values),) = load_pickle(path).items()
        assert key == ("Final", 3)
        for loaded, expected in zip(values, content[key], strict=True):
            np.testing.assert_array_equal(loaded, expected)
            assert np.asarray(loaded).dtype == np.asarray(expected).dtype


def test_numpy_1_module_names_are_known(tmp_path):
    data = pickle.dumps([np.arange(3), np.float64(2.5)], protocol=3)
    assert b"numpy._core.multiarray" in data  # this NumPy's name; the real release has NumPy 1's
    path = tmp_path / "old.pkl"
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    array, scalar = load_pickle(path)
    np.testing.assert_array_equal(array, [0, 1, 2])
    assert scalar == 2.5


class _Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, subprocess.getoutput])
def test_hostile_pickles_are_refused_and_not_run(tmp_path, function, protocol):
    trace = tmp_path / "was_run"
    command = f"touch {trace}"
    argument = f"__import__('os').system({command!r})" if function is eval else command
    path = tmp_path / "bad.pkl"
    data = pickle.dumps([1, _Hostile(function, argument)], protocol=protocol)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"asks for .*{function.__name__}; only NumPy"):
        load_pickle(path)
    assert not trace.exists()
    pickle.loads(data)  # the same bytes do run where nothing is checked
    assert trace.exists()


def test_numpy_s_own_readers_are_refused_too(tmp_path):
    for function in (np.fromfile, np.load):
        path = tmp_path / "bad.pkl"
        path.write_bytes(pickle.dumps(_Hostile(function, str(path))))
        with pytest.raises(ValueError, match="asks for numpy"):
            load_pickle(path)


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps([1, 2, 3])[:-4]])
def test_broken_pickles_are_named_as_such(tmp_path, data):
    path = tmp_path / "broken.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is no readable pickle"):
        load_pickle(path)


def test_all_bad_tables_are_listed_at_once(spoiled):
    (spoiled / "Annotations" / FILES["fine"]).unlink()
    _write(spoiled, "aqa", _Hostile(os.system, "true"))
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
