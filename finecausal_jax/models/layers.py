"""Blocks shared by the modules, with the reference's (PyTorch's) conventions."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from finecausal_jax.lowering.batch_norm import batch_norm, shifted
from finecausal_jax.lowering.convolution import convolve
from finecausal_jax.lowering.rectified import Activation, Normalised, value_of
from finecausal_jax.models.initial_values import Initializer, Layer, uniform_fan_in

NORM_EPSILON = 1e-5  # PyTorch's default for BatchNorm and LayerNorm


class Conv(Layer):
    """A convolution over 1, 2 or 3 spatial dimensions, channels last.

    Attributes:
      features: output channels.
      window: kernel size per spatial dimension.
      stride: step per spatial dimension; 1 where empty.
      padding: zeros (before, after) per spatial dimension; none where empty.
      use_bias: whether to add a bias.
      dtype: compute dtype; parameters stay float32.
      kernel_init: initial kernel; PyTorch's default where None.
      bias_init: initial bias; PyTorch's default where None.
      plain: compute it as written on every platform, see `lowering`.
    """

    features: int
    window: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    plain: bool = False

    @nn.compact
    def __call__(
        self, x: Activation, scale: Float[Array, " o"] | None = None
    ) -> Float[Array, "n *space_out o"]:
        """Convolves; `scale` multiplies the kernel's output channels, for a folded BatchNorm."""
        channels, dims = x.shape[-1], len(self.window)
        fan_in = channels
        for size in self.window:
            fan_in *= size
        default = uniform_fan_in(fan_in)
        shape = (*self.window, channels, self.features)
        kernel = self.param("kernel", self.kernel_init or default, shape)
        if scale is not None:
            kernel = kernel * jnp.expand_dims(scale, range(dims + 1))
        stride = self.stride or (1,) * dims
        padding = self.padding or ((0, 0),) * dims
        y = convolve(x, kernel.astype(self.dtype), stride, padding, plain=self.plain)
        if self.use_bias:
            y = add_bias(y, self.param("bias", self.bias_init or default, (self.features,)))
        return y


class Dense(Layer):
    """A linear layer with PyTorch's initial values: [..., i] to [..., o]."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*lead i"]) -> Float[Array, "*lead o"]:
        default = uniform_fan_in(x.shape[-1])
        kernel = self.param("kernel", self.kernel_init or default, (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            y = add_bias(y, self.param("bias", default, (self.features,)))
        return y


class LayerNorm(Layer):
    """LayerNorm over the last axis, computed in float32 whatever the compute dtype."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        var = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return _affine(centred * jax.lax.rsqrt(var + NORM_EPSILON), scale, bias).astype(self.dtype)


class BatchNorm(Layer):
    """BatchNorm as PyTorch does it: the running variance takes the unbiased estimate.

    (Flax's own layer keeps the biased one, so its running statistics drift from the reference's.)

    With `runs` > 1 the leading axis holds that many equal groups, each normalised by its own
    statistics, and the running ones are updated once a group, in order: what the reference gets by
    calling a module first on the queries and then on the exemplars, at the price of one call.

    Attributes:
      features: channels.
      momentum: weight of the new statistics (PyTorch's sense of the word).
      dtype: dtype of the result; statistics are float32.
      plain: compute it as written on every platform, see `lowering`.
    """

    features: int
    momentum: float = 0.1
    dtype: Any = jnp.float32
    plain: bool = False

    def setup(self) -> None:
        shape = (self.features,)
        self.scale = self.param("scale", nn.initializers.ones, shape)
        self.bias = self.param("bias", nn.initializers.zeros, shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape)

    def __call__(
        self, x: Float[Array, "n *space c"], *, train: bool, runs: int = 1
    ) -> Float[Array, "n *space c"]:
        if not train:
            factor, shift = self.frozen()
            return _affine(x.astype(jnp.float32), factor, shift).astype(self.dtype)
        return value_of(self.by_batch(x, runs=runs))

    def by_batch(self, x: Float[Array, "n *space c"], *, runs: int = 1) -> Array | Normalised:
        """The layer in training; updates the running statistics."""
        y, mean, var = batch_norm(
            x, self.scale, self.bias, NORM_EPSILON, groups=runs, dtype=self.dtype, plain=self.plain
        )
        if not self.is_initializing():
            count = x.size // self.features // runs
            unbiased = var * (count / max(1, count - 1))
            for run in range(runs):
                for running, new in ((self.mean, mean), (self.var, unbiased)):
                    running.value += self.momentum * (new[run] - running.value)
        return y

    def frozen(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """The factor and shift that this layer is, as long as its statistics stay as they are."""
        factor = self.scale * jax.lax.rsqrt(self.var.value + NORM_EPSILON)
        return factor, self.bias - self.mean.value * factor


def conv_norm(
    conv: Conv, norm: BatchNorm, x: Activation, *, train: bool, runs: int = 1
) -> Array | Normalised:
    """A convolution without bias, then BatchNorm.

    With running statistics BatchNorm's factor is folded into the kernel, where it costs nothing.
    """
    if train:
        return norm.by_batch(conv(x), runs=runs)
    if norm.plain:
        return norm(conv(x), train=False)
    factor, shift = norm.frozen()
    return shifted(conv(x, factor), shift)


def run_block(block: nn.Module, x: Activation, *, remat: str, **mode: Any) -> Any:
    """Calls a block, `block(x, **mode)`.

    Args:
      block: a module that belongs to the caller.
      x: its input.
      remat: "blocks" keeps only `x` for the backward pass, which computes the block again; "none"
        keeps what the backward pass needs. Values, gradients and names are the same.
      **mode: static keyword arguments of the block.
    """
    if remat == "none":
        return block(x, **mode)
    # `value_of`: one array to keep instead of two.
    return nn.remat(lambda block, x: block(x, **mode))(block, value_of(x))


class DoubleConv(nn.Module):
    """Twice a 1-D convolution of size 3, BatchNorm and ReLU: [n, l, i] to [n, l, features]."""

    features: int
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n l i"], *, train: bool, runs: int = 1
    ) -> Float[Array, "n l o"]:
        for layer in (1, 2):
            conv = Conv(
                self.features,
                (3,),
                padding=((1, 1),),
                use_bias=True,
                dtype=self.dtype,
                plain=self.plain,
                name=f"conv{layer}",
            )
            norm = BatchNorm(self.features, dtype=self.dtype, plain=self.plain, name=f"norm{layer}")
            x = nn.relu(norm(conv(x), train=train, runs=runs))
        return x


class MLP(nn.Module):
    """Linear layers with ReLU between them, named `layer1`, `layer2`, ... as in the reference.

    The last one is float32 whatever the compute dtype: bfloat16 has 8 bits, so that neighbouring
    frames would tie for the transition, and points would be rounded to a tenth.
    """

    widths: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*lead i"]) -> Float[Array, "*lead o"]:
        *hidden, last = self.widths
        for index, width in enumerate(hidden, start=1):
            x = nn.relu(Dense(width, dtype=self.dtype, name=f"layer{index}")(x))
        return Dense(last, name=f"layer{len(self.widths)}")(x)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds [c] to [..., c] in the dtype of `x`; ranks are matched by hand, never promoted."""
    return x + jnp.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))


def _affine(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return add_bias(x * jnp.expand_dims(scale, range(x.ndim - 1)), bias)
