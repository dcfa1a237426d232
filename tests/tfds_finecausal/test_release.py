import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFile

from finecausal_jax.data.dives import DiveSource
from finecausal_jax.runtime.errors import InputError
from tfds_finecausal.annotations import FILES, Folders, ReleaseError
from tfds_finecausal.building import build_dataset
from tfds_finecausal.release import read_release, write_problems


def _table(folder, table):
    return pickle.loads((folder / "Annotations" / FILES[table]).read_bytes())


def _write(folder, table, content):
    (folder / "Annotations" / FILES[table]).write_bytes(pickle.dumps(content))


def _files(folder, kind, key):
    return sorted((folder / kind / key[0] / str(key[1])).iterdir())


def _problems(folder):
    with pytest.raises(ReleaseError) as caught:
        read_release(folder)
    return caught.value


def test_a_sound_release(small_release):
    release = read_release(small_release)
    assert [len(release.splits[split]) for split in ("train", "test")] == [13, 3]
    assert release.skipped == ()
    aqa = _table(small_release, "aqa")
    for split in ("train", "test"):
        dives = release.splits[split]
        assert [dive.info.key for dive in dives] == _table(small_release, split)
        for dive in dives:
            number, score, difficulty, transits, labels = aqa[dive.info.key]
            assert dive.info.dive_number == number
            assert (dive.info.score, dive.info.difficulty) == (score, difficulty)
            assert dive.info.transit_frames == tuple(transits)
            np.testing.assert_array_equal(dive.info.frame_labels, labels)
            assert dive.info.completeness == pytest.approx(score / difficulty)
            assert [path.stem for path in dive.frames] == [
                f"{frame:05d}" for frame in dive.info.frame_numbers
            ]
            assert [path.name for path in dive.masks] == [path.name for path in dive.frames]
            size = sum(path.stat().st_size for path in (*dive.frames, *dive.masks))
            assert dive.num_bytes == size
            assert len(dive.info.sub_action_names) in (3, 4, 5)


def test_every_problem_of_every_dive_is_listed(spoiled):
    keys = _table(spoiled, "train")
    expected = []

    path = _files(spoiled, "FineDiving_HM", keys[0])[4]
    path.unlink()
    expected.append((keys[0], f"FineDiving_HM/{keys[0][0]}/{keys[0][1]}/{path.name}", "missing"))

    path = _files(spoiled, "FineDiving", keys[1])[5]
    path.unlink()
    expected.append((keys[1], f"FineDiving/{keys[1][0]}/{keys[1][1]}/{path.name}", "missing"))

    frames = _files(spoiled, "FineDiving", keys[2])
    extra = frames[-1].with_name(f"{int(frames[-1].stem) + 1:05d}.jpg")
    shutil.copy(frames[-1], extra)
    expected.append((keys[2], f"FineDiving_HM/{keys[2][0]}/{keys[2][1]}/{extra.name}", "missing"))
    expected.append((keys[2], f"Annotations/{FILES['aqa']}", "frame labels for"))

    path = _files(spoiled, "FineDiving_HM", keys[3])[2]
    Image.new("L", (32, 18)).save(path)
    place = f"FineDiving_HM/{keys[3][0]}/{keys[3][1]}/{path.name}"
    expected.append((keys[3], place, "mask of 32 x 18 pixels, its frame has 64 x 36 pixels"))

    path = _files(spoiled, "FineDiving", keys[4])[7]
    path.write_bytes(path.read_bytes()[:-40])
    place = f"FineDiving/{keys[4][0]}/{keys[4][1]}/{path.name}"
    expected.append((keys[4], place, "does not decode (image file is truncated"))

    aqa, coarse = _table(spoiled, "aqa"), _table(spoiled, "coarse")
    aqa[keys[5]][4] = aqa[keys[5]][4][:-2]
    expected.append((keys[5], f"Annotations/{FILES['aqa']}", "frame labels for"))
    del aqa[keys[6]], coarse[keys[6]]
    expected.append((keys[6], f"Annotations/{FILES['aqa']}", "no annotation of this dive"))
    expected.append((keys[6], f"Annotations/{FILES['coarse']}", "no annotation of this dive"))
    aqa[keys[7]][0] = "nine"
    expected.append((keys[7], f"Annotations/{FILES['aqa']}", "unknown dive number: 'nine'"))
    aqa[keys[8]][1:3] = [float("nan"), 0.0]
    expected.append((keys[8], f"Annotations/{FILES['aqa']}", "score is nan"))
    expected.append((keys[8], f"Annotations/{FILES['aqa']}", "difficulty is 0.0"))
    _write(spoiled, "aqa", aqa)
    _write(spoiled, "coarse", coarse)

    shutil.rmtree(spoiled / "FineDiving_HM" / keys[9][0] / str(keys[9][1]))
    expected.append((keys[9], f"FineDiving_HM/{keys[9][0]}/{keys[9][1]}", "missing folder"))

    error = _problems(spoiled)
    found = [(problem.where, problem.path, problem.what) for problem in error.problems]
    for (competition, index), path, what in expected:
        matching = [
            one for one in found if one[:2] == (f"{competition}/{index}", path) and what in one[2]
        ]
        assert len(matching) == 1, (competition, index, path, what, found)
        assert f"{competition}/{index}: {path}: " in str(error)
    # Nothing else but what follows: a frame less than labels, a number without its training dive.
    planted = {(f"{key[0]}/{key[1]}", path) for key, path, _ in expected}
    others = [what for where, path, what in found if (where, path) not in planted]
    assert all("frame labels for" in what or "in no training dive" in what for what in others)
    assert "--skip_bad" in str(error)


