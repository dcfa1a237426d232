"""Batches: each dive once an epoch, whatever the workers, the hosts and the interruptions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import pickle
import re
import signal
import types

import grain
import jax
import numpy as np
import pytest
from etils import epath
from synthetic_dives import SomeDives, make_info, with_images

from finecausal_jax.data import exemplars, pipeline, preprocessing
from finecausal_jax.data.batches import Batches
from finecausal_jax.data.pipeline import Share
from finecausal_jax.data.preprocessing import Preprocessing
from finecausal_jax.data.sources import ClipList
from finecausal_jax.runtime.errors import InputError

SMALL = Preprocessing(frames=6, frame_size=8, resize_width=10, resize_height=12)
NUMBERS = ["107b"] * 4 + ["5253b"] * 2 + ["301c"]


@pytest.fixture(scope="module")
def source():
    return SomeDives(make_info(index, number) for index, number in enumerate(NUMBERS))


def training(source, *, batch_size=2, seed=0, **options):
    return pipeline.training_batches(source, SMALL, batch_size=batch_size, seed=seed, **options)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def rows(batches):
    return [int(row) for batch in batches for row in batch["query"]["row"]]


# --- Training ---------------------------------------------------------------------------------


def test_batches_hold_pairs_of_videos(source):
    batch = next(training(source, batch_size=3))
    assert set(batch) == {"query", "exemplar"}
    for video in batch.values():
        shapes = {name: (value.shape, value.dtype.name) for name, value in video.items()}
        assert shapes == {
            "frames": ((3, 6, 8, 8, 3), "uint8"),
            "mask": ((3, 6, 8, 8), "uint8"),
            "transitions": ((3, 2), "int32"),
            "completeness": ((3,), "float32"),
            "difficulty": ((3,), "float32"),
            "row": ((3,), "int32"),
        }
        for place, row in enumerate(video["row"]):
            info = source.infos[row]
            assert video["completeness"][place] == np.float32(info.score / info.difficulty)
            assert video["difficulty"][place] == info.difficulty
            # The dive's index is in the brightness of its images (see `make_dive`).
            assert abs(int(video["frames"][place].max()) - (255 - 4 * info.index)) <= 2


def test_each_epoch_visits_every_dive_once_and_pairs_it(source):
    batches = take(training(source, batch_size=2), 14)  # four epochs of seven dives
    visited = np.array(rows(batches)).reshape(4, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in visited.tolist())
    assert len({tuple(epoch) for epoch in visited.tolist()}) == 4
    partners = [int(row) for batch in batches for row in batch["exemplar"]["row"]]
    for place, (query, partner) in enumerate(zip(visited.ravel(), partners, strict=True)):
        assert partner == exemplars.training_exemplar(
            source.infos, int(query), seed=0, epoch=place // 7
        )


def test_a_dive_that_is_its_own_exemplar_is_cut_twice(source):
    pairs = (
        (batch["query"]["frames"][0], batch["exemplar"]["frames"][0])
        for batch in training(source, batch_size=1, epochs=6)
        if batch["query"]["row"][0] == 6
    )
    assert any(not np.array_equal(query, exemplar) for query, exemplar in pairs)


def test_last_batch_is_filled_from_the_next_epoch(source):
    iterator = training(source, batch_size=4, epochs=1)
    assert len(iterator) == 2
    batches = list(iterator)
    assert sorted(rows(batches)[:7]) == list(range(7))
    assert rows(batches) == rows(take(training(source, batch_size=4), 2))


def test_seeds_fix_the_batches(source):
    first = take(training(source, seed=5), 4)
    assert_same(first, take(training(source, seed=5), 4))
    other = take(training(source, seed=6), 4)
    assert rows(first) != rows(other)
    # Same dive, same epoch, another seed: other draws.
    left, right = (
        {row: one for b in some for row, one in zip(rows([b]), b["query"]["frames"], strict=True)}
        for some in (first[:3], other[:3])
    )
    both = set(left) & set(right)
    assert any(not np.array_equal(left[row], right[row]) for row in both)


def test_a_video_does_not_depend_on_its_batch(source):
    def by_dive(batch_size):
        videos = {}
        for batch in training(source, batch_size=batch_size, epochs=1):
            for role, video in batch.items():
                for place, row in enumerate(rows([batch])):
                    videos.setdefault((role, row), jax.tree.map(lambda a, i=place: a[i], video))
        return videos

    assert_same(by_dive(1), by_dive(7))


def test_hosts_together_load_the_batch_of_one(source):
    whole = take(training(source, batch_size=6), 3)
    shards = [take(training(source, batch_size=6, share=Share(index, 3)), 3) for index in range(3)]
    together = [
        jax.tree.map(lambda *parts: np.concatenate(parts), *parts)
        for parts in zip(*shards, strict=True)
    ]
    assert_same(together, whole)


def test_a_saved_iterator_continues_exactly(source, tmp_path):
    iterator = training(source, batch_size=3)
    take(iterator, 2)
    state = json.loads(json.dumps(iterator.get_state()))
    assert state == {"next_batch": 2, "seed": 0, "batch_size": 3, "dives": 7}
    grain.checkpoint.CheckpointHandler().save(epath.Path(tmp_path), iterator)
    expected = take(iterator, 3)

    fresh = training(source, batch_size=3)
    fresh.set_state(state)
    assert_same(take(fresh, 3), expected)
    iterator.set_state(state)  # backwards, with batches loaded ahead
    assert_same(take(iterator, 3), expected)
    restored = training(source, batch_size=3)
    grain.checkpoint.CheckpointHandler().restore(epath.Path(tmp_path), restored)
    assert_same(take(restored, 3), expected)
    ended = training(source, batch_size=3, epochs=1)
    ended.set_state({**state, "next_batch": 3})
    assert list(ended) == []
    # A run may resume on another number of hosts.
    half = training(source, batch_size=3, share=Share(1, 3))
    half.set_state(state)
    np.testing.assert_array_equal(
        next(half)["query"]["frames"], expected[0]["query"]["frames"][1:2]
    )


def test_a_batch_can_be_loaded_out_of_turn(source):
    iterator = training(source, batch_size=3)
    expected = take(training(source, batch_size=3), 4)
    assert_same([iterator.load(number) for number in (3, 0)], [expected[3], expected[0]])
    assert iterator.get_state()["next_batch"] == 0


def test_states_of_other_runs_are_refused(source):
    state = training(source, batch_size=3).get_state()
    with pytest.raises(ValueError, match="saved with batch_size 3, this one has 2"):
        training(source, batch_size=2).set_state(state)
    with pytest.raises(ValueError, match="saved with seed 0, this one has 1"):
        training(source, batch_size=3, seed=1).set_state(state)
    with pytest.raises(ValueError, match=r"has the entries \['next_index'\], expected"):
        training(source).set_state({"next_index": 4})


def test_worker_processes_change_nothing(source, monkeypatch):
    # Also: workers start no device, for there is none of that kind in their environment, and import
    # neither torch nor tensorflow (see `SomeDives`).
    monkeypatch.setenv("JAX_PLATFORMS", "none_such")
    plain = take(training(source, batch_size=3), 6)
    iterator = training(source, batch_size=3, workers=2)
    iterator.set_state({**iterator.get_state(), "next_batch": 1})
    assert_same(take(iterator, 3), plain[1:4])
    state = iterator.get_state()
    iterator.close()
    with pytest.raises(ValueError, match="was closed"):
        next(iterator)
    resumed = training(source, batch_size=3)
    resumed.set_state(state)
    assert_same(take(resumed, 2), plain[4:])


@dataclasses.dataclass(frozen=True)
class _Ends(grain.transforms.Map):
    """Ends its process at the third batch, once, as a full shared memory does."""

    marker: pathlib.Path

    def map(self, element):
        if element == 2 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGBUS)
        return {"number": np.array([element])}


def test_a_worker_that_ends_is_replaced_once(tmp_path, caplog):
    batches = grain.MapDataset.range(4)
    iterator = Batches(batches.map(_Ends(tmp_path / "ended")), 1, {})
    with contextlib.closing(iterator):
        # Ctrl-C and SIGTERM are left to this process.
        assert int(next(iterator)["number"][0]) == 0
        (worker,) = multiprocessing.active_children()
        status = pathlib.Path(f"/proc/{worker.pid}/status")
        if status.exists():
            (blocked,) = re.findall(r"SigBlk:\s*(\w+)", status.read_text())
            wanted = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGTERM - 1)
            assert int(blocked, 16) & wanted == wanted
        assert [int(batch["number"][0]) for batch in iterator] == [1, 2, 3]
    # Batch 2, or 1 where that was on its way.
    told = r"loading batch [12]: Worker process was terminated unexpectedly with exit code -7"
    assert re.search(told, caplog.text)


def test_a_batch_that_ends_every_worker_is_an_error(monkeypatch):
    def end(self):
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -7.")

    monkeypatch.setattr(Batches, "_take", end)
    with pytest.raises(InputError, match=r"batch 0 ended its worker .*-7.*shm-size"):
        next(Batches(grain.MapDataset.range(4), 1, {}))


def test_too_little_shared_memory_is_known_before_the_start(source, monkeypatch):
    usage = types.SimpleNamespace(free=10**4)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="/dev/shm has 0 MB free, expected some .*--shm-size"):
        training(source, batch_size=3, workers=2)
    training(source, batch_size=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 3, "share": Share(0, 2)}, r"divisible by their count \(2\), got 3"),
    ],
)
def test_arguments_are_checked(source, options, message):
    with pytest.raises(ValueError, match=message):
        training(source, **options)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((0, 0), "count must be at least 1, got 0"),
        ((2, 2), r"index must be 0\.\.1 .*got 2"),
        ((-1, 2), r"index must be 0\.\.1 .*got -1"),
    ],
)
def test_shares_are_checked(part, message):
    with pytest.raises(ValueError, match=message):
        Share(*part)


def test_empty_splits_and_broken_dives_are_named(source):
    with pytest.raises(ValueError, match="training dives are an empty split"):
        training(SomeDives([]))
    broken = SomeDives(source.infos)
    dive = broken.dives[3]
    broken.dives = (
        *broken.dives[:3],
        with_images(dive, masks=(b"",) * 12),
        *broken.dives[4:],
    )
    iterator = pipeline.evaluation_videos(broken, SMALL, range(7), batch_size=2)
    next(iterator)
    for _ in range(2):  # the broken batch is not skipped over
        with pytest.raises(ValueError, match=r"dive \('Test Cup', 3\): mask 00489 cannot be dec"):
            next(iterator)


# --- Evaluation -------------------------------------------------------------------------------


def test_evaluation_pads_and_drops_nothing(source):
    chosen = [6, 0, 2, 5, 1]
    batches = list(pipeline.evaluation_videos(source, SMALL, chosen, batch_size=2))
    assert [batch["row"].tolist() for batch in batches] == [[6, 0], [2, 5], [1, 1]]
    assert [batch["valid"].tolist() for batch in batches] == [[True] * 2] * 2 + [[True, False]]
    assert all(batch["valid"].dtype == bool for batch in batches)
    for batch in batches:
        for place, row in enumerate(batch["row"]):
            video = preprocessing.evaluation_video(source[row].clip, SMALL)
            transitions = source.infos[row].transitions(video.rows)
            np.testing.assert_array_equal(batch["frames"][place], video.frames)
            np.testing.assert_array_equal(batch["mask"][place], video.mask)
            np.testing.assert_array_equal(batch["transitions"][place], transitions)
            assert batch["completeness"][place] == np.float32(source.infos[row].completeness)
    assert list(pipeline.evaluation_videos(source, SMALL, [], batch_size=2)) == []


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 9])
def test_evaluation_covers_each_row_once(source, batch_size):
    batches = list(pipeline.evaluation_videos(source, SMALL, range(7), batch_size=batch_size))
    valid = np.concatenate([batch["row"][batch["valid"]] for batch in batches])
    assert valid.tolist() == list(range(7))
    assert all(len(batch["row"]) == batch_size for batch in batches)


def test_evaluation_rows_are_checked(source):
    with pytest.raises(ValueError, match=r"rows to evaluate must be 0\.\.6, got \[7, -1\]"):
        pipeline.evaluation_videos(source, SMALL, [0, 7, -1], batch_size=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        pipeline.evaluation_videos(source, SMALL, [0], batch_size=0)


def without_masks(source, rows):
    """The same dives, some without masks."""
    infos = [
        dataclasses.replace(info, has_masks=row not in rows)
        for row, info in enumerate(source.infos)
    ]
    bare = SomeDives(infos)
    bare.dives = tuple(
        dive if info.has_masks else with_images(dive, masks=None)
        for dive, info in zip(bare.dives, infos, strict=True)
    )
    return bare


def test_dives_without_masks_train_with_black_ones_that_are_told(source):
    batches = take(training(without_masks(source, {0, 2, 4})), 4)
    for batch, whole in zip(batches, take(training(source), 4), strict=True):
        for side in ("query", "exemplar"):
            found, want = dict(batch[side]), whole[side]
            known = found.pop("has_mask")
            np.testing.assert_array_equal(known, [row not in (0, 2, 4) for row in found["row"]])
            assert not found["mask"][~known].any()
            np.testing.assert_array_equal(found.pop("mask")[known], want["mask"][known])
            assert_same(found, {name: want[name] for name in found})
            assert "has_mask" not in want


def test_a_table_that_promises_masks_has_to_keep_its_word(source):
    bare = SomeDives(source.infos)
    bare.dives = tuple(with_images(dive, masks=None) for dive in bare.dives)
    with pytest.raises(ValueError, match=r"dive \('Test Cup', \d\) has no masks, though its table"):
        next(training(bare))


# --- Clips without labels or masks ------------------------------------------------------------

PIXELS = {"frames", "row", "valid"}
LABELS = {"transitions", "completeness", "difficulty"}


def without_mask(clip, number):
    return dataclasses.replace(clip, key=("mine", number), masks=None)


def test_clips_without_labels_give_the_same_pixels(source):
    bare = ClipList(without_mask(dive.clip, row) for row, dive in enumerate(source.dives))
    masked = ClipList(dive.clip for dive in source.dives)
    labelled = list(pipeline.evaluation_videos(source, SMALL, range(7), batch_size=3))
    for clips, names in ((bare, PIXELS), (masked, PIXELS | {"mask"})):
        clips = pickle.loads(pickle.dumps(clips))  # as they travel to a worker process
        iterator = pipeline.evaluation_videos(clips, SMALL, range(7), batch_size=3)
        for batch, expected in zip(iterator, labelled, strict=True):
            assert set(batch) == names
            assert_same(batch, {name: expected[name] for name in names})


def test_a_batch_holds_the_labels_and_masks_that_its_clips_have(source):
    dives = source.dives
    clips = ClipList(
        [
            dives[0],
            dives[1],
            with_images(dives[2], masks=None),
            dives[3],
            dives[4].clip,
            dives[5],
            without_mask(dives[6].clip, 0),
            dives[6],
        ]
    )
    batches = list(pipeline.evaluation_videos(clips, SMALL, range(8), batch_size=2))
    assert [set(batch) - PIXELS for batch in batches] == [
        {"mask", *LABELS},
        {"mask", "has_mask", *LABELS},
        {"mask"},
        {"mask", "has_mask"},
    ]
    np.testing.assert_array_equal(batches[1]["has_mask"], [False, True])
    assert not batches[1]["mask"][0].any()
    with pytest.raises(ValueError, match="evaluation dives are an empty split"):
        pipeline.evaluation_videos(ClipList([]), SMALL, [], batch_size=2)
