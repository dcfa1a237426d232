"""Pixels stored resized: the same batches as from the release's bytes, or a refusal."""

import dataclasses
import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import demo
from finecausal_jax.data import pipeline, preprocessing
from finecausal_jax.data.dives import DiveSource, dataset_folder
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.resizing import Resize
from finecausal_jax.settings import read
from finecausal_jax.settings.config import differences
from finecausal_jax.settings.schema import FIXED_ON_RESUME
from tfds_finecausal import building
from tfds_finecausal.release import read_release
from tfds_finecausal.resized_images import ResizedImages

SQUEEZED = Preprocessing(frames=12, frame_size=16, resize_width=16, resize_height=28)
KEPT = dataclasses.replace(SQUEEZED, keep_aspect=True)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    # TFDS recommends OpenCV in a log record; Pillow is what we want.
    with caplog.at_level(logging.ERROR, "absl"):
        yield


@pytest.fixture(scope="module")
def built(small_release, tmp_path_factory):
    """Data folders by setting; each has both builder configs."""
    folders = {}
    for settings in (SQUEEZED, KEPT):
        folder = folders[settings] = tmp_path_factory.mktemp("resized")
        building.build_dataset(small_release, folder, resize=settings.resize)
    building.build_dataset(small_release, folders[SQUEEZED])
    release = dataset_folder("", "release").parent
    shutil.copytree(folders[SQUEEZED] / release, folders[KEPT] / release)
    return folders


def _sources(folder, split, settings):
    return DiveSource(folder, split), DiveSource(folder, split, resize=settings.resize)


@pytest.mark.parametrize("settings", [SQUEEZED, KEPT], ids=["squeezed", "kept"])
def test_batches_are_those_of_the_release_bit_for_bit(built, settings):
    release, resized = _sources(built[settings], "train", settings)
    assert repr(release) == repr(resized)  # a run may go on with the other
    options = dict(batch_size=3, seed=4, epochs=3)
    pairs = [
        list(pipeline.training_batches(source, settings, **options))
        for source in (release, resized)
    ]
    assert len(pairs[0]) == 13
    jax.tree.map(np.testing.assert_array_equal, *pairs)
    seen = np.concatenate([batch["query"]["frames"] for batch in pairs[0]])
    assert seen.std() > 10  # not black for black

    release, resized = _sources(built[settings], "test", settings)
    videos = [
        list(pipeline.evaluation_videos(source, settings, range(3), batch_size=2))
        for source in (release, resized)
    ]
    jax.tree.map(np.testing.assert_array_equal, *videos)


def test_every_draw_of_training_is_the_same(built):
    # Both flips, all four ends and crops at both edges, of a frame finer than its crop.
    release, resized = _sources(built[KEPT], "train", KEPT)
    left, right = release[0], resized[0]
    for seed in range(30):
        videos = [
            preprocessing.training_video(dive, KEPT, np.random.default_rng(seed))
            for dive in (left, right)
        ]
        for name in ("frames", "mask", "rows"):
            first, second = (getattr(video, name) for video in videos)
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype


def test_all_frames_are_stored_once_in_the_release_s_order(built, small_release):
    source = DiveSource(built[KEPT], "train", resize=KEPT.resize)
    for row, dive in enumerate(read_release(small_release).splits["train"][:2]):
        stored = source[row]
        assert stored.frames.shape == (len(dive.frames), 28, 50, 3)  # 64 x 36 to height 28
        assert stored.masks.shape == (len(dive.frames), 28, 50)
        for kind, paths in (("frames", dive.frames), ("masks", dive.masks)):
            for number in (0, 7, len(paths) - 1):
                with Image.open(paths[number]) as image:
                    pixels = np.asarray(image.resize((50, 28), Image.Resampling.BILINEAR))
                np.testing.assert_array_equal(getattr(stored, kind)[number], pixels)


def test_tfds_reads_it_too(built):
    builder = tfds.builder_from_directory(dataset_folder(built[SQUEEZED], "resized"))
    example = builder.as_data_source("test")[1]
    stored = DiveSource(built[SQUEEZED], "test", resize=SQUEEZED.resize)[1]
    np.testing.assert_array_equal(example["frames"], stored.frames)
    np.testing.assert_array_equal(example["masks"], stored.masks)
    assert example["dive_number"].decode() == stored.info.dive_number
    assert builder.info.metadata["resize"] == {"width": 16, "height": 28}


def test_a_run_may_go_on_with_the_other_data_set():
    config = demo.get_config()
    before = read(config)
    config.data.stored = "resized"
    assert differences(before, read(config), FIXED_ON_RESUME) == []
    config.data.resize_height = 60
    assert len(differences(before, read(config), FIXED_ON_RESUME)) == 1


