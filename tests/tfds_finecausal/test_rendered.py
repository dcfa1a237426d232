import dataclasses
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from finecausal_jax.commands import render as render_command
from tfds_finecausal import rendered, rendered_motion, rendered_plan
from tfds_finecausal.dive_numbers import parse_dive_number
from tfds_finecausal.rendered_judging import Execution, execution_points


def _hash_tree(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _load(folder, name):
    return pickle.loads((folder / "Annotations" / f"{name}.pkl").read_bytes())


def _number(path):
    return int(path.stem)


def test_layout_is_the_real_release_s(small_release):
    aqa = _load(small_release, "fine-grained_annotation_aqa")
    coarse = _load(small_release, "FineDiving_coarse_annotation")
    fine = _load(small_release, "FineDiving_fine-grained_annotation")
    table = _load(small_release, "Sub_action_Types_Table")
    train, test = _load(small_release, "train_split"), _load(small_release, "test_split")
    assert len(train) == 13 and len(test) == 3 and not set(train) & set(test)
    assert set(aqa) == set(coarse) == set(fine) == {*train, *test}
    assert len({competition for competition, _ in aqa}) >= 3
    starts = set()
    for (competition, index), (number, score, difficulty, transits, labels) in aqa.items():
        frames, masks = (
            sorted((small_release / folder / competition / str(index)).iterdir(), key=_number)
            for folder in ("FineDiving", "FineDiving_HM")
        )
        assert [path.name for path in frames] == [path.name for path in masks]
        numbers = [int(path.stem) for path in frames]
        assert all(
            path.stem == f"{number:05d}" for path, number in zip(frames, numbers, strict=True)
        )
        assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] > 1
        starts.add(numbers[0])
        assert len(labels) == len(numbers) and labels.dtype == np.int64
        row = coarse[competition, index]
        assert (row["start_frame"], row["end_frame"]) == (numbers[0], numbers[-1])
        assert row["action_type"] == number and row["dive_score"] == score
        assert score == pytest.approx(execution_points(tuple(row["judge_scores"])) * difficulty)
        names = parse_dive_number(number).sub_actions
        segments = labels[np.flatnonzero(np.diff(labels, prepend=-1))]
        assert tuple(table[label] for label in segments) == names
        assert transits.dtype == np.int64 and type(score) is type(difficulty) is float
        np.testing.assert_array_equal(transits, np.flatnonzero(np.diff(labels)))
        with Image.open(frames[0]) as frame, Image.open(masks[0]) as mask:
            assert (frame.format, frame.mode, frame.size) == ("JPEG", "RGB", (64, 36))
            assert (mask.format, mask.mode, mask.size) == ("JPEG", "L", (64, 36))
            assert np.asarray(mask).max() > 200  # the diver is on the board
    assert len(starts) == len(aqa)
    assert 0 < sum(start >= 99_000 for start in starts) < len(starts) / 2  # most have five digits
    assert "not FineDiving" in (small_release / "RENDERED.md").read_text()


def test_same_seed_same_bytes_whatever_the_workers(tmp_path, small_settings):
    settings = {**small_settings, "train_dives": 3, "test_dives": 1, "dive_numbers": 2}
    one = rendered.render_release(tmp_path / "1", workers=0, progress=False, seed=1, **settings)
    two = rendered.render_release(tmp_path / "2", workers=2, progress=False, seed=1, **settings)
    other = rendered.render_release(tmp_path / "3", workers=0, progress=False, seed=2, **settings)
    assert _hash_tree(one) == _hash_tree(two)
    assert _hash_tree(one) != _hash_tree(other)
    assert _hash_tree(one / "Annotations") != _hash_tree(other / "Annotations")


