"""A synthetic split without files, and a stand-in model that can be computed by hand."""

import dataclasses
import io
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import finecausal_jax as fc
from finecausal_jax.data import preprocessing
from finecausal_jax.data.clips import Clip
from finecausal_jax.data.dives import Dive, DiveInfo
from finecausal_jax.scoring.scorer import Scorer

SETTINGS = preprocessing.Preprocessing(frames=8, frame_size=8, resize_width=8, resize_height=8)


class Source:
    """Dives whose frames are flat grey and whose masks are white above a row."""

    def __init__(self, infos, *, size=8, levels=None):
        self.infos = tuple(infos)
        self.keys = tuple(info.key for info in self.infos)
        self.fingerprint = ""
        self.read = []  # rows, in the order in which they were decoded
        self._size = size
        self._levels = levels or [40 + 25 * row for row in range(len(self.infos))]

    def __len__(self):
        return len(self.infos)

    def __getitem__(self, row):
        self.read.append(row)
        count = len(self.infos[row].frame_numbers)
        mask = np.zeros((self._size, self._size), np.uint8)
        mask[: 1 + self._levels[row] % 5] = 255
        frame = np.full((self._size, self._size, 3), self._levels[row], np.uint8)
        info = self.infos[row]
        images = (encode(frame),) * count, (encode(mask),) * count
        return Dive(info, Clip(info.key, info.frame_numbers, *images))


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")  # exact; the pipeline reads any format
    return file.getvalue()


def info(competition, index, dive_number, completeness, difficulty, frames=8):
    third = frames // 3
    return DiveInfo(
        competition=competition,
        index=index,
        dive_number=dive_number,
        score=completeness * difficulty,
        difficulty=difficulty,
        frame_numbers=np.arange(100, 100 + frames),
        frame_labels=np.repeat([1, 2, 3], [third, third, frames - 2 * third]),
    )


@dataclasses.dataclass(frozen=True)
class FakeModel:
    """Delta is (mean pixel of the query less that of the exemplar) times a weight.

    Its mask is foreground where the frame is bright; its transitions are (1 or 2, 6) by the sign of
    delta, so that they depend on the exemplar.
    """

    window_stride: int = 4
    graph_scope: str = "pair"
    name: str = ""  # models of one name share compiled functions
    traced: list = dataclasses.field(default_factory=list, compare=False, hash=False)

    def apply(self, variables, *args, method):
        self.traced.append((method, len(getattr(args[0], "video_feature", args[0]))))
        return getattr(self, method)(variables, *args)

    def encode(self, variables, videos):
        v = videos.shape[0]
        level = jnp.mean(videos, axis=(2, 3, 4))  # [v, t]
        windows = jnp.stack([level[:, s : s + 4] for s in (0, 4)], axis=1)  # [v, 2, 4]
        logits = jnp.stack([videos[:, s : s + 4, ..., 0] for s in (0, 4)], axis=1)
        feature = jnp.mean(windows, axis=-1, keepdims=True)
        return fc.Features(feature, feature, level[..., None], (jnp.zeros((v, 1)), logits))

    def compare(self, variables, query, exemplar):
        size = jnp.mean(query.video_feature - exemplar.video_feature, axis=(1, 2))
        stage = jnp.stack([size, -size], axis=0).reshape(-1, 1) * variables["weight"]
        stage = jnp.broadcast_to(stage, (stage.shape[0], 3))
        first = jnp.where(stage[:, 0] > 0, 1, 2)
        return types.SimpleNamespace(
            delta=stage[:, :1],
            stage_delta_dynamic=1.5 * stage,
            stage_delta_static=0.5 * stage,
            transitions=jnp.stack([first, jnp.full_like(first, 6)], axis=1),
        )


@pytest.fixture
def settings():
    return SETTINGS


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def make_model():
    return FakeModel


@pytest.fixture
def make_info():
    return info


@pytest.fixture
def make_source():
    return Source


@pytest.fixture
def variables():
    return {"weight": jnp.float32(3.0)}


@pytest.fixture
def scorer(model, variables, settings):
    return make_scorer(model, variables, settings)


def make_scorer(model, variables, settings=SETTINGS, **options):
    made_with = {"model.window_stride": model.window_stride}
    return Scorer(model, variables, settings, made_with=made_with, progress=False, **options)


@pytest.fixture
def train_source():
    numbers = ["101b", "101b", "101b", "101b", "107c", "107c", "5253b"]
    rows = [
        info(f"Cup_{row % 2}", row, number, 10.0 + 1.5 * row, 2.0 + 0.2 * row)
        for row, number in enumerate(numbers)
    ]
    return Source(rows)


@pytest.fixture
def test_source():
    numbers = ["101b", "5253b", "107c", "101b", "107c"]
    rows = [
        info("Cup_1", 50 + row, number, 12.0 + (7 * row) % 5, 2.4 + 0.3 * row)
        for row, number in enumerate(numbers)
    ]
    return Source(rows, levels=[60, 175, 81, 52, 193])
