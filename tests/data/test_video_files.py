"""Clips from video files: what is read, and that a hostile file is refused and no more."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from finecausal_jax.data import video_files, video_worker
from finecausal_jax.data.resizing import Resize
from finecausal_jax.data.video_files import Part, VideoLimits, read_video
from finecausal_jax.runtime.errors import InputError
from tests.data import videos


@pytest.fixture(scope="module")
def images():
    return videos.frames()


@pytest.fixture(scope="module")
def lossless(images, tmp_path_factory):
    return videos.write(tmp_path_factory.mktemp("videos") / "dive.mkv", images)


@pytest.fixture
def here(monkeypatch, capsys):
    """Decodes in this process: a process for each of many small cases would take a second each."""

    def decode(path, order, limits):
        order = json.loads(json.dumps(order))
        try:
            return json.loads(json.dumps(video_worker._decode(order)))
        except video_worker.Refused as error:
            raise InputError(f"{path} {error}") from error

    monkeypatch.setattr(video_files, "_decode", decode)


def pixels(clip):
    return np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in clip.frames])


def test_a_process_of_its_own_gives_the_frames_exactly(lossless, images):
    found = read_video(lossless)
    np.testing.assert_array_equal(pixels(found.clip), images)
    assert not found.clip.timed and found.clip.key == ("dive.mkv", 0)
    np.testing.assert_allclose(found.times, np.arange(24) / 25, atol=1e-6)
    assert (found.width, found.height, found.rotation, found.codec) == (64, 48, 0, "ffv1")


@pytest.mark.usefixtures("here")
class TestDecoding:
    def test_frames_are_resized_as_the_pipeline_does(self, lossless, images):
        resize = Resize(None, 32)
        found = read_video(lossless, resize=resize)
        want = np.stack([resize(Image.fromarray(image)) for image in images])
        np.testing.assert_array_equal(found.clip.frames, want)
        assert found.clip.resize == resize

    # Coarse colours (4:2:0) smear the square's edges; means of 2.4 to 6.3 were seen.
    @pytest.mark.parametrize(
        ("name", "codec", "format"),
        [
            ("a.mp4", "libx264", "yuv420p"),
            ("b.mp4", "libx264", "yuv444p"),
            ("c.webm", "libvpx-vp9", "yuv420p"),
            ("d.mkv", "ffv1", "yuv420p10le"),
            ("e.avi", "mpeg4", "yuv420p"),
            ("f.mov", "mjpeg", "yuvj420p"),
        ],
    )
    def test_any_format(self, name, codec, format, images, tmp_path):
        found = read_video(videos.write(tmp_path / name, images, codec, format))
        assert len(found.times) == 24 and not found.clip.timed
        assert np.abs(pixels(found.clip).astype(int) - images).mean() < 8

    @pytest.mark.parametrize("degrees", [90, 180, 270])
    def test_a_phone_says_which_way_is_up(self, degrees, images, tmp_path):
        path = videos.write(tmp_path / "phone.mp4", images, "libx264", "yuv444p")
        found = read_video(videos.turn(path, degrees))
        want = np.rot90(images, -degrees // 90, axes=(1, 2)).astype(int)
        assert np.abs(pixels(found.clip).astype(int) - want).mean() < 4
        assert (found.height, found.width) == want.shape[1:3]

    def test_frames_that_do_not_come_evenly_have_times(self, images, tmp_path):
        times = np.cumsum([0] + [30, 50] * 11 + [40])
        path = videos.write(tmp_path / "phone.mkv", images, rate=1000, times=times)
        clip = read_video(path).clip
        assert clip.timed
        np.testing.assert_array_equal(clip.frame_numbers, 1000 * times)

    def test_a_part_of_the_video(self, lossless, images):
        found = read_video(lossless, Part(0.2, 0.6, (8, 4, 32, 40)))
        np.testing.assert_array_equal(pixels(found.clip), images[5:16, 4:44, 8:40])
        np.testing.assert_allclose(found.times[[0, -1]], (0.2, 0.6), atol=1e-6)
        with pytest.raises(InputError, match="has no frame between 5 and 6 seconds"):
            read_video(lossless, Part(5.0, 6.0))
        with pytest.raises(InputError, match="the crop 40,0,32,8 .* leaves them"):
            read_video(lossless, Part(crop=(40, 0, 32, 8)))

    def test_limits(self, lossless):
        for limits, expected in (
            (VideoLimits(frames=20), "has more than 20 frames: cut it"),
            (VideoLimits(pixels=1000), "frames of 64 x 48 pixels, expected at most 1000"),
            (VideoLimits(encoded_bytes=1000), "as PNG files: cut it"),
        ):
            with pytest.raises(InputError, match=expected):
                read_video(lossless, limits=limits)
        with pytest.raises(InputError, match="more than 3 frames before the start"):
            read_video(lossless, Part(start=0.5), limits=VideoLimits(passed=3))

    def test_files_that_are_no_videos(self, lossless, tmp_path):
        def refused(name, content, expected):
            path = tmp_path / name
            path.write_bytes(content)
            with pytest.raises(InputError, match=expected) as error:
                read_video(path)
            assert str(path) in str(error.value)

        whole = lossless.read_bytes()
        refused("text.mp4", b"not a video at all " * 50, "is no video that FFmpeg can read")
        refused("empty.mp4", b"", "is empty, expected a video file")
        refused(
            "list.m3u8", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is no video|no frame|dam"
        )
        refused("cut.mkv", whole[:600], "is damaged|no frame|is no video")
        sound = tmp_path / "sound.wav"
        write_sound(sound)
        with pytest.raises(InputError, match="has no video stream .it has audio."):
            read_video(sound)
        with pytest.raises(InputError, match="is a folder, expected a video file"):
            read_video(tmp_path)
        with pytest.raises(InputError, match="does not exist"):
            read_video(tmp_path / "none.mp4")

    def test_damage_anywhere_is_an_error_or_passes(self, lossless, tmp_path):
        whole, rng = lossless.read_bytes(), np.random.default_rng(0)
        for row in range(20):
            spoilt = bytearray(whole)
            for place in rng.integers(0, len(whole), 40):
                spoilt[place] = rng.integers(256)
            path = tmp_path / f"{row}.mkv"
            path.write_bytes(bytes(spoilt))
            try:
                assert len(read_video(path).times) >= 1
            except InputError as error:
                assert str(path) in str(error)


def test_a_part_that_is_none():
    assert Part(None, None, None) == video_files.WHOLE != Part(start=1.0)
    with pytest.raises(InputError, match="expected an end after the start"):
        Part(2.0, 1.0)
    with pytest.raises(InputError, match="expected left,top,width,height"):
        Part(crop=(0, 0, 0, 5))


def test_a_process_that_dies_is_told(lossless):
    with pytest.raises(
        InputError, match="dive.mkv cannot be decoded: the process that tried ended"
    ):
        read_video(lossless, limits=VideoLimits(memory_bytes=2**26))
    with pytest.raises(InputError, match="was not decoded within 0.01 seconds"):
        read_video(lossless, limits=VideoLimits(seconds=0.01))


def write_sound(path):
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
