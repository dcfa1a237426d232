import dataclasses
import hashlib
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
from finecausal_jax.runtime.errors import InputError
from tfds_finecausal import rendered
from tfds_finecausal.dive_numbers import parse_dive_number
from tfds_finecausal.rendered import motion, plan, release
from tfds_finecausal.rendered.body import JOINTS
from tfds_finecausal.rendered.judging import ASPECTS, Execution, execution_points
from tfds_finecausal.rendered.venue import draw_venue

TINY = dict(train_dives=2, test_dives=0, frames=(48, 48), width=64, height=36)


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
    monkeypatch.setattr(release, "_write_dive", lambda *arguments: drawn.append(arguments))
    rendered.render_release(spoiled, workers=0, progress=False, seed=3, **small_settings)
    assert not drawn and _hash_tree(spoiled) == before
    rendered.render_release(spoiled, workers=0, progress=False, seed=4, **small_settings)
    assert len(drawn) == 16
    assert json.loads((spoiled / "RENDERED.json").read_text())["settings"]["seed"] == 4
    assert not (spoiled / "FineDiving").exists()  # nothing of the older one is left


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_run_leaves_what_was_there(
    small_release, spoiled, monkeypatch, before, small_settings
):
    target = spoiled if before else spoiled.with_name("fresh")
    content = _hash_tree(spoiled)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "_write_annotations", interrupt)
    monkeypatch.setattr(release, "_write_dive", lambda *arguments: None)
    with pytest.raises(KeyboardInterrupt):
        rendered.render_release(target, workers=0, progress=False, seed=9, **small_settings)
    assert _hash_tree(spoiled) == content
    assert [path.name for path in spoiled.parent.iterdir()] == [spoiled.name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": (96, 20)}, r"frames=\(96, 20\)"),
        ({"confounders": "all", "confounding": 1.5}, "confounding=1.5, from -1 to 1"),
        ({"confounders": "wall"}, "confounders='wall', expected some of background, clothing"),
        ({"test_confounding": 0.5}, "confounding without confounders"),
        ({"unseen_competitions": 7}, "unseen_competitions=7 of 8, 0 or from 2, with 2 left"),
        ({"unseen_competitions": 1}, "unseen_competitions=1 of 8"),
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
    assert spearmanr(qualities, completeness)[0] > 0.95
    for name in ASPECTS:  # no aspect stands for the others
        values = [getattr(dive.execution, name) for dive in plans]
        assert spearmanr(values, completeness)[0] < 0.8


def test_test_competitions_are_unseen_where_asked():
    settings = rendered.Settings(train_dives=200, test_dives=80, unseen_competitions=2)
    plans = rendered.plan_dives(settings)
    sides = {
        split: {dive.competition for dive in plans if dive.split == split}
        for split in ("train", "test")
    }
    assert len(sides["train"]) == 6 and len(sides["test"]) == 2
    assert not sides["train"] & sides["test"]
    official = dataclasses.replace(settings, unseen_competitions=0)
    seen = {d.competition for d in rendered.plan_dives(official) if d.split == "test"}
    assert len(seen) == 8


def test_truth_is_beside_the_release(small_release, tmp_path):
    truth = rendered.read_truth(small_release)
    aqa = _load(small_release, "fine-grained_annotation_aqa")
    assert set(truth) == set(aqa)
    for key, (number, score, difficulty, transits, labels) in aqa.items():
        one = truth[key]
        assert (one.dive_number, one.score, one.difficulty) == (number, score, difficulty)
        stages = list(one.stages.values())
        assert stages[0] == (0, transits[0] + 1) and stages[-1] == (transits[-1] + 1, len(labels))
        assert stages[0][1] == stages[1][0] and stages[1][1] == stages[2][0]
        assert stages[-1][0] < one.touch < len(labels)
        assert one.points_lost == pytest.approx(one.execution.points_lost)
    plans = rendered.plan_dives(rendered.Settings(**_settings_of(small_release)))
    assert {dive.key: dive.execution for dive in plans} == {
        key: one.execution for key, one in truth.items()
    }
    with pytest.raises(InputError, match="RENDERED.json: expected settings and truth"):
        rendered.read_truth(tmp_path)  # as of a real release
    (tmp_path / "RENDERED.json").write_text('{"version": 2, "seed": 0}')
    with pytest.raises(InputError, match="render the release again"):
        rendered.read_truth(tmp_path)


def _settings_of(folder):
    return json.loads((folder / "RENDERED.json").read_text())["settings"]


def _simulate(number, execution, seed=0, frames=96):
    rng = np.random.default_rng(seed)
    parsed = parse_dive_number(number)
    timeline = motion.draw_timeline(parsed, frames, rng)
    habits = motion.draw_habits(parsed, rng)
    return timeline, motion.simulate(
        parsed, execution, timeline, habits, board_height=10.0, view=0.0
    )


def _bend(moved, frame, names):
    """Degrees by which three joints depart from a straight line, in the viewing plane."""
    a, b, c = (moved.joints[frame, JOINTS.index(name), :2] for name in names)
    cosine = np.dot(a - b, c - b) / (np.linalg.norm(a - b) * np.linalg.norm(c - b))
    return 180.0 - np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _tilt(moved, frame, low, high):
    """Degrees by which the line between two joints departs from the vertical."""
    ends = [moved.joints[frame, JOINTS.index(name), :2] for name in (low, high)]
    x, y = ends[1] - ends[0]
    return np.degrees(np.arctan2(abs(x), y))


def _seen(number, aspect, quality):
    """What is seen of one fault, in degrees or metres."""
    timeline, moved = _simulate(number, dataclasses.replace(Execution(), **{aspect: quality}))
    names = parse_dive_number(number).sub_actions
    segment = next(i for i, name in enumerate(names) if "Som" in name)
    middle = (timeline.starts[segment] + timeline.starts[segment + 1]) // 2
    hands = moved.joints[timeline.touch, JOINTS.index("hand_left"), :2]
    assert moved.centre[timeline.touch, 1] > hands[1]  # head first
    assert abs(hands[1]) < 0.4  # metres: the touch is where the water is
    assert moved.entry_point == pytest.approx(hands[0], abs=0.25)
    knees = [JOINTS.index(f"knee_{side}") for side in ("left", "right")]
    return {
        "lean": _tilt(moved, timeline.takeoff, "toe_left", "shoulder"),
        "distance": moved.entry_point,
        "line": _bend(moved, middle, ("hip_left", "knee_left", "ankle_left"))
        if number.endswith("b")
        else -_bend(moved, middle, ("hip", "waist", "shoulder")),
        "tightness": -_bend(moved, middle, ("shoulder", "hip", "knee_left")),
        "legs": np.linalg.norm(np.diff(moved.joints[middle, knees, :2], axis=0)),
        "angle": _bend(moved, timeline.touch, ("hip_left", "knee_left", "ankle_left")),
        "rotation": abs(moved.entry_angle),
    }[aspect]


@pytest.mark.parametrize("aspect", [name for name in ASPECTS if name != "splash"])
@pytest.mark.parametrize("number", ["107b", "407c", "5253b", "626c", "5154b"])
def test_worse_execution_shows_in_the_body(number, aspect):
    seen = [_seen(number, aspect, quality) for quality in (1.0, 0.7, 0.4, 0.0)]
    if aspect in ("lean", "distance"):  # to either side of the faultless dive
        seen = [abs(one - seen[0]) for one in seen]
    assert seen == sorted(seen)
    least = {"lean": 8, "distance": 0.9, "legs": 0.3, "line": 15}.get(aspect, 30)
    assert seen[-1] - seen[0] > least


def _dive(**settings):
    settings = rendered.Settings(**{**TINY, **settings})
    return rendered.plan_dives(settings)[1], settings


def _changed(before, after):
    """Frames in which something differs."""
    pairs = zip(before, after, strict=True)
    return [
        i
        for i, (a, b) in enumerate(pairs)
        if any((x != y).any() for x, y in zip(a, b, strict=True))
    ]


@pytest.mark.parametrize("aspect", list(ASPECTS))
def test_an_aspect_changes_its_own_stage_and_nothing_else(aspect):
    dive, settings = _dive()
    dive = dataclasses.replace(dive, execution=Execution())
    other = dataclasses.replace(dive, execution=Execution(**{aspect: 0.0}))
    before, after = (list(rendered.draw_dive(one, settings)) for one in (dive, other))
    changed = _changed(before, after)
    first, end = dive.timeline.stages[ASPECTS[aspect].stage]
    assert changed
    if aspect == "distance":  # a jump's distance carries on to the water
        assert changed[0] >= dive.timeline.takeoff - 3
        return
    # The camera is smooth: it looks three frames ahead and back.
    assert first - 3 <= changed[0] and changed[-1] < end + 3
    if aspect == "splash":
        assert changed[0] >= dive.timeline.touch
        for one, two in zip(before, after, strict=True):
            dry = (one.splash == 0) & (two.splash == 0)
            assert (one.frame[dry] == two.frame[dry]).all()


def test_a_venue_changes_nothing_of_the_dive():
    dive, settings = _dive()
    others = [draw_venue(dive.venue.board_height, seed=99, number=n).background for n in range(2)]
    venue = dataclasses.replace(dive.venue, background=others[0])
    before, after = (
        list(rendered.draw_dive(one, settings))
        for one in (dive, dataclasses.replace(dive, venue=venue))
    )
    assert len(_changed(before, after)) == len(before)
    for one, two in zip(before, after, strict=True):
        assert (one.diver == two.diver).all() and (one.splash == two.splash).all()
        inside = one.diver == 255
        assert (one.frame[inside] == two.frame[inside]).all()
        assert (one.frame[~inside] != two.frame[~inside]).any()


@pytest.mark.parametrize("part", ["background", "clothing", "camera", "lighting"])
def test_a_cue_changes_its_part_of_the_venue_alone(part):
    dive, settings = _dive(confounders=part, confounding=1.0)
    plain, _ = _dive()
    assert (dive.execution, dive.timeline, dive.habits, dive.marks) == (
        plain.execution, plain.timeline, plain.habits, plain.marks,
    )  # fmt: skip
    low, high = (
        list(rendered.draw_dive(dataclasses.replace(dive, cue=cue), settings)) for cue in (0.1, 0.9)
    )
    assert len(_changed(low, high)) >= dive.timeline.touch
    same = [
        (one.diver == two.diver).all() and (one.splash == two.splash).all()
        for one, two in zip(low, high, strict=True)
    ]
    assert all(same) == (part != "camera")
    if part == "clothing":
        for one, two in zip(low, high, strict=True):
            assert (one.frame[one.diver == 0] == two.frame[one.diver == 0]).all()


def test_cues_tell_quality_as_strongly_as_asked():
    settings = rendered.Settings(
        train_dives=400, test_dives=400, confounders="all", confounding=0.8, test_confounding=-0.5
    )
    plans = rendered.plan_dives(settings)
    for split, strength in (("train", 0.8), ("test", -0.5)):
        dives = [dive for dive in plans if dive.split == split]
        cues = [dive.cue for dive in dives]
        told = spearmanr(cues, [dive.execution.quality for dive in dives])[0]
        assert told == pytest.approx(strength, abs=0.1)
        # The same looks occur on both sides, as often.
        assert np.quantile(cues, (0.25, 0.5, 0.75)) == pytest.approx((0.25, 0.5, 0.75), abs=0.08)
    untied = rendered.plan_dives(dataclasses.replace(settings, confounding=0.0))[:400]
    told = spearmanr([dive.cue for dive in untied], [dive.execution.quality for dive in untied])
    assert abs(told[0]) < 0.12


def test_splash_grows_as_its_quality_falls():
    dive, settings = _dive(frames=(40, 40), width=96, height=54)
    at = dive.timeline.touch + 4
    shots = []
    for splash in (1.0, 0.8, 0.5, 0.2, 0.0):
        execution = dataclasses.replace(dive.execution, splash=splash)
        pictures = list(
            rendered.draw_dive(dataclasses.replace(dive, execution=execution), settings)
        )
        shots.append(pictures[at].splash > 127)
        # The mask covers the diver, never the water: after the entry nothing is left of it.
        assert pictures[-1].diver.max() < 20
    areas = [int(shot.sum()) for shot in shots]
    assert areas == sorted(areas) and areas[1] > 0 and areas[-1] > 5 * areas[1]
    columns = np.flatnonzero(shots[-1].any(0))
    assert 0.2 < (columns[-1] - columns[0]) / 96 < 0.45  # about a third of the frame's width


def test_the_camera_keeps_the_diver_in_the_middle():
    settings = rendered.Settings(train_dives=6, test_dives=0, frames=(48, 48), width=96, height=54)
    for dive in rendered.plan_dives(settings):
        for picture in rendered.draw_dive(dive, settings):
            mask = picture.diver > 127
            if mask.any():
                rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
                # The network sees rows 44..156 of 200 at evaluation.
                assert rows[0] >= 0.22 * 54 and rows[-1] < 0.78 * 54
                assert columns[0] > 0.2 * 96 and columns[-1] < 0.8 * 96


def test_full_size_frames():
    settings = rendered.Settings(
        train_dives=1, test_dives=0, frames=(20, 20), width=455, height=256
    )
    frames = list(rendered.draw_dive(rendered.plan_dives(settings)[0], settings))
    assert len(frames) == 20
    assert frames[0].frame.shape == (256, 455, 3)
    assert frames[0].diver.shape == frames[0].splash.shape == (256, 455)


def test_command_line(tmp_path):
    arguments = [sys.executable, "-m", "tfds_finecausal.rendered"]
    environment = {**os.environ, "COLUMNS": "100"}
    shown = subprocess.run(
        [*arguments, "--help"], capture_output=True, text=True, check=True, env=environment
    )
    for field in dataclasses.fields(plan.Settings):
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