def test_skipping_leaves_the_bad_dives_out(spoiled, tmp_path):
    keys = _table(spoiled, "train")
    _files(spoiled, "FineDiving_HM", keys[2])[0].unlink()
    release = read_release(spoiled, skip=True)
    kept = [dive.info.key for dive in release.splits["train"]]
    assert kept == [key for key in keys if key != keys[2]]
    write_problems(release.skipped, tmp_path / "skipped.json")
    rows = json.loads((tmp_path / "skipped.json").read_text())
    assert rows[0]["where"] == f"{keys[2][0]}/{keys[2][1]}"
    assert rows[0]["path"].startswith("FineDiving_HM/") and "missing" in rows[0]["what"]


def test_a_test_dive_needs_a_training_dive_of_its_number(spoiled):
    aqa, tests = _table(spoiled, "aqa"), _table(spoiled, "test")
    aqa[tests[1]][0] = "101a"
    _write(spoiled, "aqa", aqa)
    (problem,) = _problems(spoiled).problems
    assert problem.where == f"{tests[1][0]}/{tests[1][1]}"
    assert problem.what == "dive number 101a occurs in no training dive"
    release = read_release(spoiled, skip=True)
    assert [dive.info.key for dive in release.splits["test"]] == [tests[0], tests[2]]


def test_skipping_training_dives_can_cost_test_dives(spoiled):
    aqa = _table(spoiled, "aqa")
    test = _table(spoiled, "test")[0]
    number = aqa[test][0]
    only = [key for key in _table(spoiled, "train") if aqa[key][0] == number]
    for key in only:
        _files(spoiled, "FineDiving", key)[3].write_bytes(b"")
    error = _problems(spoiled)
    assert {problem.where for problem in error.problems} == {f"{c}/{i}" for c, i in only}
    release = read_release(spoiled, skip=True)
    assert test not in [dive.info.key for dive in release.splits["test"]]
    assert any("has lost all its training dives" in one.what for one in release.skipped)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_named(spoiled, split):
    _write(spoiled, split, [])
    with pytest.raises(ValueError, match=f"the {split} split of the release .* is empty|in no tr"):
        read_release(spoiled)


def test_all_skipped_is_an_empty_split(spoiled):
    for key in _table(spoiled, "test"):
        _files(spoiled, "FineDiving", key)[0].unlink()
    with pytest.raises(ValueError, match="test split .* is empty.*all skipped:(\n.*)+missing"):
        read_release(spoiled, skip=True)


