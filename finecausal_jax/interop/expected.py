"""What a complete checkpoint holds: each tensor of a released file, the Flax leaf that it fills.

Derived from the model itself, by tracing its initialisation without computing anything, so that
it follows the model's arguments and cannot disagree with it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finecausal_jax.interop import names
from finecausal_jax.interop.order import state_order
from finecausal_jax.models.finecausal import FineCausal

FRAME_SIZE = 112  # of the reference; the number of weights does not depend on it
IMAGENET_CLASSES = 1000  # rows of ResNet-34's classifier


@dataclasses.dataclass(frozen=True)
class Expected:
    """One tensor of a released checkpoint.

    Attributes:
      shape: in PyTorch's layout.
      dtype: float32, or int64 for BatchNorm's counts.
      target: the Flax leaf that it fills; None for a tensor that the model does not use.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    target: names.Target | None


@functools.lru_cache(maxsize=8)
def expected_tensors(model: FineCausal | None = None) -> Mapping[tuple[str, str], Expected]:
    """Every tensor of a released checkpoint for `model`, in the order of a released file.

    Args:
      model: a FineCausal; None means the full-size one.

    Returns:
      (module, key) -> Expected; 1520 tensors at full size.

    Raises:
      ValueError: the model has a leaf that no tensor of a released checkpoint corresponds to.
    """
    tensors: dict[tuple[str, str], Expected] = {}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for (collection, *path), leaf in flat_leaves(variable_shapes(model)):
        source = names.to_pytorch(collection, tuple(path))
        if source is None:
            raise ValueError(
                f"{'/'.join((collection, *path))}: no rule names this leaf of the model"
            )
        shape = _torch_shape(leaf.shape, source.layout)
        target = names.Target(collection, tuple(path), source.layout)
        tensors[source.module, source.key] = Expected(shape, np.dtype(leaf.dtype), target)
        shapes.setdefault(source.module, {})[source.key] = shape
    for module, key, shape, dtype in unused_tensors(shapes):
        tensors[module, key] = Expected(shape, np.dtype(dtype), None)
    return {name: tensors[name] for name in sorted(tensors, key=lambda name: state_order(*name))}


def variable_shapes(model: FineCausal | None = None) -> dict[str, Any]:
    """The model's variables as shapes and dtypes, without computing (or placing) one of them."""
    model = full_size() if model is None else model

    def init() -> Any:
        video = jnp.zeros((1, model.frames, FRAME_SIZE, FRAME_SIZE, 3))
        return model.init(jax.random.key(0), video, video)

    return jax.eval_shape(init)


def full_size() -> FineCausal:
    """The published network."""
    return FineCausal()


def unused_tensors(
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
) -> Iterator[tuple[str, str, tuple[int, ...], type]]:
    """The tensors that the reference saves but nothing reads, beside those that the model holds.

    Args:
      shapes: {module: {key: shape}} of the tensors that the model holds, in PyTorch's layouts.

    Yields:
      (module, key, shape, dtype): BatchNorm's counts, `regressor_delta3`, ResNet's classifier.
    """
    for module, keys in shapes.items():
        for key in keys:
            if key.endswith("running_var"):
                yield module, key.removesuffix("running_var") + "num_batches_tracked", (), np.int64
    for key, shape in shapes.get("regressor_delta1", {}).items():
        yield "regressor_delta3", key, shape, np.float32
    last = shapes.get("video_encoder", {}).get("backbone.layer4.2.bn2.weight")
    if last is not None:
        yield "video_encoder", "backbone.fc.weight", (IMAGENET_CLASSES, *last), np.float32
        yield "video_encoder", "backbone.fc.bias", (IMAGENET_CLASSES,), np.float32


def flat_leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, leaf) of nested dicts, in their order."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flat_leaves(value, (*path, str(key)))
    else:
        yield path, tree


def _torch_shape(shape: tuple[int, ...], layout: names.Layout) -> tuple[int, ...]:
    if layout.axes is None:
        return tuple(shape)
    whole = (1,) * len(layout.extra) + tuple(shape)
    return tuple(whole[axis] for axis in np.argsort(layout.extra + layout.axes))