def test_another_size_is_refused(built, small_release):
    folder = built[SQUEEZED]
    with pytest.raises(ValueError) as caught:
        DiveSource(folder, "train", resize=Resize(32, 57))
    for words in (
        "resized to 16 x 28, the config asks for 32 x 57",
        "build again with --overwrite --config.data.stored=resized",
        "another config.data.data_dir",
        "--config.data.stored=release",
    ):
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="to height 28, aspect kept, the config asks for 16 x 28"):
        DiveSource(built[KEPT], "train", resize=SQUEEZED.resize)
    with pytest.raises(ValueError, match="resized to 16 x 28, .* 16 x 30: pass --overwrite"):
        building.build_dataset(small_release, folder, resize=Resize(16, 30))
    # The crop is taken from what is stored, so its size is free.
    narrow = dataclasses.replace(SQUEEZED, frames=5, frame_size=8)
    DiveSource(folder, "train", resize=narrow.resize)
    other = dataclasses.replace(SQUEEZED, resize_height=30)
    dive = DiveSource(folder, "train", resize=SQUEEZED.resize)[0]
    with pytest.raises(ValueError, match=r"dive \('.*\) was stored resized to 16 x 28, .* 16 x 30"):
        preprocessing.evaluation_video(dive.clip, other)


@pytest.fixture
def copied(built, tmp_path):
    """A copy of the squeezed data sets that a test may change."""
    return pathlib.Path(shutil.copytree(built[SQUEEZED], tmp_path / "data"))


def test_a_set_that_was_not_built_or_not_resized_is_refused(copied):
    release, resized = (copied / "finediving_hm" / name for name in ("release", "resized"))
    resized.rename(copied / "aside")
    with pytest.raises(ValueError, match="no built data set in .*stored=resized` first"):
        DiveSource(copied, "train", resize=SQUEEZED.resize)
    # Folders moved by hand.
    release.rename(resized)
    with pytest.raises(ValueError, match="were not resized, the config asks for 16 x 28: build"):
        DiveSource(copied, "train", resize=SQUEEZED.resize)
    (copied / "aside").rename(release)
    with pytest.raises(ValueError, match="were resized to 16 x 28, the config asks for unresized"):
        DiveSource(copied, "train")


def test_a_set_of_another_size_is_replaced_when_asked(copied, small_release):
    folder = dataset_folder(copied, "resized")
    shard = next(folder.glob("*test*array_record*")).stat().st_mtime_ns
    building.build_dataset(small_release, copied, resize=SQUEEZED.resize)
    assert next(folder.glob("*test*array_record*")).stat().st_mtime_ns == shard  # kept
    before = json.loads((folder / "metadata.json").read_text())
    building.build_dataset(small_release, copied, resize=Resize(None, 20), overwrite=True)
    after = json.loads((folder / "metadata.json").read_text())
    assert before["resize"] == {"width": 16, "height": 28}
    assert after["resize"] == {"width": None, "height": 20}
    assert before["fingerprint"] == after["fingerprint"]
    assert DiveSource(copied, "test", resize=Resize(None, 20))[0].frames.shape[1:3] == (20, 36)


def test_images_that_are_too_narrow_for_the_crop_are_named(built):
    wide = dataclasses.replace(KEPT, frame_size=28, resize_height=28)
    dive = DiveSource(built[KEPT], "train", resize=wide.resize)[0]
    images = {"frames": dive.frames[:, :, :20], "masks": dive.masks[:, :, :20]}
    narrow = dataclasses.replace(dive, clip=dataclasses.replace(dive.clip, **images))
    with pytest.raises(ValueError, match=r"dive \('.*20 pixels wide, expected at least frame_size"):
        preprocessing.evaluation_video(narrow.clip, wide)


def test_coloured_masks_become_grey_before_they_are_resized(tmp_path):
    rng = np.random.default_rng(0)
    mask = Image.fromarray(rng.integers(0, 256, (36, 64, 3), np.uint8))
    mask.save(tmp_path / "00001.jpg")
    with Image.open(tmp_path / "00001.jpg") as image:
        expected = image.convert("L").resize((16, 28), Image.Resampling.BILINEAR)
    stored = np.asarray(ResizedImages((tmp_path / "00001.jpg",), "L", Resize(16, 28)))
    np.testing.assert_array_equal(stored, np.asarray(expected)[None])


def test_a_resize_that_does_not_commute_with_mirroring_is_refused(small_release):
    class Lopsided(Resize):
        def __call__(self, image):
            return super().__call__(image.crop((0, 0, image.width - 9, image.height)))

    dive = read_release(small_release).splits["train"][0]
    with pytest.raises(ValueError, match=r"\d{5}\.jpg: resized to 16 x 28 its mirror image is not"):
        np.asarray(ResizedImages(dive.frames, "RGB", Lopsided(16, 28)))
