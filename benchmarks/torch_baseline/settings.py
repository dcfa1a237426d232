"""Ways to run the same model: as the reference does, in another memory format, compiled."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.torch_baseline.model import FineCausal
from benchmarks.torch_baseline.trunk import PaddedMaxPool

SETTINGS = ("reference", "channels_last", "compiled")


def apply_setting(model: FineCausal, setting: str) -> FineCausal:
    """Prepares a model for a way of running; its parameters and keys stay as they are.

    Args:
        model: is changed in place; load its weights, and move it to its device, before.
        setting: "reference", eager in the default memory format; "channels_last", eager with the
            convolutions' weights and inputs in channels-last memory; "compiled", the same with
            the encoders compiled by `torch.compile` (needs a C++ compiler on a CPU; the first
            call of each mode compiles).

    On a CPU, PyTorch 2.13 sums BatchNorm's batch statistics in float32 for channels-last inputs
    and in float64 for others (relative errors of a variance over 150,000 values: 1.5e-5 and 6e-8).
    So a channels-last training step strays further from the reference's, with losses within 1e-4;
    a compiled one, which has code of its own for the statistics, does not.

    Returns:
        The model.

    Raises:
        ValueError: for another setting.
    """
    if setting not in SETTINGS:
        raise ValueError(
            f"Setting of the PyTorch baseline: expected one of {SETTINGS}, got {setting!r}."
        )
    if setting != "reference":
        model.clips_format = torch.channels_last_3d
        model.frames_format = torch.channels_last
        formats = {5: torch.channels_last_3d, 4: torch.channels_last}
        for parameter in model.parameters():
            if parameter.dim() in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    if setting == "compiled":
        _hide_pools(model)
        for module in _static_shaped(model):
            module.compile()
    return model


def _static_shaped(model: FineCausal) -> tuple[nn.Module, ...]:
    """The parts whose work does not depend on where transitions lie, with nearly all of it."""
    return model.base_model, model.segmenter, model.video_encoder.backbone


def _hide_pools(model: nn.Module) -> None:
    """Hides max-pools from Inductor's code for a CPU; a GPU gets PyTorch's own way."""
    on_cpu = next(model.parameters()).is_cpu
    for module in model.modules():
        if isinstance(module, PaddedMaxPool):
            module.opaque = on_cpu
