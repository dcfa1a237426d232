import json
import logging
import pathlib
import pickle
import shutil
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import demo
from finecausal_jax.commands import build as build_command
from finecausal_jax.data.dives import DATASET_NAME, DATASET_VERSION, DiveSource, dataset_folder
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.locks import only_one
from tfds_finecausal import building
from tfds_finecausal.annotations import FILES, ReleaseError
from tfds_finecausal.finediving_hm import finediving_hm_dataset_builder
from tfds_finecausal.release import read_release
from tfds_finecausal.rendered import render_release


@pytest.fixture(scope="module")
def built(small_release, tmp_path_factory) -> pathlib.Path:
    data_dir = tmp_path_factory.mktemp("built")
    folder = building.build_dataset(small_release, data_dir)
    assert folder == data_dir / DATASET_NAME / "release" / DATASET_VERSION
    return data_dir


@pytest.fixture(autouse=True)
def _quiet(caplog):
    # TFDS recommends OpenCV in a log record; Pillow is what we want.
    with caplog.at_level(logging.ERROR, "absl"):
        yield


def _names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# What TFDS keeps beside the data sets: which config is meant where none is named.
DEFAULT_CONFIG = [f"{DATASET_NAME}/.config", f"{DATASET_NAME}/.config/metadata.json"]


def test_only_the_data_set_is_left(built):
    folder = f"{DATASET_NAME}/release/{DATASET_VERSION}"
    assert _names(built) == [
        DATASET_NAME,
        *DEFAULT_CONFIG,
        f"{DATASET_NAME}/release",
        folder,
        f"{folder}/checksums.json",
        f"{folder}/dataset_info.json",
        f"{folder}/features.json",
        f"{folder}/finediving_hm-test.array_record-00000-of-00001",
        f"{folder}/finediving_hm-train.array_record-00000-of-00001",
        f"{folder}/metadata.json",
        f"{folder}/record_checksums.json",
    ]


def test_as_data_source_decodes(built, small_release):
    builder = tfds.builder_from_directory(dataset_folder(built, "release"))
    release = read_release(small_release)
    for split, dives in release.splits.items():
        source = builder.as_data_source(split)
        assert len(source) == len(dives)
        for row, dive in enumerate(dives):  # the order of the split pickles
            example, info = source[row], dive.info
            frames, masks = np.stack(example["frames"]), np.stack(example["masks"])
            count = len(info.frame_numbers)
            assert frames.shape == (count, 36, 64, 3) and frames.dtype == np.uint8
            assert masks.shape == (count, 36, 64, 1) and masks.dtype == np.uint8
            with Image.open(dive.frames[5]) as image:
                np.testing.assert_array_equal(frames[5], np.asarray(image))
            with Image.open(dive.masks[5]) as image:
                np.testing.assert_array_equal(masks[5, ..., 0], np.asarray(image))
            assert (example["competition"].decode(), example["index"]) == info.key
            assert example["dive_number"].decode() == info.dive_number
            assert example["score"] == info.score and example["difficulty"] == info.difficulty
            np.testing.assert_array_equal(example["frame_labels"], info.frame_labels)
            np.testing.assert_array_equal(example["frame_numbers"], info.frame_numbers)
            assert tuple(example["judge_scores"]) == info.judge_scores
            assert [name.decode() for name in example["sub_action_names"]] == [
                *info.sub_action_names
            ]
            assert tuple(example["transit_frames"]) == info.transit_frames


def test_stored_bytes_are_the_release_s(built, small_release):
    release = read_release(small_release)
    for split, dives in release.splits.items():
        source = DiveSource(built, split)
        for row, dive in enumerate(dives):
            stored = source[row]
            assert stored.frames == tuple(path.read_bytes() for path in dive.frames)
            assert stored.masks == tuple(path.read_bytes() for path in dive.masks)
            assert stored.info.to_json() == dive.info.to_json()


def test_masks_in_colour_are_stored_grey_with_the_same_pixels(spoiled, tmp_path):
    train = pickle.loads((spoiled / "Annotations" / FILES["train"]).read_bytes())
    masks = sorted((spoiled / "FineDiving_HM" / train[0][0] / str(train[0][1])).iterdir())
    for path in masks:
        with Image.open(path) as mask:
            mask.convert("RGB").save(path)
    folder = building.build_dataset(spoiled, tmp_path / "data")
    dive = DiveSource(tmp_path / "data", "train")[0]
    by_tfds = tfds.builder_from_directory(folder).as_data_source("train")[0]["masks"]
    for row, path in enumerate(masks):
        with Image.open(path) as mask:
            assert mask.mode == "RGB"
            grey = np.asarray(mask.convert("L"))
        np.testing.assert_array_equal(np.asarray(dive.clip.decode(row, "mask")), grey)
        np.testing.assert_array_equal(by_tfds[row], grey[..., np.newaxis])


