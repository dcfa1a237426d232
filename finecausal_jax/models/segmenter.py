"""Foreground masks of the diver, from side outputs of a second I3D trunk."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from finecausal_jax.lowering.upsample import upsample
from finecausal_jax.models.i3d import I3D
from finecausal_jax.models.initial_values import Layer, bilinear_upsampling, normal
from finecausal_jax.models.layers import Conv, add_bias

SIDE_CHANNELS = 16
# Side outputs, fine to coarse, with the stride that brings each back to the size of the clip.
SIDE_STRIDES = {
    "conv3d_1a": (2, 2, 2),
    "conv3d_2c": (2, 4, 4),
    "mixed_3c": (2, 8, 8),
    "mixed_4f": (4, 16, 16),
}
# As the reference fills every plain convolution here; all their biases start at zero.
small_normal = normal(1e-3)


class Segmenter(nn.Module):
    """A trunk with four side outputs, each scored alone and all fused.

    In the reference each side output (16 channels) is upsampled to 16 channels of full size, the
    four are concatenated and a 1x1x1 convolution fuses the 64 into one. A 1x1x1 convolution
    commutes with upsampling, so here it is folded into the upsampling kernels (16 channels to 1):
    the same parameters, values and gradients for a fraction of the work and memory.
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    remat: str = "none"  # as in I3D
    plain: bool = False

    @nn.compact
    def __call__(
        self, clips: Float[Array, "n t h w 3"], *, train: bool
    ) -> tuple[Float[Array, "n d"], tuple[Float[Array, "n t h w"], ...]]:
        """Computes the trunk's pooled feature and the mask logits.

        Args:
          clips: normalised frames [n, 16, 112, 112, 3].
          train: whether BatchNorm uses batch statistics.

        Returns:
          mask_feature [n, 1024], and five maps of logits [n, 16, 112, 112]: one a side output,
          fine to coarse, then the fused one. Under jit a map that nothing reads costs nothing.
        """
        trunk = I3D(self.width, self.dtype, self.remat, self.plain, name="trunk")
        feature, side = trunk(clips, train=train)
        fuse_init = (1, 1, 1, len(SIDE_STRIDES) * SIDE_CHANNELS, 1)
        fuse = Fuse(fuse_init, name="fuse")
        fuse_kernel, fuse_bias = fuse()
        shares = jnp.split(fuse_kernel.reshape(-1), len(SIDE_STRIDES))  # 16 weights a side output

        enlarged = functools.partial(upsample, plain=self.plain)
        maps, fused = [], jnp.zeros((), self.dtype)
        for level, (name, stride) in enumerate(SIDE_STRIDES.items(), start=1):
            prepare = self._conv(SIDE_CHANNELS, f"side_prep{level}", use_bias=False)
            score = self._conv(1, f"score_dsn{level}", use_bias=True)
            window = tuple(2 * step for step in stride)
            kernel = UpsampleKernel(window, SIDE_CHANNELS, name=f"upsample{level}")()
            score_kernel = UpsampleKernel(window, 1, name=f"upsample{level}_")()

            prepared = prepare(side[name])  # [n, t', h', w', 16]
            folded = jnp.einsum("dhwio,o->dhwi", kernel, shares[level - 1])[..., None]
            fused = fused + enlarged(prepared, folded.astype(self.dtype), stride)
            scored = score(prepared)  # [n, t', h', w', 1]
            maps.append(enlarged(scored, score_kernel.astype(self.dtype), stride)[..., 0])
        maps.append(add_bias(fused, fuse_bias)[..., 0])
        return feature, tuple(logits.astype(jnp.float32) for logits in maps)

    def _conv(self, features: int, name: str, *, use_bias: bool) -> Conv:
        return Conv(
            features,
            (1, 1, 1),
            use_bias=use_bias,
            dtype=self.dtype,
            plain=self.plain,
            kernel_init=small_normal,
            bias_init=nn.initializers.zeros,
            name=name,
        )


class Fuse(Layer):
    """The parameters of the 1x1x1 fusion, which is folded into the upsampling and never run."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = self.param("kernel", small_normal, self.shape)
        return kernel, self.param("bias", nn.initializers.zeros, (1,))


class UpsampleKernel(Layer):
    """The kernel [*window, c, c] of a transposed convolution, at first a bilinear enlargement."""

    window: tuple[int, ...]
    channels: int

    @nn.compact
    def __call__(self) -> Array:
        shape = (*self.window, self.channels, self.channels)
        return self.param("kernel", bilinear_upsampling, shape)