def test_a_folder_of_something_else_is_refused(tmp_path, small_settings):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and was not rendered by this command"):
        rendered.render_release(tmp_path, workers=0, progress=False, **small_settings)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_older_rendering_is_kept_or_replaced(spoiled, monkeypatch, small_settings):
    before = _hash_tree(spoiled)
    drawn = []
    monkeypatch.setattr(rendered, "_write_dive", lambda *arguments: drawn.append(arguments))
    rendered.render_release(spoiled, workers=0, progress=False, seed=3, **small_settings)
    assert not drawn and _hash_tree(spoiled) == before
    rendered.render_release(spoiled, workers=0, progress=False, seed=4, **small_settings)
    assert len(drawn) == 16
    assert json.loads((spoiled / "RENDERED.json").read_text())["seed"] == 4
    assert not (spoiled / "FineDiving").exists()  # nothing of the older one is left


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_run_leaves_what_was_there(
    small_release, spoiled, monkeypatch, before, small_settings
):
    target = spoiled if before else spoiled.with_name("fresh")
    content = _hash_tree(spoiled)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(rendered, "_write_annotations", interrupt)
    monkeypatch.setattr(rendered, "_write_dive", lambda *arguments: None)
    with pytest.raises(KeyboardInterrupt):
        rendered.render_release(target, workers=0, progress=False, seed=9, **small_settings)
    assert _hash_tree(spoiled) == content
    assert [path.name for path in spoiled.parent.iterdir()] == [spoiled.name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": (96, 20)}, r"frames=\(96, 20\)"),
        ({"background_bias": 1.5}, "background_bias=1.5, from 0 to 1"),
        ({"dive_numbers": 99}, "dive_numbers=99"),
        ({"competitions": 1}, "competitions=1"),
        ({"widht": 90}, "unknown render settings widht"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        rendered.render_release(tmp_path / "x", **settings)
    assert not list(tmp_path.iterdir())


def test_plans_tie_score_to_marks_and_test_numbers_to_training():
    plans = rendered.plan_dives(rendered.Settings(train_dives=300, test_dives=100))
    train = [dive for dive in plans if dive.split == "train"]
    test = [dive for dive in plans if dive.split == "test"]
    assert len(train) == 300 and len(test) == 100
    assert {dive.dive_number for dive in test} <= {dive.dive_number for dive in train}
    assert {len(dive.marks) for dive in plans} == {3, 5, 7}
    assert {len(dive.timeline.starts) for dive in plans} == {3, 4, 5}
    for dive in plans:
        points = execution_points(dive.marks)
        assert dive.score == pytest.approx(points * dive.difficulty, abs=0.006)
        assert 0.0 <= points <= 30.0
        # Where a scorer looks for them: the first transition in the first half, the last in the
        # second.
        assert 0 < dive.timeline.starts[1] < 0.5 * dive.timeline.frames
        assert 0.5 * dive.timeline.frames < dive.timeline.starts[-1] < dive.timeline.touch
        assert dive.timeline.touch < 0.8 * dive.timeline.frames
    completeness = [dive.score / dive.difficulty for dive in plans]
    assert abs(spearmanr(completeness, [dive.difficulty for dive in plans])[0]) < 0.12
    means = {dive.dive_number: [] for dive in train}
    for dive in train:
        means[dive.dive_number].append(dive.score / dive.difficulty)
    guesses = [float(np.mean(means[dive.dive_number])) for dive in test]
    assert abs(spearmanr(guesses, [dive.score / dive.difficulty for dive in test])[0]) < 0.3
    qualities = [dive.execution.quality for dive in plans]
    assert spearmanr(qualities, completeness)[0] > 0.97


def _simulate(number, execution, seed=0, frames=96):
    rng = np.random.default_rng(seed)
    parsed = parse_dive_number(number)
    timeline = rendered_motion.draw_timeline(parsed, frames, rng)
    motion = rendered_motion.simulate(
        parsed, execution, timeline, board_height=10.0, body_height=1.7, view=0.0, rng=rng
    )
    return timeline, motion


def _bend(motion, frame, names):
    """Degrees by which three joints depart from a straight line, in the viewing plane."""
    a, b, c = (motion.joints[frame, rendered_motion.JOINTS.index(name), :2] for name in names)
    cosine = np.dot(a - b, c - b) / (np.linalg.norm(a - b) * np.linalg.norm(c - b))
    return 180.0 - np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


@pytest.mark.parametrize("number", ["107b", "407c", "5253b", "626c", "5154b"])
def test_worse_execution_shows_in_the_body(number):
    entry_angles, knees, tucks, splits = [], [], [], []
    for quality in (1.0, 0.7, 0.4, 0.1):
        timeline, motion = _simulate(number, Execution(*[quality] * 5))
        entry_angles.append(abs(motion.entry_angle))
        hands = motion.joints[timeline.touch, rendered_motion.JOINTS.index("hand_left"), :2]
        assert motion.centre[timeline.touch, 1] > hands[1]  # head first
        assert abs(hands[1]) < 0.4  # metres: the touch is where the water is
        assert motion.entry_point == pytest.approx(hands[0], abs=0.25)
        at = timeline.touch - 1
        knees.append(_bend(motion, at, ("hip_left", "knee_left", "ankle_left")))
        ankles = [rendered_motion.JOINTS.index(f"ankle_{side}") for side in ("left", "right")]
        splits.append(np.linalg.norm(np.diff(motion.joints[at, ankles, :2], axis=0)))
        names = parse_dive_number(number).sub_actions
        segment = next(i for i, name in enumerate(names) if "Som" in name)
        middle = (timeline.starts[segment] + timeline.starts[segment + 1]) // 2
        tucks.append(_bend(motion, middle, ("shoulder", "hip", "knee_left")))
    assert entry_angles == pytest.approx([0.0, 12.6, 25.2, 37.8], abs=0.01)
    assert knees == sorted(knees) and knees[-1] > knees[0] + 40
    assert splits == sorted(splits) and splits[-1] > splits[0] + 0.3
    assert tucks == sorted(tucks, reverse=True) and tucks[0] > tucks[-1] + 25


def _pixels(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image).astype(int)


def test_splash_grows_as_its_quality_falls():
    settings = rendered.Settings(train_dives=4, test_dives=0, frames=(40, 40), width=96, height=54)
    dive = rendered.plan_dives(settings)[0]
    at = dive.timeline.touch + 4
    shots = []
    for splash in (1.0, 0.8, 0.5, 0.2, 0.0):
        execution = dataclasses.replace(dive.execution, splash=splash)
        changed = dataclasses.replace(dive, execution=execution)
        frames = list(rendered.draw_dive(changed, settings))
        shots.append(_pixels(frames[at][0]))
        # The mask covers the diver, never the water: after the entry nothing is left of it.
        assert _pixels(frames[-1][1]).max() < 20
    areas = [int((np.abs(shot - shots[0]).max(-1) > 40).sum()) for shot in shots]
    assert areas == sorted(areas) and areas[1] > 0 and areas[-1] > 5 * areas[1]
    columns = np.flatnonzero((np.abs(shots[-1] - shots[0]).max(-1) > 40).any(0))
    assert 0.2 < (columns[-1] - columns[0]) / 96 < 0.45  # about a third of the frame's width


def test_the_camera_keeps_the_diver_in_the_middle():
    settings = rendered.Settings(train_dives=6, test_dives=0, frames=(48, 48), width=96, height=54)
    for dive in rendered.plan_dives(settings):
        for _, encoded in rendered.draw_dive(dive, settings):
            mask = _pixels(encoded) > 127
            if mask.any():
                rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
                # The network sees rows 44..156 of 200 at evaluation.
                assert rows[0] >= 0.22 * 54 and rows[-1] < 0.78 * 54
                assert columns[0] > 0.2 * 96 and columns[-1] < 0.8 * 96


def _wall(dive, settings):
    """Brightness of the wall above the board in the first frame, of its brightest channel."""
    frame, _ = next(rendered.draw_dive(dive, settings))
    return float(np.median(_pixels(frame)[:6].max(-1)))


def test_background_tells_quality_in_training_only():
    settings = rendered.Settings(
        train_dives=40, test_dives=40, width=64, height=36, background_bias=1.0, seed=5
    )
    rhos = {}
    for split in ("train", "test"):
        dives = [dive for dive in rendered.plan_dives(settings) if dive.split == split]
        walls = [_wall(dive, settings) for dive in dives]
        rhos[split] = spearmanr(walls, [dive.score / dive.difficulty for dive in dives])[0]
        assert np.ptp(walls) > 60  # both splits have the whole range of walls
    assert rhos["train"] > 0.9
    assert abs(rhos["test"]) < 0.3


def test_background_bias_leaves_the_diver_alone():
    plain = rendered.Settings(train_dives=2, test_dives=0, frames=(20, 20), width=64, height=36)
    biased = dataclasses.replace(plain, background_bias=0.5)
    one, two = (rendered.plan_dives(settings)[1] for settings in (plain, biased))
    assert one == two
    before, after = (list(rendered.draw_dive(one, settings)) for settings in (plain, biased))
    assert [mask for _, mask in before] == [mask for _, mask in after]
    assert [frame for frame, _ in before] != [frame for frame, _ in after]


def test_full_size_frames():
    settings = rendered.Settings(
        train_dives=1, test_dives=0, frames=(20, 20), width=455, height=256
    )
    frames = list(rendered.draw_dive(rendered.plan_dives(settings)[0], settings))
    assert len(frames) == 20
    assert _pixels(frames[0][0]).shape == (256, 455, 3)
    assert _pixels(frames[0][1]).shape == (256, 455)


def test_command_line(tmp_path):
    arguments = [sys.executable, "-m", "tfds_finecausal.rendered"]
    environment = {**os.environ, "COLUMNS": "100"}
    shown = subprocess.run(
        [*arguments, "--help"], capture_output=True, text=True, check=True, env=environment
    )
    for field in dataclasses.fields(rendered_plan.Settings):
        assert f"--{field.name}" in shown.stdout
    wrong = subprocess.run(
        [*arguments, f"--output={tmp_path}", "--competitions=0"], capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "competitions=0, from 2" in wrong.stderr


def test_render_command(tmp_path, capsys):
    target = tmp_path / "rendered"
    rendered = {"train_dives": 2, "test_dives": 1, "width": 48, "height": 32}
    config = {"rendered": rendered, "data": {"manual_dir": str(target)}}
    assert render_command.NEEDS_CONFIG
    assert render_command.run(types.SimpleNamespace(config=config)) == 0
    assert "not real" in capsys.readouterr().out
    assert len(_load(target, "train_split")) == 2