def test_nothing_imports_tensorflow(small_release, tmp_path):
    # The finder claims that TensorFlow is installed and fails any import of it.
    code = """
        import importlib.machinery, pathlib, sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("tensorflow", "torch"):
                    return importlib.machinery.ModuleSpec(name, self)

            def create_module(self, spec):
                raise ImportError(f"something imports {spec.name}")

            def exec_module(self, module):
                raise ImportError

        sys.meta_path.insert(0, Refuse())
        from finecausal_jax.data.dives import DATASET_NAME, DiveSource
        from tfds_finecausal import building

        folder = building.build_dataset(sys.argv[1], sys.argv[2])
        dive = DiveSource(sys.argv[2], "test")[1]
        import tensorflow_datasets as tfds
        example = tfds.builder_from_directory(folder).as_data_source("test")[1]
        assert len(example["frames"]) == len(dive.frames)
        assert not {"tensorflow", "torch"} & set(sys.modules)
        print("fine without")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(small_release), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("fine without\n")


def test_bad_dives_stop_the_build_or_are_skipped(spoiled, tmp_path):
    train = pickle.loads((spoiled / "Annotations" / FILES["train"]).read_bytes())
    for key in train[:2]:
        next((spoiled / "FineDiving_HM" / key[0] / str(key[1])).iterdir()).unlink()
    data_dir = tmp_path / "data"
    with pytest.raises(ReleaseError) as caught:
        building.build_dataset(spoiled, data_dir)
    assert all(f"{key[0]}/{key[1]}: FineDiving_HM/" in str(caught.value) for key in train[:2])
    assert not list(data_dir.rglob("*_info.json")) and not list(data_dir.rglob("*array_record*"))
    folder = building.build_dataset(spoiled, data_dir, skip_bad=True)
    rows = json.loads((folder / "skipped.json").read_text())
    assert [row["where"] for row in rows] == [f"{key[0]}/{key[1]}" for key in train[:2]]
    assert [info.key for info in DiveSource(data_dir, "train").infos] == train[2:]
    before = _names(data_dir)
    said = []
    building.build_dataset(spoiled, data_dir, skip_bad=True, say=said.append)
    assert "kept as it is" in said[0] and _names(data_dir) == before
    with pytest.raises(ValueError, match="lacks dives that had problems.*: pass --overwrite"):
        building.build_dataset(spoiled, data_dir)


def test_an_interrupted_build_leaves_nothing(small_release, tmp_path, monkeypatch):
    examples = finediving_hm_dataset_builder._examples

    def interrupt(*arguments):
        for number, example in enumerate(examples(*arguments)):
            if number == 5:
                raise KeyboardInterrupt
            yield example

    monkeypatch.setattr(finediving_hm_dataset_builder, "_examples", interrupt)
    with pytest.raises(KeyboardInterrupt):
        building.build_dataset(small_release, tmp_path)
    assert _names(tmp_path) == [DATASET_NAME, *DEFAULT_CONFIG, f"{DATASET_NAME}/release"]
    with pytest.raises(ValueError, match="no built data set in"):
        DiveSource(tmp_path, "train")


def test_what_a_killed_build_left_is_cleared(small_release, tmp_path):
    stale = tmp_path / DATASET_NAME / "release" / f"incomplete.ABC123_{DATASET_VERSION}"
    stale.mkdir(parents=True)
    (stale / "dataset_info.json").write_text("{}")
    building.build_dataset(small_release, tmp_path)
    assert not stale.exists()
    assert len(DiveSource(tmp_path, "test")) == 3


def test_a_data_set_of_another_release_is_kept_or_replaced(
    built, small_release, small_settings, tmp_path, monkeypatch
):
    data_dir = tmp_path / "data"
    other = render_release(
        tmp_path / "other", workers=0, progress=False, seed=8, **{**small_settings, "test_dives": 2}
    )
    building.build_dataset(other, data_dir)
    keys = [info.key for info in DiveSource(data_dir, "test").infos]
    building.build_dataset(other, data_dir)  # the same release: kept
    with pytest.raises(ValueError, match="built from another release.*--overwrite"):
        building.build_dataset(small_release, data_dir)
    with monkeypatch.context() as context:  # a failing replacement puts the old one back
        context.setattr(finediving_hm_dataset_builder, "_shards", None)
        with pytest.raises(TypeError):
            building.build_dataset(small_release, data_dir, overwrite=True)
    assert [info.key for info in DiveSource(data_dir, "test").infos] == keys
    building.build_dataset(small_release, data_dir, overwrite=True)
    assert len(DiveSource(data_dir, "test")) == 3
    assert len(list((data_dir / DATASET_NAME / "release").iterdir())) == 1


def test_a_missing_release_is_answered_with_how_to_get_it(tmp_path):
    with pytest.raises(ValueError) as caught:
        building.build_dataset(tmp_path / "nowhere", tmp_path / "data")
    for words in ("agreement", "Annotations/train_split.pkl", "launch.py render"):
        assert words in str(caught.value)


def _build_flags(release, data_dir, overwrite=False, **data):
    config = demo.get_config()
    config.data.update(manual_dir=str(release), data_dir=str(data_dir), **data)
    return types.SimpleNamespace(config=config, skip_bad=False, overwrite=overwrite)


def test_build_command(small_release, tmp_path, capsys):
    assert build_command.NEEDS_CONFIG
    assert build_command.run(_build_flags(small_release, tmp_path)) == 0
    assert build_command.run(_build_flags(small_release, tmp_path, stored="resized")) == 0
    said = capsys.readouterr().out
    assert said.count("13 train dives, 3 test dives") == 2
    assert "/release/" in said and "/resized/" in said
    assert DiveSource(tmp_path, "test")[0].frames[0].startswith(b"\xff\xd8\xff")
    assert DiveSource(tmp_path, "test", resize=Resize(None, 48))[0].frames.shape[1:] == (48, 85, 3)
    with pytest.raises(ValueError, match="data.stored is 'shrunk', expected release or resized"):
        build_command.run(_build_flags(small_release, tmp_path, stored="shrunk"))


def test_corrected_images_are_read_when_asked(spoiled, tmp_path, capsys):
    data_dir = tmp_path / "data"
    build_command.run(_build_flags(spoiled, data_dir))
    assert "kept" not in capsys.readouterr().out
    train, test = (DiveSource(data_dir, split) for split in ("train", "test"))
    before = train[0]
    competition, index = before.info.key
    mask = min((spoiled / "FineDiving_HM" / competition / str(index)).iterdir())
    corrected = mask.with_name(f"{int(mask.stem) + 1:05d}.jpg").read_bytes()
    assert corrected != before.masks[0]
    mask.write_bytes(corrected)

    build_command.run(_build_flags(spoiled, data_dir))  # the annotations are the same
    folder = dataset_folder(data_dir, "release")
    said = capsys.readouterr().out
    assert f"kept as it is: {folder} has the annotations of {spoiled}; --overwrite builds" in said
    assert DiveSource(data_dir, "train")[0].masks == before.masks
    build_command.run(_build_flags(spoiled, data_dir, overwrite=True))
    assert "kept" not in capsys.readouterr().out
    again = DiveSource(data_dir, "train")
    assert again[0].masks == (corrected, *before.masks[1:])
    # By which a bank of the split with the corrected mask is found to be stale.
    assert again.fingerprint != train.fingerprint
    assert DiveSource(data_dir, "test").fingerprint == test.fingerprint
    assert len(list(folder.parent.iterdir())) == 1


def test_shards_follow_tfds(small_release):
    dives = read_release(small_release).splits["train"]
    # 150 MiB are two shards of TFDS's at least 64 MiB.
    heavy = [types.SimpleNamespace(num_bytes=150 * 2**20 // len(dives)) for _ in dives]
    shards = finediving_hm_dataset_builder._shards(tuple(heavy), None)
    spans = [shard.args[1:3] for shard in shards]
    assert len(spans) >= 2 and spans[0][0] == 0 and spans[-1][1] == len(dives)
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]


@pytest.mark.parametrize(
    ("name", "damage"),
    [("metadata.json", "cut"), ("features.json", "gone"), ("train", "gone"), ("train", "flipped")],
)
def test_what_cannot_be_read_is_not_kept(small_release, built, tmp_path, name, damage):
    shutil.copytree(built, tmp_path / "data")
    folder = dataset_folder(tmp_path / "data", "release")
    (path,) = folder.glob(f"*{name}*")
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        place = len(data) // 5
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        path.write_bytes(flipped if damage == "flipped" else data[:place])
    with pytest.raises(InputError, match="is damaged: build it again with .*--overwrite"):
        building.build_dataset(small_release, tmp_path / "data")


def test_two_builds_at_once_are_refused(small_release, tmp_path):
    used = pytest.raises(InputError, match="data is in use by a build, process")
    with only_one(tmp_path / "data", "a build"), used:
        building.build_dataset(small_release, tmp_path / "data")
