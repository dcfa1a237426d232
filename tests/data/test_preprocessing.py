"""Frames to tensors: the reference's pixels, the rules of sampling, errors that name the dive."""

from __future__ import annotations

import dataclasses
import re

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from PIL import Image
from synthetic_dives import FIRST_FRAME, encode, labelled, make_dive, make_info, with_images

from finecausal_jax.data import preprocessing
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.resizing import Resize
from finecausal_jax.data.sampling import label_transitions, sample_frames

SMALL = Preprocessing(frames=6, frame_size=8, resize_width=10, resize_height=12)


# --- Parity -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case(reference_cases):
    with np.load(reference_cases / "preprocessing.npz") as file:
        return dict(file)


def channels_first(frames):
    return np.moveaxis(preprocessing.normalize(frames), -1, 0)


# One grey level is at least 0.017 after normalisation, so 1e-6 asks for the same pixels.
EXACT = {"rtol": 0, "atol": 1e-6}


def test_evaluation_pixels_equal_the_reference(case):
    frames, mask = preprocessing.preprocess_frames(case["frames"], case["masks"], Preprocessing())
    np.testing.assert_allclose(channels_first(frames), case["eval_video"], **EXACT)
    np.testing.assert_allclose(preprocessing.scale_mask(mask)[None], case["eval_mask"], **EXACT)


@pytest.mark.parametrize("name", ["train_1", "train_2"])
def test_training_pixels_equal_the_reference(case, name):
    flip, left, top = (int(value) for value in case[f"{name}_flip_left_top"])
    frames, mask = preprocessing.preprocess_frames(
        case["frames"][:1], case["masks"][:1], Preprocessing(), flip=bool(flip), left=left, top=top
    )
    np.testing.assert_allclose(channels_first(frames), case[f"{name}_video"], **EXACT)
    np.testing.assert_allclose(preprocessing.scale_mask(mask)[None], case[f"{name}_mask"], **EXACT)


def test_encoded_dive_equals_the_reference(case):
    # PNG, which loses nothing, stands in for the JPEG files of a release.
    info = make_info(0, frames=3)
    frames = tuple(encode(one, "PNG") for one in case["frames"])
    masks = tuple(encode(one, "PNG") for one in case["masks"])
    clip = labelled(info, frames, masks).clip
    video = preprocessing.evaluation_video(clip, Preprocessing(frames=3))
    np.testing.assert_allclose(channels_first(video.frames), case["eval_video"], **EXACT)
    np.testing.assert_allclose(
        preprocessing.scale_mask(video.mask)[None], case["eval_mask"], **EXACT
    )
    assert info.transitions(video.rows).tolist() == [1, 2]


