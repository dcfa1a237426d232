"""Interventions on the pixels of a dive: what the score is when the network sees something else.

The diver is where the network predicts it, so on a network whose mask is poor these say little. The
mask itself reaches the score through pixels and the gate alone; here it only says which pixels are
changed. Each change is one more pass through the encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from finecausal_jax.explain.backgrounds import Scene
from finecausal_jax.explain.explanation import Seen, encode_frames
from finecausal_jax.explain.interventions import Effect
from finecausal_jax.models.finecausal import STAGES
from finecausal_jax.scoring import metrics
from finecausal_jax.scoring.features import Encoding, Key
from finecausal_jax.scoring.scorer import Scorer

Cuts = tuple[int, int]  # the frames, of those sampled, at which the second and third stage begin

_BLUR = 1 / 12  # of the frame's height: the standard deviation of the Gaussian
_AROUND = 2 / 64  # of the frame's height: by how much the diver's border is widened


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels:
    """A video as the network sees it, with what is known of its parts.

    Attributes:
      frames: uint8 [t, h, w, 3].
      diver: whether a pixel is the diver's, widened so that nothing of it is left.
      cuts: where the second and third stage begin.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    diver: Bool[np.ndarray, "t h w"]
    cuts: Cuts


def pixels_of(seen: Seen, cuts: Cuts) -> Pixels:
    """The pixels of a video that was encoded, the diver where its mask is predicted."""
    mask = seen.mask > metrics.LOGIT_THRESHOLD
    reach = max(1, round(_AROUND * mask.shape[1]))
    box = np.ones((3, 2 * reach + 1, 2 * reach + 1), bool)
    return Pixels(seen.frames, ndimage.binary_dilation(mask, box), cuts)


def edits(query: Pixels, exemplar: Pixels) -> dict[str, UInt8[np.ndarray, "t h w 3"]]:
    """Changed videos of the query, by what was changed.

    Args:
      query: the dive.
      exemplar: another, of which parts are taken, stage by stage at the same place in the stage.
    """
    frames = query.frames
    blurred = _blurred(frames)
    splash = Scene(frames, query.diver, query.cuts[1]).splash
    rows = _aligned(query.cuts, exemplar.cuts, len(frames), len(exemplar.frames))
    other, others_diver = exemplar.frames[rows], exemplar.diver[rows]
    found = {
        "nothing is changed": frames,
        "diver: blurred": _where(query.diver, blurred, frames),
        "diver: the exemplar's": _where(query.diver | others_diver, other, frames),
        "rest: blurred": _where(query.diver, frames, blurred),
        "rest: the exemplar's": _where(query.diver, frames, other),
        "splash: blurred": _where(splash, blurred, frames),
    }
    ends = (0, *query.cuts, len(frames))
    for place, stage in enumerate(STAGES):
        inside = np.zeros(len(frames), bool)
        inside[ends[place] : ends[place + 1]] = True
        found[f"{stage}: the exemplar's frames"] = _where(inside[:, None, None], other, frames)
    return found


def effects_of(
    scorer: Scorer,
    changed: Mapping[str, UInt8[np.ndarray, "t h w 3"]],
    query: Encoding,
    exemplars: Sequence[Key],
    known: Mapping[Key, Encoding],
) -> list[Effect]:
    """Scores changed videos of a query.

    Args:
      scorer: what scores.
      changed: videos by what was changed, from `edits`.
      query: the encoding of the unchanged video.
      exemplars: keys of k exemplars.
      known: their encodings.
    """
    own: Key = ("", 0)
    pairs = [(own, key) for key in exemplars]
    quiet = dataclasses.replace(scorer, progress=False)

    def deltas(encoding: Encoding) -> np.ndarray:
        return quiet.compare({**known, own: encoding}, pairs).delta.astype(np.float64)

    before, effects = deltas(query), []
    for name, frames in changed.items():
        features, _ = jax.device_get(encode_frames(scorer.model, scorer.variables, frames[None]))
        encoding = Encoding(jax.tree.map(lambda x: x[0], features), None, None)
        effects.append(Effect(name, "pixels", deltas(encoding) - before))
    return effects


def _where(
    mask: Bool[np.ndarray, "..."], inside: np.ndarray, outside: np.ndarray
) -> UInt8[np.ndarray, "t h w 3"]:
    return np.where(mask[..., None], inside, outside)


def _blurred(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    deviation = _BLUR * frames.shape[1]
    return ndimage.gaussian_filter(frames, (0, deviation, deviation, 0), mode="nearest")


def _aligned(cuts: Cuts, others: Cuts, frames: int, other_frames: int) -> np.ndarray:
    """For each frame of one video that of the other at the same place in the same stage."""
    here = (0, *cuts, frames - 1)
    there = (0, *others, other_frames - 1)
    return np.interp(np.arange(frames), here, there).round().astype(np.int64)
