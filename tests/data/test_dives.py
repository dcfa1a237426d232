import concurrent.futures
import json
import pickle
import shutil

import numpy as np
import pytest

from finecausal_jax.data.dives import DiveInfo, DiveSource, dataset_folder
from finecausal_jax.runtime.checksums import write_checksums
from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dives")
    release = render_release(
        folder / "release",
        train_dives=5,
        test_dives=2,
        frames=(20, 23),
        width=48,
        height=32,
        dive_numbers=3,
        workers=0,
        progress=False,
    )
    build_dataset(release, folder / "data")
    return folder / "data"


@pytest.fixture
def copied(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    return tmp_path / "data"


def _change(folder, name, change):
    path = dataset_folder(folder, "release") / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    write_checksums(path.parent)  # as other code would have built it


def test_rows_match_the_table(data_dir):
    for split, count in (("train", 5), ("test", 2)):
        source = DiveSource(data_dir, split)
        assert len(source) == len(source.infos) == count
        for row, dive in enumerate(source):
            assert dive.info is source.infos[row]
            assert len(dive.frames) == len(dive.masks) == len(dive.info.frame_numbers)
            assert all(one.startswith(b"\xff\xd8\xff") for one in (*dive.frames, *dive.masks))
            assert dive.info.completeness == dive.info.score / dive.info.difficulty
            assert dive.info.key == (dive.info.competition, dive.info.index)


def test_the_table_needs_no_records_and_damaged_ones_are_named(copied):
    for path in copied.rglob("*array_record*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(InputError, match=r"damaged: build it again.*\n  .*bytes have changed"):
        DiveSource(copied, "train")  # these small shards are compared at once
    (dataset_folder(copied, "release") / "checksums.json").unlink()
    source = DiveSource(copied, "train")
    assert len(source.infos) == 5
    with pytest.raises(InputError, match="record 2 of the train .* cannot be read .*: build"):
        source[2]


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json", "record"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
@pytest.mark.parametrize("known", [True, False])  # whether there are checksums
def test_a_damaged_data_set_is_named(copied, name, damage, known):
    folder = dataset_folder(copied, "release")
    if not known:
        (folder / "checksums.json").unlink()
        if name != "record":
            (folder / "record_checksums.json").unlink()
    (path,) = folder.glob(f"*train*{name}*" if name == "record" else name)
    data = path.read_bytes()
    changed = {"cut": data[: len(data) // 2], "changed": _with_changed_byte(data)}
    path.unlink()
    if damage != "gone":
        path.write_bytes(changed[damage])
    with pytest.raises(InputError, match="launch.py build"):
        list(DiveSource(copied, "train"))


def _with_changed_byte(data):
    place = len(data) // 5  # a record; the end of its file is empty
    return data[:place] + bytes([data[place] ^ 128]) + data[place + 1 :]


def test_a_data_set_of_the_version_before_is_read(copied):
    before = [dive.frames for dive in DiveSource(copied, "train")]
    folder = dataset_folder(copied, "release")
    (folder / "checksums.json").unlink()  # there were none
    (folder / "record_checksums.json").unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"version": "1.0.0"}))
    folder.rename(folder.with_name("1.0.0"))
    assert [dive.frames for dive in DiveSource(copied, "train")] == before


def test_rows_are_checked(data_dir):
    source = DiveSource(data_dir, "test")
    assert source[np.int64(1)].info.index == source.infos[1].index
    for row in (-1, 2):
        with pytest.raises(IndexError, match="of the test split, which has 2 dives"):
            source[row]


def test_a_source_can_be_pickled_and_shared(data_dir):
    source = DiveSource(data_dir, "train")
    before = source[3]
    again = pickle.loads(pickle.dumps(source))
    assert again[3].frames == before.frames and again[3].info.key == before.info.key
    assert repr(again) == repr(source) == "DiveSource(split='train', dives=5)"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        rows = [row % 5 for row in range(40)]
        for row, dive in zip(rows, pool.map(again.__getitem__, rows), strict=True):
            assert dive.info is again.infos[row]


def test_info_survives_json():
    info = DiveInfo(
        competition="Final",
        index=3,
        dive_number="407c",
        score=81.60000000000001,
        difficulty=3.2,
        frame_numbers=np.arange(489, 493),
        frame_labels=np.array([4, 4, 35, 42]),
        judge_scores=(8.5, 9.0, 8.0),
        sub_action_names=("Inward", "3.5 Soms.Tuck", "Entry"),
        transit_frames=(491, 492),
    )
    again = DiveInfo.from_json(json.loads(json.dumps(info.to_json())))
    assert again.to_json() == info.to_json()
    assert again.score == info.score and again.frame_labels.dtype == np.int64
    assert again.key == ("Final", 3) and again.completeness == 81.60000000000001 / 3.2


def test_missing_data_set_says_which_command_to_run(tmp_path):
    with pytest.raises(ValueError, match="no built data set in .*launch.py build"):
        DiveSource(tmp_path, "train")


def test_unknown_split_is_named(data_dir):
    with pytest.raises(ValueError, match="unknown split 'validation': expected one of train, test"):
        DiveSource(data_dir, "validation")


def test_empty_split_is_named(copied):
    _change(copied, "metadata.json", lambda table: table["dives"].update(test=[]))
    with pytest.raises(ValueError, match="the test split of .* is empty"):
        DiveSource(copied, "test")


def test_table_and_records_must_agree(copied):
    _change(copied, "metadata.json", lambda table: table["dives"]["test"].pop())
    with pytest.raises(ValueError, match="has 2 records but its table lists 1 dives"):
        DiveSource(copied, "test")
    _change(copied, "metadata.json", lambda table: table["dives"]["train"].reverse())
    with pytest.raises(ValueError, match="record 0 of the train split .* were mixed up"):
        DiveSource(copied, "train")[0]


def test_a_data_set_of_other_code_is_named(copied):
    _change(copied, "metadata.json", lambda table: table.pop("dives"))
    with pytest.raises(ValueError, match="has no 'dives' table"):
        DiveSource(copied, "train")
