"""Releases with videos in place of frames, with masks of other tools, and without masks."""

import dataclasses
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from finecausal_jax.data import pipeline
from finecausal_jax.data.dives import DiveSource
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.resizing import Resize
from finecausal_jax.runtime.errors import InputError
from tests.data import videos
from tfds_finecausal.annotations import Folders, ReleaseError
from tfds_finecausal.building import build_dataset
from tfds_finecausal.release import read_release

SIZES = Preprocessing(frames=8, frame_size=16, resize_width=16, resize_height=32)


def folders(release, kind):
    return sorted(path for path in (release / kind).glob("*/*") if path.is_dir())


def images(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def as_videos(release, codec="ffv1", pixels="bgr0", suffix=".mkv"):
    """Puts a video in the place of some folders of frames; each takes a process to decode."""
    for folder in folders(release, "FineDiving")[:1]:
        path = folder.with_name(folder.name + suffix)
        videos.write(path, np.stack(images(folder)), codec, pixels)
        shutil.rmtree(folder)


def built(release, place, **options):
    folder = build_dataset(release, place, **options)
    resize = options.get("resize")
    return {split: DiveSource(place, split, resize=resize) for split in ("train", "test")}, folder


def batches(source, count=3):
    found = pipeline.training_batches(source, SIZES, batch_size=4, seed=0, workers=0)
    return [next(found) for _ in range(count)]


def assert_same(found, want):
    for one, other in zip(found, want, strict=True):
        for side in ("query", "exemplar"):
            assert one[side].keys() == other[side].keys()
            for name in one[side]:
                np.testing.assert_array_equal(one[side][name], other[side][name], err_msg=name)


def test_a_lossless_video_gives_the_batches_of_its_frames(spoiled, small_release, tmp_path):
    want, _ = built(small_release, tmp_path / "frames")
    as_videos(spoiled)
    found, _ = built(spoiled, tmp_path / "videos")
    assert [one.key for one in found["train"].infos] == [one.key for one in want["train"].infos]
    assert_same(batches(found["train"]), batches(want["train"]))
    # And so do pixels stored resized.
    resized, _ = built(spoiled, tmp_path / "videos", resize=Resize(16, 32))
    assert_same(batches(resized["train"]), batches(want["train"]))


def test_a_compressed_video_differs_by_its_compression_alone(spoiled, small_release, tmp_path):
    want, _ = built(small_release, tmp_path / "frames")
    as_videos(spoiled, "libx264", "yuv420p", ".mp4")
    found, _ = built(spoiled, tmp_path / "videos")
    pairs = zip(batches(found["train"]), batches(want["train"]), strict=True)
    apart = [np.abs(a["query"]["frames"].astype(int) - b["query"]["frames"]) for a, b in pairs]
    assert 0 < np.mean(apart) < 8


def test_a_video_that_does_not_fit_its_labels_is_a_problem(spoiled):
    folder = folders(spoiled, "FineDiving")[0]
    frames = np.stack(images(folder))
    videos.write(folder.with_name(folder.name + ".mkv"), frames[:-3])
    with pytest.raises(ReleaseError, match="a video beside a folder of frames"):
        read_release(spoiled)
    shutil.rmtree(folder)
    with pytest.raises(ReleaseError, match=f"frame labels for {len(frames) - 3} frames"):
        read_release(spoiled)
    folder.with_name(folder.name + ".mkv").write_bytes(b"not a video")
    with pytest.raises(ReleaseError, match=r"\.mkv: is no video that FFmpeg can read"):
        read_release(spoiled)


@pytest.mark.parametrize("kind", ["0 and 255", "0 and 1", "bilevel", "palette", "colour"])
def test_masks_of_any_tool(kind, spoiled, tmp_path):
    def as_png(image):
        on = image >= 128
        if kind == "bilevel":
            return Image.fromarray(on)
        if kind == "colour":
            return Image.fromarray(np.stack([255 * on.astype(np.uint8)] * 3, -1))
        mask = Image.fromarray(on.astype(np.uint8) * (255 if kind == "0 and 255" else 1))
        if kind == "palette":
            mask = mask.convert("P")
            mask.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
        return mask

    want = {}
    for folder in folders(spoiled, "FineDiving_HM"):
        for path in sorted(folder.iterdir()):
            image = np.asarray(Image.open(path))
            want[(folder.parent.name, folder.name, path.stem)] = 255 * (image >= 128)
            as_png(image).save(path.with_suffix(".png"))
            path.unlink()
    sources, _ = built(spoiled, tmp_path / "data")
    for source in sources.values():
        dive = source[0]
        assert dive.info.has_masks
        for number, data in zip(dive.info.frame_numbers, dive.masks, strict=True):
            mask = np.asarray(Image.open(io.BytesIO(data)))
            key = (dive.key[0], str(dive.key[1]), f"{number:05d}")
            np.testing.assert_array_equal(mask, want[key])


@pytest.mark.parametrize("resize", [None, Resize(16, 32)])
def test_a_release_without_masks(spoiled, tmp_path, resize):
    shutil.rmtree(spoiled / "FineDiving_HM")
    with pytest.raises(InputError, match="if there are none, --config.data.masks=none"):
        read_release(spoiled)
    sources, _ = built(spoiled, tmp_path / "data", resize=resize, folders=Folders(masked="none"))
    for source in sources.values():
        assert not any(info.has_masks for info in source.infos)
        assert source[0].masks is None


def test_some_dives_without_masks(spoiled, tmp_path):
    folder = folders(spoiled, "FineDiving_HM")[0]
    shutil.rmtree(folder)
    with pytest.raises(ReleaseError, match="missing folder"):
        read_release(spoiled)
    sources, _ = built(spoiled, tmp_path / "data", folders=Folders(masked="some"))
    infos = [info for source in sources.values() for info in source.infos]
    (without,) = [info.key for info in infos if not info.has_masks]
    assert without == (folder.parent.name, int(folder.name))


def test_tables_from_before_there_were_dives_without_masks(small_release):
    info = read_release(small_release).splits["train"][0].info
    assert "has_masks" not in info.to_json()
    assert type(info).from_json(info.to_json()).has_masks
    without = dataclasses.replace(info, has_masks=False)
    assert not type(info).from_json(without.to_json()).has_masks
