"""The settings, weights and videos of a measurement, as the benchmark makes them."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.child import Options
from benchmarks.task import WEIGHTS, Task, write_inputs, write_weights
from finecausal_jax.settings import Settings, read

_CONFIGS = {"full": "finediving_hm", "tiny": "demo"}
_MATMUL_ROWS = {"full": 8192, "tiny": 256}
# A network of two windows of eight frames: what compiles and runs on a CPU in a minute.
_TINY: dict[str, dict[str, Any]] = {
    "data": {"frames": 16, "frame_size": 32},
    "model": {
        "windows": 2,
        "window_frames": 8,
        "window_stride": 8,
        "width": 1 / 16,
        "frame_width": 1 / 8,
        "embedding": 8,
        "stage_frames": (6, 8, 6),
        "stage_margin": 1,
    },
    "evaluate": {"exemplars": 2, "video_batch": 2},
}


def make_settings(sizes: str, dtype: str) -> Settings:
    """The settings of `configs/finediving_hm.py`, or a tiny one; every step updates.

    Args:
      sizes: "full" or "tiny".
      dtype: compute dtype.
    """
    config = importlib.import_module(f"configs.{_CONFIGS[sizes]}").get_config()
    if sizes == "tiny":
        for section, values in _TINY.items():
            config[section].update(values)
    config.model.dtype = dtype
    config.train.accumulate = 1
    return read(config)


def make_task(options: Options, section: str, pairs: int, setting: str = "") -> Task:
    """A worker's task; writes its weights and videos where no earlier process did.

    Args:
      options: "sizes", "dtype", "device", "cache" and "source".
      section: "forward", "train" or "evaluation".
      pairs: of a forward pass or a step.
      setting: of the PyTorch baseline.
    """
    settings = make_settings(options["sizes"], options["dtype"])
    exemplars = settings.evaluate.exemplars
    videos = 1 + exemplars if section == "evaluation" else 2 * pairs
    return Task(
        section=section,
        folder=str(folder_for(options, settings, videos)),
        config=dataclasses.asdict(settings),
        batch_size=pairs,
        exemplars=exemplars,
        video_batch=settings.evaluate.video_batch,
        warmup=2,
        threads=len(os.sched_getaffinity(0)),
        device=options["device"],
        matmul_size=_MATMUL_ROWS[options["sizes"]],
        setting=setting,
    )


def folder_for(
    options: Options,
    settings: Settings,
    videos: int,
    weights: Callable[[Settings, pathlib.Path], None] = write_weights,
    inputs: Callable[[Settings, int, pathlib.Path], None] = write_inputs,
) -> pathlib.Path:
    """The folder with weights and that many videos, which appears whole or not at all.

    Args:
      options: "sizes", "source" and "cache".
      settings: from `make_settings`.
      videos: how many.
      weights, inputs: write the files `WEIGHTS` and `INPUTS` into a folder.
    """
    above = pathlib.Path(options["cache"]) / "inputs"
    kind = f"{options['sizes']}_{options['source']}"
    folder = above / f"{kind}_{videos}"
    if not folder.exists():
        above.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=above) as name:
            new = pathlib.Path(name) / "new"
            new.mkdir()
            known = next(above.glob(f"{kind}_*/{WEIGHTS}"), None)
            if known is None:
                weights(settings, new)
            else:
                os.link(known, new / WEIGHTS)  # the same for any number of videos
            inputs(settings, videos, new)
            new.rename(folder)
    return folder