def test_a_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no release in .*launch.py render"):
        read_release(tmp_path / "nowhere")


def test_variants_of_the_real_release_pass(spoiled):
    """RGB masks, NumPy keys, one training dive of a number, labels that return, odd transits."""
    train = _table(spoiled, "train")
    tables = {name: _table(spoiled, name) for name in ("aqa", "coarse", "fine")}
    # Masks stored as RGB.
    for path in _files(spoiled, "FineDiving_HM", train[0]):
        with Image.open(path) as mask:
            mask.convert("RGB").save(path)
    # Five segments and only two transit frames; the dive has far fewer than 96 frames.
    five = next(key for key in train if len(tables["aqa"][key][3]) == 4)
    labels = tables["aqa"][five][4]
    assert len(set(labels.tolist())) == 4  # one label comes back
    for table, field in (("aqa", 3), ("fine", "steps_transit_frames")):
        tables[table][five][field] = tables[table][five][field][:2]
    # Marks as a list, as an array, and a score of zero.
    tables["coarse"][train[1]]["judge_scores"] = np.array([7.0, 8.0, 6.5])
    tables["aqa"][train[2]][1] = np.float64(0.0)
    # Keys with NumPy integers.
    for name, content in tables.items():
        _write(spoiled, name, {(c, np.int64(i)): value for (c, i), value in content.items()})
    # Other files in the folders are not ours.
    (spoiled / "FineDiving" / train[0][0] / str(train[0][1]) / "Thumbs.db").write_bytes(b"x")

    release = read_release(spoiled)
    rows = {dive.info.key: dive.info for dive in release.splits["train"]}
    assert len(rows) == 13
    assert len(rows[five].transit_frames) == 2 and len(rows[five].sub_action_names) == 5
    assert rows[five].sub_action_names[1] == rows[five].sub_action_names[3]
    assert rows[train[1]].judge_scores == (7.0, 8.0, 6.5)
    assert rows[train[2]].completeness == 0.0
    numbers = [info.dive_number for info in rows.values()]
    assert any(numbers.count(number) == 1 for number in numbers)


@pytest.mark.parametrize("kept", [2, 20, 300])
def test_truncation_is_seen_even_where_other_code_allows_it(spoiled, monkeypatch, kept):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = _files(spoiled, "FineDiving_HM", _table(spoiled, "train")[0])[0]
    data = path.read_bytes()
    assert len(data) > 302
    path.write_bytes(data[:-2] if kept == 2 else data[:kept])
    (problem,) = _problems(spoiled).problems
    assert "does not decode" in problem.what and problem.path.endswith(path.name)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_other_colours_and_formats_are_named(spoiled):
    key = _table(spoiled, "train")[0]
    frames = _files(spoiled, "FineDiving", key)
    Image.new("L", (64, 36)).save(frames[1])
    png = io.BytesIO()
    Image.new("RGB", (64, 36)).save(png, "PNG")
    frames[2].write_bytes(png.getvalue())
    whats = [problem.what for problem in _problems(spoiled).problems]
    assert whats[0] == "colour mode L, expected RGB"
    assert whats[1] == "is a PNG file, expected JPEG"


def test_names_that_are_no_frame_numbers(spoiled):
    key = _table(spoiled, "train")[0]
    frames = _files(spoiled, "FineDiving", key)
    frames[0].rename(frames[0].with_name("first.jpg"))
    shutil.copy(frames[1], frames[1].with_name("999999999.jpg"))
    whats = [problem.what for problem in _problems(spoiled).problems]
    assert any("expected a frame number as its name" in what for what in whats)
    assert any("are no one dive" in what for what in whats)


def test_a_competition_cannot_point_elsewhere(spoiled):
    train = _table(spoiled, "train")
    elsewhere = ("../../elsewhere", 1)
    for name in ("aqa", "coarse", "fine"):
        content = _table(spoiled, name)
        content[elsewhere] = content[train[0]]
        _write(spoiled, name, content)
    _write(spoiled, "train", [*train, elsewhere])
    (problem,) = _problems(spoiled).problems
    assert problem.what == "the competition is no plain folder name"


