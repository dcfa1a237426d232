"""Data as people have it: a release without masks through the commands, videos of any format."""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import finecausal_jax as fc
from finecausal_jax.data.clips import Clip, read_folder
from finecausal_jax.data.dives import DiveSource
from finecausal_jax.data.preprocessing import evaluation_video
from finecausal_jax.data.video_files import read_video
from finecausal_jax.explain import explanation, pixels
from finecausal_jax.scoring.new_dive import Announced, score_new
from finecausal_jax.scoring.protocol import Choice
from tests.data import videos
from tfds_finecausal import rendered
from tfds_finecausal.annotations import Folders
from tfds_finecausal.building import build_dataset
from tfds_finecausal.rendered import render_release

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def test_a_release_without_masks_trains_evaluates_and_banks(tmp_path):
    sizes = {
        "data.manual_dir": tmp_path / "release",
        "data.data_dir": tmp_path / "tfds",
        "data.masks": "none",
        "rendered.train_dives": 16,
        "rendered.test_dives": 4,
        "rendered.competitions": 4,
        "rendered.unseen_competitions": 0,
        "train.epochs": 1,
        "train.warmup_epochs": 0,
        "train.log_every": 1,
    }
    options = [f"--config.{key}={value}" for key, value in sizes.items()]
    run = f"--workdir={tmp_path / 'run'}"

    def launch(*arguments):
        return subprocess.run(
            [sys.executable, "launch.py", *arguments, "--config=configs/demo.py", *options],
            cwd=ROOT,
            env=os.environ,
            capture_output=True,
            text=True,
            check=False,
        )

    assert launch("render").returncode == 0
    shutil.rmtree(tmp_path / "release/FineDiving_HM")
    assert launch("build").returncode == 0
    trained = launch("train", run)
    assert trained.returncode == 0, trained.stderr
    assert "16 of 16 training dives have no masks" in trained.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["train/loss_mask"] == 0 for line in lines if "train/loss" in line)
    evaluated = launch("evaluate", run, "--checkpoint=latest")
    assert "4 of 4 test dives and 16 of 16 training dives have no mask" in evaluated.stdout
    first = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert first["metrics"]["mask_iou"] is None
    assert launch("bank", run, "--checkpoint=latest").returncode == 0
    bank = f"--bank={tmp_path / 'run/bank'}"
    assert launch("evaluate", run, "--checkpoint=latest", bank).returncode == 0
    second = json.loads((tmp_path / "run/evaluation.json").read_text())
    for one, other in zip(first["dives"], second["dives"], strict=True):
        assert one["predicted_score"] == pytest.approx(other["predicted_score"], abs=1e-4)
    refused = launch("evaluate", run, "--checkpoint=latest", "--masks")
    assert refused.returncode == 2 and "--masks needs the masks of all dives" in refused.stderr


# Name, codec, pixel format, options; and by how many points of completeness a score may move, twice
# the most that was seen (docs/data.md). Without loss none is allowed.
FORMATS = {
    "FFV1, RGB": (".mkv", "ffv1", "bgr0", {}, 0.0),
    "H.264, 4:4:4": (".mp4", "libx264", "yuv444p", {"crf": "18"}, 0.4),
    "H.264, 4:2:0": (".mp4", "libx264", "yuv420p", {"crf": "18"}, 0.4),
    "H.264, 4:2:0, crf 28": (".mp4", "libx264", "yuv420p", {"crf": "28"}, 0.4),
    "HEVC, 10 bits": (".mp4", "libx265", "yuv420p10le", {"crf": "18"}, 0.4),
    "VP9": (".webm", "libvpx-vp9", "yuv420p", {"crf": "20", "b": "0"}, 0.4),
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Rendered dives, exemplars among them, and the scorer that comes with the package."""
    folder = tmp_path_factory.mktemp("videos")
    release = render_release(
        folder / "release",
        workers=0,
        progress=False,
        seed=7,
        train_dives=24,
        test_dives=6,
        competitions=4,
        width=192,
        height=108,
    )
    build_dataset(release, folder / "tfds", folders=Folders())
    return release, DiveSource(folder / "tfds", "train"), DiveSource(folder / "tfds", "test")


@pytest.mark.parametrize("name", FORMATS)
def test_a_video_scores_as_its_frames_do(name, scored, tmp_path):
    release, train, test = scored
    suffix, codec, pixels, options, most = FORMATS[name]
    scorer = fc.Scorer.load("rendered", progress=False)
    moved, apart = [], []
    for info in test.infos:
        folder = release / "FineDiving" / info.competition / str(info.index)
        frames = read_folder(folder, key=("own", 0))
        images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
        path = videos.write(
            tmp_path / f"{info.index}{suffix}", images, codec, pixels, 25, None, options
        )
        # At once in the size of the network, as the command has it.
        video = read_video(path, resize=scorer.preprocessing.resize, key=("own", 0)).clip
        clips = [dataclasses.replace(frames, frame_numbers=np.arange(len(images))), video]
        prepared = [evaluation_video(clip, scorer.preprocessing).frames for clip in clips]
        apart.append(np.abs(prepared[0].astype(int) - prepared[1]))
        scores = [
            score_new(scorer, Announced(clip, info.dive_number, 3.0), train, Choice(3))
            for clip in clips
        ]
        moved.append(abs(scores[0].completeness - scores[1].completeness))
    print(
        f"| {name} | {np.mean(apart):.2f} | {np.max(apart)} | {np.mean(moved):.3f} | "
        f"{np.max(moved):.3f} |"
    )
    assert np.max(moved) <= most
    if not most:
        assert not np.any(apart)


def test_a_planted_fault_of_the_entry_is_mended_by_an_entry_without(tmp_path):
    """Of the network that comes along, which sees the splash alone (its model card)."""
    settings = rendered.Settings(
        train_dives=24, test_dives=6, competitions=4, width=192, height=108
    )
    scorer = fc.Scorer.load("rendered", progress=False)
    moved = []
    for plan in rendered.plan_dives(settings)[:4]:
        seen, cuts = [], []
        for splash in (0.0, 1.0):  # the same dive, but for its splash
            execution = dataclasses.replace(plan.execution, splash=splash)
            pictures = rendered.draw_dive(dataclasses.replace(plan, execution=execution), settings)
            encoded = tuple(_png(np.asarray(picture.frame)) for picture in pictures)
            clip = Clip(("dive", len(seen)), np.arange(len(encoded)), encoded)
            seen.append(explanation.see(scorer, clip))
            stages = plan.timeline.stages
            cuts.append(
                tuple(
                    int(np.searchsorted(seen[-1].rows, stages[name][0]))
                    for name in ("flight", "entry")
                )
            )
        poor, good = (pixels.pixels_of(one, cut) for one, cut in zip(seen, cuts, strict=True))
        known = {("dive", 1): seen[1].encoding}
        effects = pixels.effects_of(
            scorer, pixels.edits(poor, good), seen[0].encoding, [("dive", 1)], known
        )
        moved.append({one.name: one.mean for one in effects})
    for name in moved[0]:
        print(name, [round(one[name], 3) for one in moved])
    mean = {name: np.mean([one[name] for one in moved]) for name in moved[0]}
    assert mean["nothing is changed"] == 0
    entry = mean["entry: the exemplar's frames"]
    assert entry > 1.0
    for other in ("forward", "twist"):
        assert abs(mean[f"{other}: the exemplar's frames"]) < 0.2 * entry


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
