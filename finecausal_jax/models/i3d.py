"""I3D: Inception-v1 inflated to three dimensions (Carreira and Zisserman, CVPR 2017)."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from finecausal_jax.lowering.pool import max_pool
from finecausal_jax.lowering.rectified import Activation, concatenate, relu
from finecausal_jax.models.layers import BatchNorm, Conv, conv_norm, run_block

# Channels of each mixed block's units: b0, b1a, b1b, b2a, b2b, b3.
MIXED_CHANNELS = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}


def scaled(channels: int, width: float) -> int:
    """Channels of a layer in a trunk of relative width `width`; at least 1."""
    return max(1, round(channels * width))


def feature_size(width: float) -> int:
    """Channels of the trunk's output: 1024 at full width."""
    b0, _, b1, _, b2, b3 = MIXED_CHANNELS["mixed_5c"]
    return sum(scaled(channels, width) for channels in (b0, b1, b2, b3))


class ConvUnit(nn.Module):
    """3-D convolution without bias, BatchNorm and ReLU.

    Padding is `max(window - stride, 0)` zeros an axis, the smaller half in front.
    """

    features: int
    window: tuple[int, int, int] = (1, 1, 1)
    stride: tuple[int, int, int] = (1, 1, 1)
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def __call__(self, x: Activation, *, train: bool) -> Activation:
        """[n, t, h, w, i] to [n, t2, h2, w2, features]."""
        padding = _padding(self.window, self.stride)
        how = {"dtype": self.dtype, "plain": self.plain}
        conv = Conv(self.features, self.window, self.stride, padding, name="conv3d", **how)
        norm = BatchNorm(self.features, name="batch3d", **how)
        return relu(conv_norm(conv, norm, x, train=train))


class Mixed(nn.Module):
    """An Inception block: four branches, concatenated along the channels."""

    channels: tuple[int, int, int, int, int, int]
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n t h w i"], *, train: bool) -> Float[Array, "n t h w o"]:
        def unit(name: str, features: int, size: int, y: Activation) -> Activation:
            window = (size, size, size)
            layer = ConvUnit(features, window, dtype=self.dtype, plain=self.plain, name=name)
            return layer(y, train=train)

        b0, b1a, b1b, b2a, b2b, b3 = self.channels
        pooled = pool(x, (3, 3, 3), (1, 1, 1), plain=self.plain)
        branches = [
            unit("branch_0", b0, 1, x),
            unit("branch_1_1", b1b, 3, unit("branch_1_0", b1a, 1, x)),
            unit("branch_2_1", b2b, 3, unit("branch_2_0", b2a, 1, x)),
            unit("branch_3_1", b3, 1, pooled),
        ]
        return concatenate(branches)


class I3D(nn.Module):
    """The trunk: clips of frames to one feature a clip, and the activations that feed side outputs.

    Attributes:
      width: multiplies every channel count; 1 is the published network.
      dtype: compute dtype.
      remat: "blocks" recomputes each unit and Inception block in the backward pass.
      plain: compute everything as written on every platform, see `lowering`.
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    remat: str = "none"
    plain: bool = False

    @nn.compact
    def __call__(
        self, clips: Float[Array, "n t h w 3"], *, train: bool
    ) -> tuple[Float[Array, "n d"], dict[str, Activation]]:
        """Runs the trunk.

        Args:
          clips: normalised frames; sizes below are those of 16 x 112 x 112 clips.
          train: whether BatchNorm uses (and updates from) batch statistics.

        Returns:
          The output averaged over space and time, [n, 1024], and the activations of `conv3d_1a`,
          `conv3d_2c`, `mixed_3c` and `mixed_4f`.
        """

        def unit(name: str, features: int, size: int, step: int, y: Activation) -> Activation:
            channels, window, stride = scaled(features, self.width), (size,) * 3, (step,) * 3
            layer = ConvUnit(channels, window, stride, self.dtype, self.plain, name=name)
            return run_block(layer, y, remat=self.remat, train=train)

        def mixed(name: str, y: Array) -> Array:
            b0, b1a, b1b, b2a, b2b, b3 = (scaled(c, self.width) for c in MIXED_CHANNELS[name])
            block = Mixed((b0, b1a, b1b, b2a, b2b, b3), self.dtype, self.plain, name=name)
            return run_block(block, y, remat=self.remat, train=train)

        pooled = functools.partial(pool, plain=self.plain)
        side: dict[str, Activation] = {}
        y = side["conv3d_1a"] = unit("conv3d_1a_7x7", 64, 7, 2, clips)  # [n, 8, 56, 56, 64]
        x = pooled(y, (1, 3, 3), (1, 2, 2))  # [n, 8, 28, 28, 64]
        y = unit("conv3d_2b_1x1", 64, 1, 1, x)
        y = side["conv3d_2c"] = unit("conv3d_2c_3x3", 192, 3, 1, y)  # [n, 8, 28, 28, 192]
        x = pooled(y, (1, 3, 3), (1, 2, 2))  # [n, 8, 14, 14, 192]
        x = mixed("mixed_3b", x)
        x = side["mixed_3c"] = mixed("mixed_3c", x)  # [n, 8, 14, 14, 480]
        x = pooled(x, (3, 3, 3), (2, 2, 2))  # [n, 4, 7, 7, 480]
        for name in ("mixed_4b", "mixed_4c", "mixed_4d", "mixed_4e", "mixed_4f"):
            x = mixed(name, x)
        side["mixed_4f"] = x  # [n, 4, 7, 7, 832]
        x = pooled(x, (2, 2, 2), (2, 2, 2))  # [n, 2, 4, 4, 832]
        x = mixed("mixed_5c", mixed("mixed_5b", x))  # [n, 2, 4, 4, 1024]
        # The published 2 x 4 x 4 average pool spans all that is left of a 16 x 112 x 112 clip.
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2, 3)), side


def pool(
    x: Activation,
    window: tuple[int, int, int],
    stride: tuple[int, int, int],
    *,
    plain: bool = False,
) -> Float[Array, "n t2 h2 w2 c"]:
    """The trunk's max pool: padded as its convolutions are, then in ceil mode."""
    return max_pool(x, window, stride, _padding(window, stride), ceil=True, plain=plain)


def _padding(
    window: tuple[int, int, int], stride: tuple[int, int, int]
) -> tuple[tuple[int, int], ...]:
    totals = (max(size - step, 0) for size, step in zip(window, stride, strict=True))
    return tuple((total // 2, total - total // 2) for total in totals)