def test_normalize_is_the_same_under_jit(case):
    frames = case["frames"][:, :4, :5]
    # XLA multiplies by reciprocals: two roundings of float32 on values up to 2.6.
    np.testing.assert_allclose(
        jax.jit(preprocessing.normalize)(frames), preprocessing.normalize(frames), atol=1e-6
    )
    black_and_white = preprocessing.normalize(np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
    expected = [[-2.117904, -2.035714, -1.804444], [2.248908, 2.428571, 2.64]]
    np.testing.assert_allclose(black_and_white, expected, atol=1e-6)
    assert black_and_white.dtype == np.float32
    assert preprocessing.scale_mask(np.array([0, 51, 255], np.uint8)).tolist() == [
        0.0,
        np.float32(0.2),
        1.0,
    ]


# --- Sampling and transitions -----------------------------------------------------------------


def test_sampling_truncates_frame_numbers():
    # 489 + [0, 2.2, 4.4, 6.6, 8.8, 11]
    assert sample_frames(np.arange(489, 501), 6).tolist() == [0, 2, 4, 6, 8, 11]
    assert sample_frames(np.arange(489, 501), 6, shift=-3).tolist() == [0, 1, 3, 4, 6, 8]


def test_sampling_repeats_frames_of_short_dives():
    assert sample_frames(np.arange(7, 10), 6).tolist() == [0, 0, 0, 1, 1, 2]
    assert sample_frames(np.arange(7, 9), 4, shift=-3).tolist() == [0, 0, 0, 0]


def test_sampling_rejects_gaps():
    with pytest.raises(ValueError, match="frame 00003 is missing between frames 00001 and 00005"):
        sample_frames(np.array([1, 2, 4, 5]), 5)
    with pytest.raises(ValueError, match="there are no frames"):
        sample_frames(np.array([], np.int64), 5)


def test_times_take_the_last_frame_that_has_come():
    # Even times are 0, 25, 50, 75, 100.
    times = np.array([0, 26, 50, 74, 100])
    assert sample_frames(times, 5, timed=True).tolist() == [0, 0, 2, 3, 4]
    assert sample_frames(np.array([7]), 3, timed=True).tolist() == [0, 0, 0]


@hypothesis.given(
    first=st.integers(1, 99_000),
    length=st.integers(1, 300),
    frames=st.integers(2, 120),
    shift=st.integers(-3, 0),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_sampling_spans_the_dive(first, length, frames, shift):
    rows = sample_frames(np.arange(first, first + length), frames, shift=shift)
    last = max(0, length - 1 + shift)
    assert rows.shape == (frames,)
    assert rows[0] == 0 and rows[-1] == last
    assert np.all(np.diff(rows) >= 0)
    # No frame is further from its even place than truncation takes it.
    even = np.arange(frames) * last / (frames - 1)
    assert np.all(even - rows < 1 + 1e-6) and np.all(even - rows > -1e-6)


def test_transitions_of_returning_and_of_two_labels():
    assert label_transitions(np.array([5, 5, 9, 5, 5, 2, 9])).tolist() == [2, 5]
    assert label_transitions(np.array([5, 5, 5, 9])).tolist() == [3, 3]
    with pytest.raises(ValueError, match="all sampled frames carry the label 5"):
        label_transitions(np.array([5, 5, 5]))


@hypothesis.given(st.lists(st.integers(1, 5), min_size=2, max_size=40))
@hypothesis.settings(deadline=None, max_examples=60)
def test_transitions_are_first_appearances(labels):
    distinct = list(dict.fromkeys(labels))
    hypothesis.assume(len(distinct) > 1)
    start, end = label_transitions(np.array(labels))
    assert (start, end) == (labels.index(distinct[1]), labels.index(distinct[-1]))
    assert 1 <= start <= end <= len(labels) - 1


# --- Whole videos -----------------------------------------------------------------------------


def grey_levels(video):
    """The frame each image came from, read off its left edge (see `make_dive`)."""
    return np.rint(video.frames[:, 0, 0].mean(-1) / 8).astype(int).tolist()


def test_evaluation_video_samples_resizes_and_crops():
    dive = make_dive(make_info(3))
    video = preprocessing.evaluation_video(dive.clip, SMALL)
    assert video.frames.shape == (6, 8, 8, 3) and video.frames.dtype == np.uint8
    assert video.mask.shape == (6, 8, 8) and video.mask.dtype == np.uint8
    assert grey_levels(video) == [0, 2, 4, 6, 8, 11]
    np.testing.assert_allclose(video.mask[:, 4, 4], np.array([0, 2, 4, 6, 8, 11]) * 8, atol=2)
    np.testing.assert_allclose(video.frames[:, :, -1], 255 - 4 * 3, atol=2)
    # Labels of the sampled frames: 1 1 20 20 37 37.
    assert video.rows.tolist() == [0, 2, 4, 6, 8, 11] and video.rows.dtype == np.int64
    transitions = dive.info.transitions(video.rows)
    assert transitions.tolist() == [2, 4] and transitions.dtype == np.int32


def test_the_mask_changes_no_frame_and_may_be_missing():
    dive = make_dive(make_info(3))
    bare = preprocessing.evaluation_video(dataclasses.replace(dive.clip, masks=None), SMALL)
    with_mask = preprocessing.evaluation_video(dive.clip, SMALL)
    assert bare.mask is None
    np.testing.assert_array_equal(bare.frames, with_mask.frames)
    pixels = {
        "frames": np.stack([SMALL.resize(dive.clip.decode(row, "frame")) for row in range(12)]),
        "masks": None,
        "resize": SMALL.resize,
    }
    stored = preprocessing.evaluation_video(dataclasses.replace(dive.clip, **pixels), SMALL)
    assert stored.mask is None
    np.testing.assert_array_equal(stored.frames, bare.frames)


def test_a_clip_with_times_is_sampled_by_them():
    # Twelve frames of which the last stays on for as long as all others together.
    times = np.array([*range(0, 220, 20), 440])
    clip = dataclasses.replace(make_dive(make_info(3)).clip, frame_numbers=times, timed=True)
    video = preprocessing.evaluation_video(clip, SMALL)
    assert video.rows.tolist() == [0, 4, 8, 10, 10, 11]  # at 0, 88, 176, 264, 352, 440
    assert grey_levels(video) == video.rows.tolist()
    with pytest.raises(ValueError, match=r"dive \('Test Cup', 3\): frame 00088 is missing"):
        preprocessing.evaluation_video(dataclasses.replace(clip, timed=False), SMALL)


def test_a_clip_that_does_not_fit_is_named():
    clip = make_dive(make_info(4)).clip
    with pytest.raises(ValueError, match=r"\('Test Cup', 4\) has 12 frame numbers and 11 frames"):
        one_less = dataclasses.replace(clip, frames=clip.frames[1:], masks=None)
        preprocessing.evaluation_video(one_less, SMALL)


def test_short_dives_decode_each_frame_once(monkeypatch):
    opened = []
    plain = Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, **rest: opened.append(file) or plain(file, **rest)
    )
    video = preprocessing.evaluation_video(make_dive(make_info(0, frames=3)).clip, SMALL)
    assert grey_levels(video) == [0, 0, 0, 1, 1, 2]
    assert len(opened) == 2 * 3
    opened.clear()
    preprocessing.evaluation_video(make_dive(make_info(0, frames=30)).clip, SMALL)
    assert len(opened) == 2 * 6


def test_masks_stored_in_colour_become_grey():
    dive = make_dive(make_info(0))
    coloured = tuple(
        encode(np.repeat(np.full((14, 18, 1), 8 * row, np.uint8), 3, -1)) for row in range(12)
    )
    np.testing.assert_allclose(
        preprocessing.evaluation_video(with_images(dive, masks=coloured).clip, SMALL).mask,
        preprocessing.evaluation_video(dive.clip, SMALL).mask,
        atol=1,
    )


def test_training_video_draws_end_flip_and_crop():
    dive = make_dive(make_info(0))
    ends, flips = set(), set()
    for seed in range(40):
        video = preprocessing.training_video(dive, SMALL, np.random.default_rng(seed))
        again = preprocessing.training_video(dive, SMALL, np.random.default_rng(seed))
        np.testing.assert_array_equal(video.frames, again.frames)
        flipped = bool(video.frames[0, 0, 0, 0] > 128)  # frame 0 is black on the left
        # One flip for the clip, and the mask is from the same frame.
        assert np.all((video.frames[:, 0, 0, 0] > 128) == flipped)
        np.testing.assert_allclose(video.mask[:, 0, 0], video.frames[:, 0, -flipped, 0], atol=3)
        flips.add(flipped)
        ends.add(round(video.mask[-1, 0, 0] / 8))
    assert flips == {False, True}
    assert ends == {8, 9, 10, 11}


def test_the_drawn_end_never_cuts_off_the_only_transition():
    dive = make_dive(make_info(0, frame_labels=np.repeat([1, 37], [10, 2])))
    ends = set()
    for seed in range(20):
        video = preprocessing.training_video(dive, SMALL, np.random.default_rng(seed))
        assert dive.info.transitions(video.rows).tolist() == [5, 5]
        ends.add(round(video.mask[-1, 0, 0] / 8))
    assert ends == {10, 11}


def test_training_crops_reach_every_place():
    # The red channel grows with x, the green with y: the corner tells where the crop is.
    image = np.zeros((12, 10, 3), np.uint8)
    image[..., 0] = 10 * np.arange(10)
    image[..., 1] = 10 * np.arange(12)[:, None]
    info = make_info(0, frames=3)
    dive = labelled(info, (encode(image, "PNG"),) * 3, (encode(image[..., 0], "PNG"),) * 3)
    corners = set()
    for seed in range(120):
        video = preprocessing.training_video(dive, SMALL, np.random.default_rng(seed))
        frame = video.frames[0]
        assert np.all(video.frames == frame)
        flipped = frame[0, 0, 0] > frame[0, -1, 0]
        left = 9 - frame[0, 0, 0] // 10 if flipped else frame[0, 0, 0] // 10
        corners.add((int(left), int(frame[0, 0, 1] // 10)))
    assert corners == {(left, top) for left in range(3) for top in range(5)}


def test_training_crops_stay_near_the_centre_where_asked():
    size = dataclasses.replace(SMALL, resize_width=28, resize_height=48)  # 20 and 40 pixels free
    image = np.zeros((48, 28, 3), np.uint8)
    image[..., 0], image[..., 1] = 8 * np.arange(28), 5 * np.arange(48)[:, None]
    info = make_info(0, frames=3)
    dive = labelled(info, (encode(image, "PNG"),) * 3, (encode(image[..., 0], "PNG"),) * 3)

    def corners(crop_range):
        for seed in range(60):
            rng = np.random.default_rng(seed)
            frame = preprocessing.training_video(dive, size, rng, crop_range).frames[0]
            yield int(min(frame[0, 0, 0], frame[0, -1, 0])) // 8, int(frame[0, 0, 1]) // 5

    assert set(corners(0.0)) == {(10, 20)}
    near = list(corners(0.25))
    lefts, tops = ({corner[axis] for corner in near} for axis in (0, 1))
    assert lefts <= set(range(7, 14)) and len(lefts) > 3
    assert tops <= set(range(15, 27)) and len(tops) > 6


def test_flip_and_crop_without_resize_are_plain_slices():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 12, 10, 3), np.uint8)
    masks = rng.integers(0, 256, (2, 12, 10), np.uint8)
    kept, mask = preprocessing.preprocess_frames(frames, masks, SMALL, flip=True, left=2, top=3)
    np.testing.assert_array_equal(kept, frames[:, 3:11, ::-1][:, :, 2:10])
    np.testing.assert_array_equal(mask, masks[:, 3:11, ::-1][:, :, 2:10])
    kept, _ = preprocessing.preprocess_frames(frames, masks, SMALL)
    np.testing.assert_array_equal(kept, frames[:, 2:10, 1:9])
    with pytest.raises(ValueError, match=r"left 3, top 0 leaves.*left of 0\.\.2 and top of 0\.\.4"):
        preprocessing.preprocess_frames(frames, masks, SMALL, left=3, top=0)
    with pytest.raises(ValueError, match="of one size, got"):
        preprocessing.preprocess_frames(frames, masks[:, 1:], SMALL)


def test_keep_aspect_crops_both_ways():
    settings = dataclasses.replace(SMALL, keep_aspect=True, resize_width=1)
    assert settings.resized_size(36, 24) == (18, 12)
    assert Preprocessing(keep_aspect=True).resized_size(455, 256) == (355, 200)
    frames = np.random.default_rng(0).integers(0, 256, (1, 12, 20, 3), np.uint8)
    kept, _ = preprocessing.preprocess_frames(frames, frames[..., 0], settings)
    np.testing.assert_array_equal(kept, frames[:, 2:10, 6:14])
    with pytest.raises(ValueError, match="6 pixels wide, expected at least frame_size"):
        settings.resized_size(6, 12)
    with pytest.raises(ValueError, match=r"dive \('Test Cup', 4\): an image of 6 x 12"):
        preprocessing.evaluation_video(make_dive(make_info(4), (6, 12)).clip, settings)


# --- The resize -------------------------------------------------------------------------------


@hypothesis.given(data=st.data())
@hypothesis.settings(deadline=None, max_examples=60)
def test_rows_are_those_of_the_whole_resized_image(data):
    width, height = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    resize = Resize(data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90)))
    first = data.draw(st.integers(0, resize.height - 1))
    end = data.draw(st.integers(first + 1, resize.height))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for channels in ((), (3,)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, *channels), np.uint8))
        np.testing.assert_array_equal(resize.rows(image, first, end), resize(image)[first:end])


