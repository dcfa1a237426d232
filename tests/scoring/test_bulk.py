"""Many own videos: one bad video is a line, a stopped run goes on, processes share the work."""

import csv
import dataclasses
import threading

import numpy as np
import pytest

from finecausal_jax.data.clips import Clip
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.scoring import bulk, new_dive, protocol
from finecausal_jax.scoring.new_dive import Announced
from tests.scoring.conftest import encode, make_scorer

SIZES = Preprocessing(frames=16, frame_size=8, resize_width=8, resize_height=8)
CHOICE = protocol.Choice(exemplars=3)


def clip(level, frames=20):
    image = encode(np.full((8, 8, 3), level, np.uint8))
    return Clip(("video", level), np.arange(frames), (image,) * frames)


@pytest.fixture
def scorer(model, variables):
    return make_scorer(model, variables, SIZES)


@pytest.fixture
def work(scorer, train_source):
    """What scores, and the names of the videos that were read."""
    seen = []

    def read(video, part):
        seen.append(video)
        level = int(video.rsplit("/", 1)[-1])
        if level > 255:
            raise InputError(f"{video} is damaged")
        return clip(level)

    return bulk.Bulk(scorer, train_source, CHOICE, {}, read, "weights", shard_size=2), seen


def requests(*levels, number="101b", difficulty="2.5"):
    return [bulk.Request(f"videos/{level}", number, difficulty) for level in levels]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_many_videos_are_scored_as_each_alone(work, scorer, train_source, tmp_path):
    bulk_work, _ = work
    path = bulk_work.run(requests(40, 90, 140), tmp_path)
    for row, level in zip(rows(path), (40, 90, 140), strict=True):
        named = dataclasses.replace(clip(level), key=(str(level), 0))
        want = new_dive.score_new(scorer, Announced(named, "101b", 2.5), train_source, CHOICE)
        assert float(row["score"]) == pytest.approx(want.score, abs=1e-5)
        assert row["error"] == "" and int(row["exemplars"]) == 3


def test_a_bad_video_is_a_line(work, tmp_path):
    listed = [
        *requests(40, 300),
        *requests(50, number="nonsense"),
        *requests(60, difficulty="many"),
        *requests(70, difficulty="9"),
        bulk.Request("videos/80", "101b", "2.5", "2", "1"),
        *requests(90, number="103b"),
    ]
    found = rows(work[0].run(listed, tmp_path))
    errors = [row["error"] for row in found]
    assert [bool(error) for error in errors] == [False, True, True, True, True, True, False]
    expected = (
        "damaged",
        "no dive number",
        "expected a number",
        "expected 1.0 to 5.0",
        "an end aft",
    )
    for text, error in zip(expected, errors[1:6], strict=True):
        assert text in error
    assert found[6]["warning"] == "no exemplars of its dive number"


def test_a_stopped_run_goes_on(work, tmp_path):
    bulk_work, seen = work
    listed = requests(40, 50, 60, 70, 80)
    first = bulk_work.run(listed, tmp_path).read_text()
    (tmp_path / "shards" / "00001.json").unlink()
    (tmp_path / "scores.csv").unlink()
    seen.clear()
    assert bulk_work.run(listed, tmp_path).read_text() == first
    assert sorted(seen) == ["videos/60", "videos/70"]
    assert bulk_work.run(listed, tmp_path).read_text() == first  # where nothing is left to do
    with pytest.raises(InputError, match="holds scores of another list of videos"):
        bulk_work.run(listed[:3], tmp_path)


def test_a_shard_that_another_process_has_is_passed_over(work, tmp_path):
    listed = requests(40, 50, 60)
    held, done = threading.Event(), threading.Event()

    def hold():
        with bulk._claimed(tmp_path / "shards" / "00000.json") as is_mine:
            assert is_mine
            held.set()
            done.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(20)
    try:
        assert work[0].run(listed, tmp_path) is None
        assert [path.name for path in (tmp_path / "shards").glob("*.json")] == ["00001.json"]
    finally:
        done.set()
        other.join()
    assert len(rows(work[0].run(listed, tmp_path))) == 3


def test_the_list(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("video,dive_number,difficulty,start\na.mp4,407c,3.2,1.5\n")
    (request,) = bulk.read_requests(path)
    assert request == bulk.Request(str(tmp_path / "a.mp4"), "407c", "3.2", "1.5")
    assert request.part().start == 1.5 and request.part().end is None
    for text, expected in (
        ("video,difficulty\n", "expected a header with the columns video"),
        ("video,dive_number,difficulty\na,b\n", "video 1 has 2 values, expected 3"),
        ("video,dive_number,difficulty\n", "lists no videos"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=expected):
            bulk.read_requests(path)
    with pytest.raises(InputError, match="expected a CSV list"):
        bulk.read_requests(tmp_path / "none.csv")
