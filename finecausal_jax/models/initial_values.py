"""Initial values of the parameters.

Every random value here comes from a flat draw whose size is rounded up to a power of two. Drawn in
its own shape, each of some 300 parameters would compile its own kernel (XLA's CPU backend takes
seconds for a five-dimensional one), which would make a minutes-long start of a small run.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

Initializer = Callable[..., jax.Array]


def uniform_fan_in(fan_in: int) -> Initializer:
    """PyTorch's initial values for linear and convolution layers: U(-1, 1) / sqrt(fan_in)."""
    return _uniform(fan_in**-0.5)


def glorot_uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Glorot's uniform values for the last two axes, as PyTorch Geometric fills GATv2 layers."""
    return _uniform(math.sqrt(6 / (shape[-1] + shape[-2])))(key, shape, dtype)


def normal(deviation: float) -> Initializer:
    """Normal values around 0."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return _draw(jax.random.normal, key, shape, lambda x: deviation * x).astype(dtype)

    return init


def he_normal_fan_out(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """He's normal values by output channels, as torchvision fills ResNet: std sqrt(2 / fan_out)."""
    return normal(math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))(key, shape, dtype)


def bilinear_upsampling(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Any:
    """Kernels [t, h, w, c, c]: bilinear in space, constant over depth, on the channel diagonal."""
    del key  # the same in every network
    _, height, width, channels, _ = shape

    def tent(size: int) -> np.ndarray:
        factor = math.ceil(size / 2)
        centre = factor - 1 if size % 2 else factor - 0.5
        return 1 - np.abs(np.arange(size) - centre) / factor

    plane = tent(height)[:, None] * tent(width)[None, :]  # [h, w]
    kernel = plane[None, :, :, None, None] * np.eye(channels)[None, None, None]
    return jnp.asarray(np.broadcast_to(kernel, tuple(shape)), dtype)


def init_variables(
    model: Any, frame_size: int, key: jax.Array, wanted: Collection[str] | None = None
) -> dict[str, Any]:
    """Initial parameters and statistics, the values that `model.init` gives.

    Initialisation is traced as a whole and cut down to the draws: `model.init` would compute a
    forward pass, and compiling that or all draws as one program takes minutes on a CPU. One by one
    they share a few kernels.

    Args:
      model: a `FineCausal`.
      frame_size: height and width of its frames, pixels.
      key: fixes every random value.
      wanted: names of leaves, "collection/path/..."; None means all of them.

    Returns:
      {"params", "batch_stats"}, nested dicts of float32 arrays; the wanted leaves only.
    """
    shape = (1, model.frames, frame_size, frame_size, 3)
    video = jax.ShapeDtypeStruct(shape, jnp.float32)

    def init(key: jax.Array, video: Any) -> Any:
        return model.init(key, video, video)

    traced, shapes = jax.make_jaxpr(init, return_shape=True)(key, video)
    paths = [tuple(entry.key for entry in path) for path, _ in jax.tree.leaves_with_path(shapes)]
    chosen = [wanted is None or "/".join(path) in wanted for path in paths]
    needed, uses = partial_eval.dce_jaxpr(traced.jaxpr, chosen)
    arguments = [value for value, used in zip((key, None), uses, strict=True) if used]
    values = jax.core.eval_jaxpr(needed, traced.consts, *arguments)
    kept = (path for path, is_chosen in zip(paths, chosen, strict=True) if is_chosen)
    return flax.traverse_util.unflatten_dict(dict(zip(kept, values, strict=True)))


def _uniform(bound: float) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        values = _draw(jax.random.uniform, key, shape, lambda x: bound * (2 * x - 1))
        return values.astype(dtype)

    return init


def _draw(
    sample: Callable[..., jax.Array],
    key: jax.Array,
    shape: Sequence[int],
    scale: Callable[[Any], Any],
) -> Any:
    size = math.prod(shape)
    flat = sample(key, (1 << max(0, size - 1).bit_length(),))
    if isinstance(flat, jax.core.Tracer):
        return scale(flat[:size].reshape(shape))
    # Outside jit NumPy cuts and shapes the values, which needs no compilation either.
    return jnp.asarray(scale(np.asarray(flat)[:size].reshape(shape)))