@pytest.mark.parametrize(
    ("size", "resize"), [((455, 256), Resize(112, 200)), ((160, 90), Resize(32, 57))]
)
def test_both_configs_resize_as_pillow_does(size, resize):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    image = Image.fromarray(pixels)
    plain = image.resize((resize.width, resize.height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(image), np.asarray(plain))


@hypothesis.given(width=st.integers(1, 500), resized=st.integers(1, 300), seed=st.integers(0))
@hypothesis.settings(deadline=None, max_examples=60)
def test_the_flip_commutes_with_the_resize(width, resized, seed):
    resize = Resize(resized, 40)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, width, 3), np.uint8))
    flipped = resize(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    np.testing.assert_array_equal(flipped[:, ::-1], resize(image))


def test_cropped_pixels_are_the_plain_flip_resize_and_crop():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (2, 25, 45, 3), np.uint8)
    settings = dataclasses.replace(SMALL, keep_aspect=True)
    kept, mask = preprocessing.preprocess_frames(
        frames, frames[..., 0], settings, flip=True, left=9, top=3
    )
    for place, frame in enumerate(frames):
        plain = [
            Image.fromarray(pixels).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            for pixels in (frame, frame[..., 0])
        ]
        plain = [one.resize((22, 25), Image.Resampling.BILINEAR) for one in plain]
        plain = [np.asarray(one.resize((22, 12), Image.Resampling.BILINEAR)) for one in plain]
        np.testing.assert_array_equal(kept[place], plain[0][3:11, 9:17])
        np.testing.assert_array_equal(mask[place], plain[1][3:11, 9:17])


