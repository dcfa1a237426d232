"""Predictions as files: what is read, and what is refused with which words."""

import numpy as np
import pytest

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import predictions
from tests.scoring.simulated import simulate


@pytest.fixture
def given():
    return simulate(np.random.default_rng(0), dives=6, competitions=2)[0]


def lines(given, columns="competition,index,completeness"):
    rows = [
        f"{info.competition},{info.index},{one}"
        for info, one in zip(given.infos, given.completeness, strict=True)
    ]
    return [columns, *rows]


def test_what_is_written_is_read(given, tmp_path):
    given = predictions.Predictions("a", given.infos, given.completeness, np.arange(6.0))
    path = predictions.write(given, tmp_path / "new" / "a.csv")
    read = predictions.read(path, given.infos[::-1])  # in another order
    np.testing.assert_array_equal(read.completeness, given.completeness[::-1])
    np.testing.assert_array_equal(read.spread, given.spread[::-1])
    assert read.infos == given.infos[::-1] and read.name == str(path)


def test_scores_do_in_place_of_completeness(given, tmp_path):
    path = tmp_path / "scores.npz"
    np.savez(
        path,
        competition=[info.competition for info in given.infos],
        index=[info.index for info in given.infos],
        score=given.score,
    )
    np.testing.assert_allclose(predictions.read(path, given.infos).completeness, given.completeness)
    assert predictions.read(path, given.infos).spread is None


def test_other_dives_may_be_there_if_they_are_known(given, tmp_path):
    path = predictions.write(given, tmp_path / "a.csv")
    read = predictions.read(path, given.infos[:2], others=given.infos[2:])
    assert len(read.infos) == 2
    with pytest.raises(InputError, match="3 that are not asked for, the first being .'Cup "):
        predictions.read(path, given.infos[:2], others=given.infos[2:3])


CASES = {
    "a missing column": (
        lambda rows: ["competition,i,score", *rows[1:]],
        "missing: index; unknown: i",
    ),
    "an unknown column": (lambda rows: ["competition,index,points", *rows[1:]], "unknown: points"),
    "a missing dive": (lambda rows: rows[:-1], "1 missing, the first being .'Cup "),
    "a dive twice": (lambda rows: [*rows, rows[1]], "1 there twice, the first being"),
    "an unknown dive": (lambda rows: [*rows, "Cup,99,1.0"], r"1 that are not asked for.*'Cup', 99"),
    "not a number": (lambda rows: [*rows[:-1], "Cup 01,5,nan"], "completeness of dive .* is 'nan'"),
    "text": (
        lambda rows: [*rows[:-1], rows[-1].rsplit(",", 1)[0] + ",x"],
        "is 'x', expected a fin",
    ),
    "half an index": (lambda rows: [*rows[:-1], "Cup,1.5,2"], "index of dive 6 is '1.5'"),
    "a short line": (lambda rows: [*rows[:-1], "Cup,1"], "dive 6 has 2 values, expected 3"),
    "nothing": (lambda rows: [], "is empty, expected a header"),
    "a column twice": (
        lambda rows: ["competition,index,index", *rows[1:]],
        "column is there twice",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_faults_are_named(given, tmp_path, case):
    change, expected = CASES[case]
    rows = lines(given)
    key = given.infos[-1].key
    rows[-1] = f"{key[0]},{key[1]},{given.completeness[-1]}"
    changed = [row.replace("Cup 01,5,nan", f"{key[0]},{key[1]},nan") for row in change(rows)]
    path = tmp_path / "faulty.csv"
    path.write_text("\n".join(changed))
    with pytest.raises(InputError, match=expected) as error:
        predictions.read(path, given.infos)
    assert str(path) in str(error.value)


def test_score_and_completeness_have_to_agree(given, tmp_path):
    path = tmp_path / "both.npz"
    names = {
        "competition": [info.competition for info in given.infos],
        "index": [info.index for info in given.infos],
    }
    np.savez(path, completeness=given.completeness, score=given.completeness, **names)
    with pytest.raises(InputError, match="expected the same, or one of the two columns alone"):
        predictions.read(path, given.infos)
    np.savez(path, completeness=given.completeness, spread=-given.completeness, **names)
    with pytest.raises(InputError, match="expected a standard deviation, 0 or more"):
        predictions.read(path, given.infos)


def test_files_that_are_none(given, tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        predictions.read(tmp_path / "none.csv", given.infos)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match="ends in .csv or .npz"):
        predictions.read(tmp_path / "a.txt", given.infos)
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="cannot be read as NPZ"):
        predictions.read(tmp_path / "a.npz", given.infos)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no CSV in UTF-8"):
        predictions.read(tmp_path / "b.csv", given.infos)
    np.savez(tmp_path / "c.npz", competition=np.array([{"a": 1}], object))  # would be unpickled
    with pytest.raises(InputError, match="expected an array without objects"):
        predictions.read(tmp_path / "c.npz", given.infos)
