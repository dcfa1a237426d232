"""What every worker of a benchmark is given: the same weights and videos, and what to time.

`make_task` writes weights and inputs into a folder as NumPy files, so that each worker, in
whichever framework, reads the same numbers. Nothing here starts a device or imports PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from finecausal_jax.data.dives import STORED, dataset_folder
from finecausal_jax.interop.expected import expected_tensors
from finecausal_jax.interop.pytorch import State
from finecausal_jax.settings import Settings, read, things

WEIGHTS, INPUTS = "weights.npz", "inputs.npz"


@dataclasses.dataclass(frozen=True)
class Task:
    """One section for one worker; travels as JSON.

    Attributes:
      section: one of `SECTIONS`.
      folder: holds `WEIGHTS` and `INPUTS`.
      config: the settings as nested dicts.
      batch_size: pairs of a forward pass or a training step.
      exemplars: exemplars of a query.
      video_batch: videos that the test protocol encodes at once.
      warmup: runs that are thrown away after the first one, which compiles.
      threads: processor cores to use.
      device: "cpu", "gpu" or "tpu".
      matmul_size: rows of the square matrices whose product gives the machine's peak.
      setting: of the PyTorch baseline; empty for XLA.
    """

    section: str
    folder: str
    config: dict[str, Any]
    batch_size: int
    exemplars: int
    video_batch: int
    warmup: int
    threads: int
    device: str
    matmul_size: int
    setting: str = ""

    def to_json(self) -> str:
        """The task on one line."""
        return json.dumps(dataclasses.asdict(self), default=list)

    @staticmethod
    def from_json(line: str) -> Task:
        """The task that `to_json` wrote."""
        return Task(**json.loads(line))

    def settings(self) -> Settings:
        """The settings that `config` holds."""
        return read(self.config)

    def weights(self) -> State:
        """The weights as {module: {key: array}}, names and layouts of a released checkpoint."""
        state: State = {}
        with np.load(pathlib.Path(self.folder) / WEIGHTS) as arrays:
            for name in arrays.files:
                module, key = name.split("/")
                state.setdefault(module, {})[key] = arrays[name]
        return state

    def inputs(self) -> dict[str, np.ndarray]:
        """The videos.

        Returns:
          "frames" float32 [n, t, h, w, 3], normalised; "frames_uint8", the same as pixels; "mask"
          uint8 [n, t, h, w]; "transitions" int32 [n, 2], frames; "completeness" float32 [n],
          points.
        """
        with np.load(pathlib.Path(self.folder) / INPUTS) as arrays:
            return dict(arrays)


def built_data_sets(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The builder configs whose pipeline can be timed: those that are built.

    Args:
      config: as nested dicts. With `data.workers`, whose start would count where data sets take
        turns, only `data.stored` is timed.
    """
    data = config["data"]
    names = (data["stored"],) if data["workers"] else STORED
    return tuple(name for name in names if dataset_folder(data["data_dir"], name).is_dir())


def write_weights(settings: Settings, folder: pathlib.Path) -> None:
    """Writes random weights of the settings' model, the same for the same `settings.seed`.

    They keep the size of activations through the depth, so that frameworks can be compared: weights
    of variance 1.6 / fan-in, scales and variances about 1, shifts about 0.
    """
    arrays = {}
    for (module, key), tensor in expected_tensors(things.make_model(settings)).items():
        name = f"{module}/{key}"
        if tensor.dtype != np.float32:
            arrays[name] = np.zeros(tensor.shape, tensor.dtype)  # BatchNorm's counts
            continue
        rng = np.random.default_rng((settings.seed, zlib.crc32(name.encode())))
        if len(tensor.shape) > 1:
            bound = math.sqrt(3 * 1.6 / max(1, math.prod(tensor.shape[1:])))
            low, high = -bound, bound
        elif key.endswith("bias") or key.endswith("running_mean"):
            low, high = -0.1, 0.1
        else:
            low, high = 0.7, 1.3
        arrays[name] = rng.random(tensor.shape, np.float32) * np.float32(high - low)
        arrays[name] += np.float32(low)
    np.savez(folder / WEIGHTS, **arrays)


def write_inputs(settings: Settings, videos: int, folder: pathlib.Path) -> None:
    """Writes `videos` random videos: coarse blocks of colour under fine noise."""
    from finecausal_jax.data.preprocessing import normalize

    data = settings.data
    rng = np.random.default_rng(settings.seed)
    blocks = math.ceil(data.frame_size / 8)
    coarse = rng.integers(40, 216, (videos, data.frames, blocks, blocks, 3))
    coarse = coarse.repeat(8, axis=2).repeat(8, axis=3)
    coarse = coarse[:, :, : data.frame_size, : data.frame_size]
    pixels = (coarse + rng.integers(-40, 40, coarse.shape)).astype(np.uint8)
    mask = (coarse[..., 0] > 160).astype(np.uint8) * 255
    third = data.frames // 3
    transitions = np.tile(np.array([third, 2 * third], np.int32), (videos, 1))
    np.savez(
        folder / INPUTS,
        frames_uint8=pixels,
        frames=normalize(pixels),
        mask=mask,
        transitions=transitions,
        completeness=rng.uniform(10, 30, videos).astype(np.float32),
    )