def test_labels_outside_the_table_are_named(spoiled):
    aqa, train = _table(spoiled, "aqa"), _table(spoiled, "train")
    aqa[train[0]][4] = aqa[train[0]][4].copy()
    aqa[train[0]][4][-1] = 77
    aqa[train[1]][4] = np.full_like(aqa[train[1]][4], 5)
    aqa[train[2]][4] = aqa[train[2]][4].astype(str)
    _write(spoiled, "aqa", aqa)
    whats = [problem.what for problem in _problems(spoiled).problems]
    assert whats == [
        "labels [77] are not in Sub_action_Types_Table.pkl",
        "fewer than two distinct frame labels, so no transition",
        "frame labels are no list of whole numbers",
    ]


# --- The release as people have it ---------------------------------------------------------------


def test_folders_of_other_names_are_one_problem_with_its_mend(spoiled):
    (spoiled / "FineDiving").rename(spoiled / "FINADiving_MTL_256s")
    (spoiled / "FineDiving_HM").rename(spoiled / "diving_mask_annotation")
    with pytest.raises(InputError) as caught:
        read_release(spoiled)
    text = str(caught.value)
    assert "Found are Annotations, FINADiving_MTL_256s, diving_mask_annotation" in text
    assert "no folder FineDiving of frames: --config.data.frames_folder=FINADiving_MTL_256s" in text
    assert "no folder FineDiving_HM of masks: --config.data.masks_folder=diving_mask_annot" in text
    assert len(text.splitlines()) == 4
    folders = Folders("FINADiving_MTL_256s", "diving_mask_annotation")
    assert len(read_release(spoiled, folders=folders).splits["train"]) == 13


def test_annotations_inside_the_frames_are_found(spoiled):
    (spoiled / "Annotations").rename(spoiled / "FineDiving" / "Annotations")
    with pytest.raises(InputError, match="config.data.annotations_folder=FineDiving/Annotations"):
        read_release(spoiled)
    folders = Folders(annotations="FineDiving/Annotations")
    assert read_release(spoiled, folders=folders).warnings == ()


def test_problems_are_grouped_and_all_of_them_in_a_file(spoiled, tmp_path):
    train = _table(spoiled, "train")
    for key in train:
        folder = spoiled / "FineDiving_HM" / key[0] / str(key[1])
        for path in sorted(folder.iterdir())[:3]:
            path.unlink()
    coarse = _table(spoiled, "coarse")
    coarse[train[0]]["judge_scores"] = [-5.0]
    _write(spoiled, "coarse", coarse)
    with pytest.raises(ReleaseError) as caught:
        build_dataset(spoiled, tmp_path / "data")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{3 * len(train) + 1} problems in {len(train)} dives or tables")
    assert sum("missing, there is a frame of that name" in line for line in lines) == 5
    assert f"  ... and {3 * len(train) - 5} more of this kind" in lines
    assert sum("judge_scores is [-5.0]" in line for line in lines) == 1
    assert lines[-1] == f"All of them are in {tmp_path / 'data' / 'problems.json'}."
    rows = json.loads((tmp_path / "data" / "problems.json").read_text())
    assert len(rows) == 3 * len(train) + 1


def test_another_dive_s_folder_and_masks_without_foreground_are_warnings(spoiled, tmp_path):
    train = _table(spoiled, "train")
    coarse = _table(spoiled, "coarse")
    first = coarse[train[0]]["start_frame"]
    coarse[train[0]] = coarse[train[0]] | {"start_frame": 7}
    coarse[train[1]]["judge_scores"] = [45.0, 8.0, 55.5]  # both are in the real release
    _write(spoiled, "coarse", coarse)
    for path in _files(spoiled, "FineDiving_HM", train[2]):
        Image.new("L", (64, 36), 1).save(path, quality=95)
    said = []
    folder = build_dataset(spoiled, tmp_path / "data", say=said.append)
    rows = json.loads((folder / "warnings.json").read_text())
    assert [row["where"] for row in rows] == [f"{c}/{i}" for c, i in train[:3]]
    assert f"frames {first} to " in rows[0]["what"] and "another dive's folder?" in rows[0]["what"]
    assert "judge_scores is [45.0, 8.0, 55.5], no judge gives more than 10" in rows[1]["what"]
    assert rows[2]["what"] == "no mask has foreground, pixels from 128 to 255"
    assert said[0].startswith(f"3 things are unusual, all in {folder / 'warnings.json'}:\n  ")
    assert DiveSource(tmp_path / "data", "train").infos[1].judge_scores == (45.0, 8.0, 55.5)


