"""FineCausal in plain PyTorch: the baseline that the JAX version is timed against.

Nothing else in the project imports this package, and it needs PyTorch, which the project itself
does not. Module and parameter names are those of released checkpoints, so `load_checkpoint` reads
a `best.pth` with strict key matching.

    from benchmarks import torch_baseline
    model = torch_baseline.FineCausal().eval()
    torch_baseline.load_checkpoint(model, "best.pth")
    model = torch_baseline.apply_setting(model, "channels_last")
    query, exemplars = ...  # normalised frames, [3, t, h, w] and [m, 3, t, h, w]
    score = torch_baseline.score_dive(model, query, exemplars, completeness, difficulty)
"""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError(
        "The PyTorch baseline needs PyTorch, which is not installed: expected torch 2.13, found"
        " none. Install it with `pip install torch==2.13.0`, or benchmark without the baseline.",
        name="torch",
    )

from benchmarks.torch_baseline.checkpoint import load_checkpoint, load_state
from benchmarks.torch_baseline.fineparser import FineParser
from benchmarks.torch_baseline.model import FineCausal
from benchmarks.torch_baseline.outputs import Features, Outputs
from benchmarks.torch_baseline.schedule import Schedule
from benchmarks.torch_baseline.scoring import score_dive
from benchmarks.torch_baseline.settings import SETTINGS, apply_setting
from benchmarks.torch_baseline.training import Batch, StepLosses, Trainer

__all__ = [
    "SETTINGS",
    "Batch",
    "Features",
    "FineCausal",
    "FineParser",
    "Outputs",
    "Schedule",
    "StepLosses",
    "Trainer",
    "apply_setting",
    "load_checkpoint",
    "load_state",
    "score_dive",
]
