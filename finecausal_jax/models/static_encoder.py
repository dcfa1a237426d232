"""The static encoder: ResNet-34 on single frames, and the reducers of its output by stage."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from finecausal_jax.lowering.pool import max_pool
from finecausal_jax.lowering.rectified import Activation, Normalised, add, relu
from finecausal_jax.models.i3d import scaled
from finecausal_jax.models.initial_values import he_normal_fan_out
from finecausal_jax.models.layers import BatchNorm, Conv, DoubleConv, conv_norm, run_block
from finecausal_jax.models.stages import pool_frames

BLOCKS = (3, 4, 6, 3)  # ResNet-34: basic blocks in each of its four layers
WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""

    features: int
    step: int
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w i"], *, train: bool, runs: int
    ) -> Float[Array, "n h2 w2 o"]:
        def normed(
            name: str, norm_name: str, size: int, step: int, y: Activation
        ) -> Array | Normalised:
            pad = (size // 2, size // 2)
            conv = Conv(
                self.features,
                (size, size),
                (step, step),
                (pad, pad),
                dtype=self.dtype,
                plain=self.plain,
                kernel_init=he_normal_fan_out,
                name=name,
            )
            norm = BatchNorm(self.features, dtype=self.dtype, plain=self.plain, name=norm_name)
            return conv_norm(conv, norm, y, train=train, runs=runs)

        y = relu(normed("conv1", "bn1", 3, self.step, x))
        y = normed("conv2", "bn2", 3, 1, y)
        shortcut = x
        if self.step != 1 or x.shape[-1] != self.features:
            shortcut = normed("downsample_conv", "downsample_norm", 1, self.step, x)
        return relu(add(y, shortcut))


class ResNet34(nn.Module):
    """ResNet-34 without its classifier (He et al., CVPR 2016): [n, h, w, 3] to [n, 512]."""

    width: float = 1.0
    dtype: Any = jnp.float32
    remat: str = "none"  # "blocks" recomputes each basic block in the backward pass
    plain: bool = False  # as in I3D

    @nn.compact
    def __call__(
        self, frames: Float[Array, "n h w 3"], *, train: bool, runs: int
    ) -> Float[Array, "n d"]:
        stem = Conv(
            scaled(WIDTHS[0], self.width),
            (7, 7),
            (2, 2),
            ((3, 3), (3, 3)),
            dtype=self.dtype,
            plain=self.plain,
            kernel_init=he_normal_fan_out,
            name="conv1",
        )
        norm = BatchNorm(stem.features, dtype=self.dtype, plain=self.plain, name="bn1")
        x = relu(conv_norm(stem, norm, frames, train=train, runs=runs))  # [n, 56, 56, 64]
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), plain=self.plain)  # [n, 28, 28, 64]
        for layer, (blocks, features) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
            for block in range(blocks):
                step = 2 if block == 0 and layer > 1 else 1
                width, name = scaled(features, self.width), f"layer{layer}_{block}"
                basic = BasicBlock(width, step, self.dtype, self.plain, name=name)
                x = run_block(basic, x, remat=self.remat, train=train, runs=runs)
        # [n, 4, 4, 512]
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class StaticEncoder(nn.Module):
    """Frame features by ResNet-34, cut at a video's own transitions and reduced by stage.

    Attributes:
      stage_frames: to how many frames each stage is resampled.
      margin: frames by which neighbouring stages overlap each transition.
      width: multiplies the channels of ResNet-34.
      tokens: tokens a stage in the output.
      dtype: compute dtype.
      remat, plain: as in ResNet34.
    """

    stage_frames: tuple[int, int, int] = (36, 60, 48)
    margin: int = 5
    width: float = 1.0
    tokens: int = 4
    dtype: Any = jnp.float32
    remat: str = "none"
    plain: bool = False

    def setup(self) -> None:
        self.backbone = ResNet34(self.width, self.dtype, self.remat, self.plain)
        # As named in released checkpoints: inc{stage}, then down{stage}{1, 2, 3}. Halved twice
        # from 48 before the tokens: 24, 12, 4.
        widths = (12 * self.tokens, 6 * self.tokens, 3 * self.tokens, self.tokens)
        names = ("inc{0}", "down{0}1", "down{0}2", "down{0}3")
        self.reducers = [
            [
                DoubleConv(features, self.dtype, self.plain, name=name.format(stage))
                for name, features in zip(names, widths, strict=True)
            ]
            for stage in (1, 2, 3)
        ]

    def encode_frames(
        self, videos: Float[Array, "v t h w 3"], *, train: bool, runs: int
    ) -> Float[Array, "v t d"]:
        """ResNet-34 on every frame: [v, 96, 112, 112, 3] to frame_feature [v, 96, 512]."""
        v, t = videos.shape[:2]
        frames = videos.reshape(v * t, *videos.shape[2:])
        return self.backbone(frames, train=train, runs=runs).reshape(v, t, -1)

    def reduce(
        self,
        frame_feature: Float[Array, "v t d"],
        transitions: Int[Array, "v 2"],
        *,
        train: bool,
        runs: int,
    ) -> Float[Array, "v s k e"]:
        """Cuts by stage and reduces: [v, 96, 512] to static_feature [v, 3, 4, 64]."""
        pieces = pool_frames(frame_feature, transitions, self.stage_frames, self.margin)
        stages = []
        for piece, (enter, *downs) in zip(pieces, self.reducers, strict=True):
            # The frames of a piece are the channels of a signal that runs along the features.
            x = piece.astype(self.dtype).swapaxes(1, 2)  # [v, 512, 36 | 60 | 48]
            x = enter(x, train=train, runs=runs)  # [v, 512, 48]
            for down in downs:
                x = max_pool(x, (2,), (2,), ((0, 0),), plain=self.plain)
                x = down(x, train=train, runs=runs)  # at last [v, 64, 4]
            stages.append(x.swapaxes(1, 2))
        return jnp.stack(stages, axis=1).astype(jnp.float32)