# --- Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 1}, "frames must be at least 2, got 1"),
        ({"frame_size": 0}, "frame_size must be at least 1, got 0"),
        ({"resize_width": 100}, r"resize_width must be at least frame_size \(112\).*got 100"),
        ({"resize_height": 64, "keep_aspect": True}, "resize_height must be at least frame_size"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


def replace_one(images, row, data):
    return (*images[:row], data, *images[row + 1 :])


def test_errors_name_the_dive_and_the_frame():
    dive = make_dive(make_info(4))
    name = re.escape("dive ('Test Cup', 4)")
    number = f"{FIRST_FRAME + 11:05d}"  # the last frame is always sampled at evaluation
    broken = {
        "frames": replace_one(dive.frames, 11, dive.frames[11][:-40]),
        "masks": replace_one(dive.masks, 11, b"not a JPEG"),
    }
    reasons = {"frames": "image file is truncated", "masks": "is no image file"}
    for kind, images in broken.items():
        message = f"{name}: {kind[:-1]} {number} cannot be decoded .{reasons[kind]}"
        with pytest.raises(ValueError, match=message):
            preprocessing.evaluation_video(with_images(dive, **{kind: images}).clip, SMALL)

    small = replace_one(dive.masks, 11, encode(np.zeros((7, 9), np.uint8)))
    with pytest.raises(ValueError, match=f"{name}: mask {number} is 9 x 7, expected 18 x 14"):
        preprocessing.evaluation_video(with_images(dive, masks=small).clip, SMALL)

    with pytest.raises(ValueError, match=f"{name} has 12 frame numbers, 12 labels, 12 frames and"):
        with_images(dive, masks=dive.masks[1:])

    alike = make_dive(make_info(4, frame_labels=np.full(12, 7)))
    with pytest.raises(ValueError, match=f"{name}: all sampled frames carry the label 7"):
        alike.info.transitions(preprocessing.evaluation_video(alike.clip, SMALL).rows)
