"""Initial values of the parameters: each a pure function of the key, its path and its shape.

Every random value here comes from a flat draw whose size is rounded up to a power of two. Drawn in
its own shape, each of some 300 parameters would compile its own kernel (XLA's CPU backend takes
seconds for a five-dimensional one), which would make a minutes-long start of a small run.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]
LEAST_DRAW = 2**14  # a kernel for each smaller size would take longer to compile than this to draw


class Layer(nn.Module):
    """A module whose values `init_variables` can draw one by one.

    Both methods are Linen's. They stand here because `nn.intercept_methods`, by which
    `init_variables` learns how a value is drawn, sees only what a module's own class defines.
    """

    def param(self, name: str, init_fn: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A parameter, at first `init_fn(key, *arguments)`."""
        return super().param(name, init_fn, *arguments, **options)

    def variable(
        self,
        col: str,
        name: str,
        init_fn: Callable[..., Any] | None = None,
        *arguments: Any,
        **options: Any,
    ) -> nn.Variable:
        """A variable of the collection `col`, at first `init_fn(*arguments)`."""
        return super().variable(col, name, init_fn, *arguments, **options)


@dataclasses.dataclass(frozen=True)
class Random:
    """An initialiser: random values around 0.

    Attributes:
      sample: draws values of unit size, of a key and a shape.
      size: what multiplies them, by the shape of the parameter.
    """

    sample: Callable[..., jax.Array]
    size: Callable[[Sequence[int]], float]

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        """Values [*shape]; under jit or not."""
        return self._shaped(self._flat(key, shape), shape).astype(dtype)

    def draw(self, key: jax.Array, shape: Sequence[int]) -> jax.Array:
        """The same outside jit, where NumPy cuts and shapes, which needs no compilation either."""
        # `jnp.asarray` would compile an identity for each shape.
        return jax.device_put(self._shaped(np.asarray(self._flat(key, shape)), shape))

    def _flat(self, key: jax.Array, shape: Sequence[int]) -> jax.Array:
        size = max(LEAST_DRAW, math.prod(shape))
        return self.sample(key, (1 << (size - 1).bit_length(),))

    def _shaped(self, flat: Any, shape: Sequence[int]) -> Any:
        return self.size(shape) * flat[: math.prod(shape)].reshape(shape)


_symmetric = functools.partial(jax.random.uniform, minval=-1, maxval=1)


def uniform_fan_in(fan_in: int) -> Initializer:
    """PyTorch's initial values for linear and convolution layers: U(-1, 1) / sqrt(fan_in)."""
    return Random(_symmetric, lambda _: fan_in**-0.5)


def normal(deviation: float) -> Initializer:
    """Normal values around 0."""
    return Random(jax.random.normal, lambda _: deviation)


# Glorot's uniform values for the last two axes, as PyTorch Geometric fills GATv2 layers.
glorot_uniform = Random(_symmetric, lambda shape: math.sqrt(6 / (shape[-1] + shape[-2])))
# He's normal values by output channels, as torchvision fills ResNet: std sqrt(2 / fan_out).
he_normal_fan_out = Random(
    jax.random.normal, lambda shape: math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1]))
)


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
    return jax.device_put(np.broadcast_to(kernel, tuple(shape)).astype(dtype))


def init_variables(
    model: Any, frame_size: int, key: jax.Array, wanted: Collection[str] | None = None
) -> dict[str, Any]:
    """Initial parameters and statistics, without running the network.

    They are not those of `model.init`, which derives its keys otherwise and computes a forward
    pass; their distributions are. A value depends on `key`, its own path and its shape: it stays
    where other parameters come or go.

    Args:
      model: a `FineCausal`, made of `Layer`s.
      frame_size: height and width of its frames, pixels.
      key: fixes every random value.
      wanted: names of leaves, "collection/path/..."; None means all of them.

    Returns:
      {"params", "batch_stats"}, nested dicts of float32 arrays; the wanted leaves only.

    Raises:
      ValueError: a leaf belongs to a module that is no `Layer`.
    """
    traced = _is_traced(key)
    values = {}
    for path, (init, *arguments) in _declared(model, frame_size).items():
        if wanted is None or path in wanted:
            draw = init.draw if isinstance(init, Random) and not traced else init
            own = jax.random.fold_in(key, zlib.crc32(path.encode()))
            values[path] = draw(own, *arguments)
    return flax.traverse_util.unflatten_dict(values, sep="/")


def _declared(model: Any, frame_size: int) -> dict[str, tuple[Any, ...]]:
    """Each leaf's initialiser and what it takes after the key, as the leaf's layer declares it."""
    declared: dict[str, tuple[Any, ...]] = {}

    def note(call: Callable[..., Any], arguments: Any, options: Any, context: Any) -> Any:
        if isinstance(context.module, Layer):
            if context.method_name == "param":
                name, init, *rest = arguments
                declared["/".join(("params", *context.module.path, name))] = (init, *rest)
                return call(name, nn.initializers.zeros, *rest, **options)  # the shape will do
            if context.method_name == "variable":
                collection, name, init, *rest = arguments
                path = "/".join((collection, *context.module.path, name))
                declared[path] = (lambda _, *rest: init(*rest), *rest)
        return call(*arguments, **options)

    # A new function each time: one that JAX knows would not be traced, and nothing noted.
    def init(key: jax.Array, video: Any) -> Any:
        return model.init(key, video, video)

    key = jax.eval_shape(lambda: jax.random.key(0))
    video = jax.ShapeDtypeStruct((1, model.frames, frame_size, frame_size, 3), jnp.float32)
    with nn.intercept_methods(note):
        shapes = flax.traverse_util.flatten_dict(jax.eval_shape(init, key, video), sep="/")
    missing = sorted(shapes.keys() - declared)
    if missing:
        raise ValueError(
            f"no initial value is known of {', '.join(missing)}: expected that the modules that "
            "they belong to inherit from `initial_values.Layer`"
        )
    return declared


def _is_traced(key: jax.Array) -> bool:
    try:
        np.asarray(jax.random.key_data(key))
    except jax.errors.TracerArrayConversionError:
        return True
    return False
