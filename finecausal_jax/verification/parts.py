"""Checks of single parts: learning rates, preprocessing and stage pooling."""

from __future__ import annotations

import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from finecausal_jax.data.preprocessing import (
    DEVIATION,
    Preprocessing,
    normalize,
    preprocess_frames,
    scale_mask,
)
from finecausal_jax.models.stages import pool_frames, pool_windows
from finecausal_jax.training.schedule import Schedule, base_model_learning_rate, learning_rate
from finecausal_jax.verification import checks
from finecausal_jax.verification.checks import Check
from finecausal_jax.verification.reference import Reference


def schedule(reference: Reference) -> Iterator[Check]:
    """Learning rates by micro-batch, for each recorded setting."""
    for name, record in reference.case("schedule").items():
        settings = Schedule(
            iterations_per_epoch=record["iterations_per_epoch"],
            base_lr=record["base_lr"],
            lr_factor=record["lr_factor"],
            warmup_epochs=record["warmup_epochs"],
            max_epoch=record["max_epoch"],
        )
        rows = dict(zip(record["columns"], np.array(record["rows"], np.float64).T, strict=True))
        update = rows["update"].astype(np.int32)
        for column, rate in (("backbone", base_model_learning_rate), ("rest", learning_rate)):
            found, want = np.asarray(rate(settings, update), np.float64), rows[column]
            # Rates span a factor of ten, so each is held to its own value, not to the largest.
            relative = float(np.max(np.abs(found - want) / want))
            absolute = float(np.max(np.abs(found - want)))
            limit = checks.LEARNING_RATE
            yield Check(
                "schedule", f"{name}: {column}", absolute, relative, limit, note="each rate"
            )


def preprocessing(reference: Reference) -> Iterator[Check]:
    """The evaluation crop, and every recorded training crop, in grey levels of 255."""
    case = reference.case("preprocessing")
    crops = {"eval": {}}
    for name in case:
        match = re.fullmatch(r"(train_\w+)_flip_left_top", name)
        if match:
            flip, left, top = (int(value) for value in case[name])
            crops[match.group(1)] = {"flip": bool(flip), "left": left, "top": top}
    for name, crop in crops.items():
        want_video = np.moveaxis(case[f"{name}_video"], 0, -1)  # [t, h, w, 3]
        want_mask = case[f"{name}_mask"][0]
        t, size = want_mask.shape[:2]
        frames, mask = preprocess_frames(
            case["frames"][:t], case["masks"][:t], Preprocessing(frame_size=size), **crop
        )
        grey = 255 * DEVIATION
        yield _grey_levels(f"{name}_video", normalize(frames) * grey, want_video * grey)
        yield _grey_levels(f"{name}_mask", scale_mask(mask) * 255, want_mask * np.float32(255))


def stage_pooling(reference: Reference) -> Iterator[Check]:
    """Both ways of cutting and resampling by stage, at every recorded boundary."""
    case = reference.case("stage_pooling")
    for name, feature, boundaries, pool in (
        ("clip_stages", case["clip_feature"], case["clip_boundaries"], pool_windows),
        ("frame_stages", case["frame_feature"], case["frame_boundaries"], pool_frames),
    ):
        rows = jnp.repeat(jnp.asarray(feature), len(boundaries), axis=0)
        found = jax.jit(pool)(rows, jnp.asarray(boundaries, jnp.int32))
        if not hasattr(found, "shape"):  # a tuple of stages
            found = jnp.concatenate(found, axis=1)
        yield checks.compare("stage_pooling", name, found, case[name])


def _grey_levels(tensor: str, found: np.ndarray, want: np.ndarray) -> Check:
    # A thousandth of a level for the float32 arithmetic around the levels.
    limit = checks.GREY_LEVELS + 1e-3
    return checks.within("preprocessing", tensor, found, want, limit, note="grey levels of 255")
