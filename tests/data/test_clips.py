"""Clips: their parts fit each other, and a folder of frames is checked before it is used."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from synthetic_dives import encode, make_dive, make_info, with_images

from finecausal_jax.data.clips import LIMITS, Clip, Limits, read_folder
from finecausal_jax.data.dives import Dive, DiveSource
from finecausal_jax.data.resizing import Resize
from finecausal_jax.data.sources import ClipList, Clips, Dives
from tests.reliability.forged_images import jpeg_of, many_scans, png_of
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release


def grey(level, size=(6, 4)):
    return np.full((size[1], size[0], 3), level, np.uint8)


NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def write(folder, names, suffix=".png"):
    """Writes a frame a name, each of another grey; returns the bytes of each."""
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(names):
        kind = "JPEG" if suffix.startswith(".j") else "PNG"
        (folder / f"{name}{suffix}").write_bytes(encode(grey(10 * place), kind))
    return {name: (folder / f"{name}{suffix}").read_bytes() for name in names}


# --- A folder of frames -----------------------------------------------------------------------


def test_the_folder_of_a_rendered_dive_gives_the_clip_of_its_record(tmp_path):
    sizes = dict(frames=(20, 22), width=48, height=32, dive_numbers=2)
    release = render_release(
        tmp_path / "release", train_dives=3, test_dives=2, workers=0, progress=False, **sizes
    )
    build_dataset(release, tmp_path / "data")
    for dive in DiveSource(tmp_path / "data", "test"):
        frames, masks = (
            release / kind / dive.info.competition / str(dive.info.index)
            for kind in ("FineDiving", "FineDiving_HM")
        )
        clip = read_folder(frames, masks, key=dive.key)
        assert clip.frames == dive.clip.frames and clip.masks == dive.clip.masks
        assert clip.frame_numbers.tolist() == dive.info.frame_numbers.tolist()
        assert clip.frame_numbers.dtype == np.int64
        assert Dive(dive.info, clip).masks == dive.masks


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["9", "10", "11"], [9, 10, 11]),
        (["00489", "00490", "00491"], [489, 490, 491]),
        (["shot-2_8", "shot-2_9", "shot-2_10"], [8, 9, 10]),  # as text, 10 would come first
        (["a", "b1", "c"], [0, 1, 2]),
        (["left1", "right1"], [0, 1]),
    ],
)
def test_frames_are_ordered_and_numbered_by_their_names(tmp_path, names, numbers):
    images = write(tmp_path / "jump", names)
    clip = read_folder(tmp_path / "jump")
    assert clip.frames == tuple(images[name] for name in names)
    assert clip.frame_numbers.tolist() == numbers
    assert clip.key == ("jump", 0) and clip.masks is None and clip.resize is None


def test_masks_are_matched_by_name_and_other_files_passed_over(tmp_path):
    write(tmp_path / "frames", ["1", "2", "3"], ".JPG")
    masks = write(tmp_path / "masks", ["0", "1", "2", "3", "4"])
    for folder in ("frames", "masks"):
        (tmp_path / folder / "notes.txt").write_text("")
        (tmp_path / folder / "._1.jpg").write_text("a Mac was here")
        (tmp_path / folder / "5.png").mkdir()
    clip = read_folder(tmp_path / "frames", tmp_path / "masks", key=("mine", 7))
    assert clip.masks == (masks["1"], masks["2"], masks["3"])
    assert clip.key == ("mine", 7)
    (tmp_path / "masks" / "2.png").unlink()
    message = re.escape(f"no mask for 1 of 3 frames, the first being {tmp_path}/frames/2.JPG")
    with pytest.raises(ValueError, match=f"{tmp_path}/masks has {message}"):
        read_folder(tmp_path / "frames", tmp_path / "masks")


def test_gaps_are_refused_unless_the_numbers_are_times(tmp_path):
    write(tmp_path, ["00033", "00034", "00066"])
    with pytest.raises(ValueError, match=f"{tmp_path} has no frame 35 between 00034.png and 00066"):
        read_folder(tmp_path)
    clip = read_folder(tmp_path, timed=True)
    assert clip.timed and clip.frame_numbers.tolist() == [33, 34, 66]
    write(tmp_path, ["34"])
    with pytest.raises(ValueError, match=f"{tmp_path}/00034.png and 34.png are both frame 34"):
        read_folder(tmp_path, timed=True)


def test_folders_that_hold_nothing_to_read_are_named(tmp_path):
    with pytest.raises(ValueError, match="gone does not exist, expected a folder of JPEG or PNG"):
        read_folder(tmp_path / "gone")
    (tmp_path / "dive.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="dive.mp4 is a file, expected a folder of JPEG or PNG"):
        read_folder(tmp_path / "dive.mp4")
    with pytest.raises(ValueError, match=r"has no images, expected files named \.jpg, \.jpeg, "):
        read_folder(tmp_path)
    write(tmp_path, ["1"], ".png")
    write(tmp_path, ["1"], ".jpg")
    with pytest.raises(ValueError, match=r"1\.jpg and 1\.png have the same name, expected one"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty, expected JPEG or PNG"),
        (
            b"<html>no such picture</html>",
            "is an HTML page, as a failed download leaves",
        ),
        (encode(grey(0), "BMP"), "is a BMP file, expected JPEG or PNG"),
        (b"\x89PNG\r\n\x1a\n", "is no whole JPEG or PNG file, expected one"),
        (encode(NOISE, "JPEG")[:4000], "cannot be decoded .image file is truncated"),
        (encode(NOISE, "PNG")[:4000], "cannot be decoded .image file is truncated"),
        (encode(grey(0, (7, 4)), "PNG"), "is 7 x 4 pixels, expected 6 x 4 like the first frame"),
    ],
    ids=["empty", "html", "bmp", "head", "cut_jpeg", "cut_png", "size"],
)
@pytest.mark.parametrize("kind", ["frames", "masks"])
def test_unusable_files_are_named(tmp_path, kind, data, message):
    for folder in ("frames", "masks"):
        write(tmp_path / folder, ["1", "2", "3"])
    (tmp_path / kind / "3.png").write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/{kind}/3.png ") + message):
        read_folder(tmp_path / "frames", tmp_path / "masks")


def test_limits_are_checked_before_any_image_is_decoded(tmp_path):
    write(tmp_path, ["1", "2", "3"])
    with pytest.raises(ValueError, match=f"{tmp_path} has 3 images, expected at most 2: keep"):
        read_folder(tmp_path, limits=dataclasses.replace(LIMITS, images=2))
    with pytest.raises(ValueError, match=r"1\.png is 6 x 4 pixels, expected at most 23: store"):
        read_folder(tmp_path, limits=dataclasses.replace(LIMITS, pixels=23))
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"have {total} bytes, expected at most {total - 1}"):
        read_folder(tmp_path, limits=dataclasses.replace(LIMITS, size=total - 1))
    read_folder(tmp_path, limits=Limits(images=3, pixels=24, size=total))


@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow warns of the first, refuses the second
@pytest.mark.parametrize("forge", [png_of, jpeg_of])
def test_images_that_unpack_to_gigabytes_are_refused(tmp_path, side, forge):
    (tmp_path / "1.png").write_bytes(forge(side, side))
    with pytest.raises(ValueError, match=rf"1\.png is {side} x {side} pixels, expected at"):
        read_folder(tmp_path)


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    data = many_scans(4000)
    (tmp_path / "1.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=r"1\.jpg is a JPEG of 40\d\d scans of 6 x 4 .*baseline"):
        read_folder(tmp_path)
    (tmp_path / "1.jpg").write_bytes(many_scans(50))
    assert len(read_folder(tmp_path).frames) == 1


# --- Parts that fit each other ----------------------------------------------------------------


def test_a_clip_has_one_of_each_a_frame():
    dive = make_dive(make_info(4))
    dive.clip.check()
    short = dataclasses.replace(dive.clip, frames=dive.frames[1:])
    with pytest.raises(ValueError, match="12 frame numbers, 11 frames and 12 masks, expected one"):
        short.check()
    bare = dataclasses.replace(dive.clip, masks=None)
    bare.check()
    with pytest.raises(ValueError, match=r"\('Test Cup', 4\) has 12 frame numbers and 11 frames"):
        dataclasses.replace(bare, frames=dive.frames[1:]).check()
    falling = dataclasses.replace(bare, frame_numbers=np.array([*range(11), 10]))
    with pytest.raises(ValueError, match="has frame number 10 after 10, expected ascending ones"):
        falling.check()


def test_pixels_come_with_their_resize():
    pixels = np.zeros((3, 4, 6, 3), np.uint8)
    Clip(("a", 0), np.arange(3), pixels, resize=Resize(6, 4)).check()
    with pytest.raises(ValueError, match=r"\('a', 0\) has pixels but no resize: expected"):
        Clip(("a", 0), np.arange(3), pixels).check()
    with pytest.raises(ValueError, match="has no pixels but a resize: expected"):
        Clip(("a", 0), np.arange(3), (b"",) * 3, resize=Resize(6, 4)).check()


def test_labels_belong_to_their_clip():
    dive = make_dive(make_info(4))
    assert dive.key == dive.info.key and dive.frames is dive.clip.frames
    with pytest.raises(ValueError, match="12 frame numbers, 11 labels, 12 frames and 12 masks"):
        Dive(dataclasses.replace(dive.info, frame_labels=dive.info.frame_labels[1:]), dive.clip)
    with pytest.raises(ValueError, match=r"\('Test Cup', 4\) is not of the dive \('Test Cup', 5\)"):
        Dive(make_info(5), dive.clip)
    with pytest.raises(ValueError, match="for the frames 489 to 500, the clip has 490 to 501: exp"):
        with_images(dive, frame_numbers=dive.info.frame_numbers + 1)


def test_clips_at_hand_are_a_source():
    dive = make_dive(make_info(4))
    bare = dataclasses.replace(dive.clip, key=("mine", 0), masks=None)
    source = ClipList([dive, bare])
    assert isinstance(source, Clips) and not isinstance(source, Dives)
    assert len(source) == 2 and source.keys == (("Test Cup", 4), ("mine", 0))
    assert source[0] is dive and source[1] is bare
    assert repr(source) == "ClipList(clips=2)"
    with pytest.raises(ValueError, match=r"two clips have the key \('mine', 0\): expected another"):
        ClipList([bare, dive, bare])
