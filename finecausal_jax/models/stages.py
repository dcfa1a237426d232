"""The transition head, and cutting and resampling features by stage under static shapes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from finecausal_jax.lowering.pool import max_pool
from finecausal_jax.models.layers import MLP, Dense, DoubleConv


class TransitionHead(nn.Module):
    """Where a dive passes from forward to twist and from twist to entry, as probabilities a frame.

    Attributes:
      frames: frames a video.
      dtype: compute dtype.
      plain: compute everything as written on every platform, see `lowering`.
    """

    frames: int = 96
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def __call__(
        self, causal_feature: Float[Array, "v n d"], *, train: bool, runs: int = 1
    ) -> Float[Array, "v t 2"]:
        """Computes transition_probability [v, 96, 2] from causal_feature [v, 9, 1024]."""
        # The windows are the channels of a signal that runs along the features.
        x = causal_feature.astype(self.dtype).swapaxes(1, 2)  # [v, 1024, 9]
        widths = (self.frames // 8, self.frames // 4, self.frames // 2, self.frames, self.frames)
        for index, features in enumerate(widths):
            if index:
                x = max_pool(x, (2,), (2,), ((0, 0),), plain=self.plain)
            name = f"down{index + 3}" if index else "inc1"
            x = DoubleConv(features, self.dtype, self.plain, name=name)(x, train=train, runs=runs)
        x = x.swapaxes(1, 2)  # [v, 96, 64]
        logits = MLP((128, 64, 2), dtype=self.dtype, name="tas")(x)
        return nn.sigmoid(logits)


def predict_transitions(probability: Float[Array, "v t 2"]) -> Int[Array, "v 2"]:
    """The most probable frame of each transition: the first in the first half, the second after it.

    (So a first transition in the second half of a clip, or the reverse, cannot be represented:
    of FineDiving's 3000 dives 206 have one.)
    """
    half = probability.shape[1] // 2
    first = jnp.argmax(probability[:, :half, 0], axis=1)
    second = jnp.argmax(probability[:, half:, 1], axis=1) + half
    return jnp.stack([first, second], axis=1)


def pool_frames(
    frames: Float[Array, "v t d"],
    transitions: Int[Array, "v 2"],
    lengths: tuple[int, int, int] = (36, 60, 48),
    margin: int = 5,
) -> tuple[Float[Array, "v l1 d"], Float[Array, "v l2 d"], Float[Array, "v l3 d"]]:
    """Cuts each video at its own transitions (s, e) and resamples each stage.

    The stages are the frames `[: s + margin]`, `[s - margin : e + margin]` and `[e - margin :]`,
    clipped to the video, resampled linearly (first to first, last to last frame) to `lengths`.
    """
    first, second = transitions[:, 0], transitions[:, 1]
    total = frames.shape[1]
    bounds = (
        (jnp.zeros_like(first), first + margin),
        (first - margin, second + margin),
        (second - margin, jnp.full_like(second, total)),
    )
    forward, twist, entry = (
        _resample(frames, start, stop, length)
        for (start, stop), length in zip(bounds, lengths, strict=True)
    )
    return forward, twist, entry


def pool_windows(
    windows: Float[Array, "v n d"], boundaries: Int[Array, "v 2"], tokens: int = 4
) -> Float[Array, "v k d"]:
    """Cuts window features into three stages and resamples each to `tokens`.

    The stages are the windows `[: a + 1]`, `[a : b + 1]` and `[b - 1 :]`, resampled linearly.
    Parity: these are Python slices, so b = 0 means the last window alone.

    Args:
      windows: [v, 9, d].
      boundaries: (a, b) of each video in windows, see `pair_boundaries`.
      tokens: output steps a stage.

    Returns:
      [v, 3 * tokens, d], stage after stage.
    """
    a, b = boundaries[:, 0], boundaries[:, 1]
    total = windows.shape[1]
    end = jnp.full_like(b, total)
    bounds = (
        (jnp.zeros_like(a), a + 1),
        (a, b + 1),
        (jnp.where(b == 0, total - 1, b - 1), end),
    )
    stages = [_resample(windows, start, stop, tokens) for start, stop in bounds]
    return jnp.concatenate(stages, axis=1)


def pair_boundaries(transitions: Int[Array, "v 2"], window_stride: int = 10) -> Int[Array, "v 2"]:
    """The pair's mean transitions in windows, for both of its videos (queries first)."""
    query, exemplar = jnp.split(transitions, 2)
    mean = (query + exemplar) // (2 * window_stride)
    return jnp.concatenate([mean, mean])


def _resample(
    x: Float[Array, "v t d"], start: Int[Array, " v"], stop: Int[Array, " v"], length: int
) -> Float[Array, "v l d"]:
    """Linear resampling of x[start:stop] to `length` steps, ends aligned with ends.

    An empty range, which only transitions out of order could ask for, gives the frame at `start`.
    """
    total = x.shape[1]
    start = jnp.clip(start, 0, total - 1)
    stop = jnp.clip(stop, start + 1, total)
    last = stop - start - 1  # offset of the range's last step
    scale = last.astype(jnp.float32) / max(1, length - 1)
    place = scale[:, None] * jnp.arange(length, dtype=jnp.float32)[None]
    lower = jnp.minimum(jnp.floor(place).astype(jnp.int32), last[:, None])
    upper = jnp.minimum(lower + 1, last[:, None])
    weight = (place - lower)[..., None].astype(x.dtype)

    def pick(offset: Int[Array, "v l"]) -> Float[Array, "v l d"]:
        return jax.vmap(lambda row, index: row[index])(x, start[:, None] + offset)

    return (1 - weight) * pick(lower) + weight * pick(upper)


class StageReducer(nn.Module):
    """Reduces one stage of one video: [v, 4, 1024] to stage_embedding [v, 12, 64].

    Attributes:
      embedding: width of the output tokens.
      tokens: output tokens a stage.
      dtype: compute dtype.
      plain: compute everything as written on every platform, see `lowering`.
    """

    embedding: int = 64
    tokens: int = 12
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def __call__(
        self, stage: Float[Array, "v k d"], *, train: bool, runs: int = 1
    ) -> Float[Array, "v m e"]:
        x = stage.astype(self.dtype).swapaxes(1, 2)  # [v, 1024, 4]: the steps are channels
        how, mode = {"dtype": self.dtype, "plain": self.plain}, {"train": train, "runs": runs}
        x = DoubleConv(2 * self.tokens // 3, name="inc", **how)(x, **mode)
        # Parity: no pooling here, although checkpoints call this layer `down1`.
        x = DoubleConv(self.tokens, name="down1", **how)(x, **mode)
        x = x.swapaxes(1, 2)  # [v, 12, 1024]
        d = x.shape[-1]
        for index, width in enumerate((d // 2, d // 4, self.embedding)):
            # Unlike in the other MLPs, a ReLU follows the last layer too.
            x = nn.relu(Dense(width, dtype=self.dtype, name=f"layer{index}")(x))
        return x.astype(jnp.float32)