def test_masks_of_zeros_and_ones_are_an_error(spoiled):
    for path in (spoiled / "FineDiving_HM").rglob("*.jpg"):
        Image.new("L", (64, 36), 1).save(path)
    with pytest.raises(ReleaseError, match="no mask of any dive has foreground.*multiplied by 255"):
        read_release(spoiled)


def test_a_small_diver_is_foreground(spoiled):
    key = _table(spoiled, "train")[0]
    for path in _files(spoiled, "FineDiving_HM", key):
        mask = Image.new("L", (64, 36))
        mask.paste(255, (20, 20, 23, 22))
        mask.save(path, quality=95)
    assert read_release(spoiled).warnings == ()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ((1, 1e300), "score is 1e+300, expected a number from 0.0 to 300.0"),
        ((1, -1.0), "score is -1.0, expected a number from 0.0 to 300.0"),
        ((1, float("nan")), "score is nan, expected"),
        ((1, [80.0]), "score is [80.0], expected"),
        ((1, 10**400), "score is 1000000000"),
        ((1, "80"), "score is '80', expected"),
        ((2, 1e-5), "difficulty is 1e-05, expected a number from 1.0 to 10.0"),
        ((2, None), "difficulty is None, expected"),
        ((0, ["407c"]), "unknown dive number: ['407c'] is no dive number"),
        ((3, "none"), "transit frames are no list of whole numbers"),
        ((3, [3.5]), "transit frames are no list of whole numbers"),
        ((3, [10**400]), "transit frames are no list of whole numbers"),
        ((4, [[1], [2]]), "frame labels are no list of whole numbers"),
        ((4, [2**63] * 3), "frame labels are no list of whole numbers"),
        ((4, {}), "frame labels are no list of whole numbers"),
        (("judge_scores", [-5.0]), "judge_scores is [-5.0], expected some numbers from 0.0 to 100"),
        (("judge_scores", []), "judge_scores is [], expected some numbers"),
        (("judge_scores", {1: 2}), "judge_scores is {1: 2}, expected some numbers"),
        (("judge_scores", [[8.0], 1]), "judge_scores is [[8.0], 1], expected some numbers"),
        (("judge_scores", ["8", None]), "judge_scores is ['8', None], expected some numbers"),
        (("judge_scores", [8.0] * 99), "judge_scores is [8.0, 8.0,"),
    ],
)
def test_values_that_cannot_be_are_named_and_hide_nothing(spoiled, change, what):
    train = _table(spoiled, "train")
    place, value = change
    table = "coarse" if place == "judge_scores" else "aqa"
    content = _table(spoiled, table)
    content[train[0]][place] = value
    _write(spoiled, table, content)
    next((spoiled / "FineDiving_HM" / train[1][0] / str(train[1][1])).iterdir()).unlink()
    problems = _problems(spoiled).problems
    assert problems[0].where == f"{train[0][0]}/{train[0][1]}" and what in problems[0].what
    assert problems[-1].where == f"{train[1][0]}/{train[1][1]}"  # and the others are found


def test_transit_frames_of_minus_one_are_kept(spoiled):
    key = _table(spoiled, "train")[0]
    aqa = _table(spoiled, "aqa")
    aqa[key][3] = np.array([-1, 12])
    _write(spoiled, "aqa", aqa)
    assert read_release(spoiled).splits["train"][0].info.transit_frames == (-1, 12)
