"""Where arrays lie: batches split over a mesh's data axis, all else by rules or on every device."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from finecausal_jax.runtime import hosts
from finecausal_jax.runtime.errors import InputError

DATA_AXIS = "data"
# What JAX raises where there is no device of the kind that it was told to use; the latter, without
# a word, where not even its plugin is installed.
NO_DEVICE = (RuntimeError, AssertionError)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh, and how batches, parameters, statistics and optimiser state lie on it.

    Attributes:
      mesh: a `jax.sharding.Mesh` with the axis `data`.
      rules: (pattern, layout) of arrays by path, such as "params/base_model/conv3d_1a_7x7/kernel";
        the first pattern found in the path counts. An array that none names is on every device.
    """

    mesh: Any
    rules: tuple[tuple[str, PartitionSpec], ...] = ()

    @property
    def platform(self) -> str:
        """What the devices are: "cpu", "gpu", "tpu" or another of JAX's names."""
        return self.mesh.devices.flat[0].platform

    @property
    def batch(self) -> NamedSharding:
        """Splits the leading axis of every array over the data axis."""
        return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))

    @property
    def whole(self) -> NamedSharding:
        """Keeps a whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of(self, tree: Any) -> Any:
        """The layout of each array of a tree of parameters, statistics or optimiser state."""

        def layout(path: Sequence[Any], _: Any) -> NamedSharding:
            name = jax.tree_util.keystr(tuple(path), simple=True, separator="/")
            found = (spec for pattern, spec in self.rules if re.search(pattern, name))
            return NamedSharding(self.mesh, next(found, PartitionSpec()))

        return jax.tree_util.tree_map_with_path(layout, tree)

    def place(self, tree: Any) -> Any:
        """Puts arrays where they belong."""
        return jax.device_put(tree, self.of(tree))

    def shapes(self, tree: Any) -> Any:
        """A tree's shapes and dtypes with its layouts, for restoring and compiling."""
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            tree,
            self.of(tree),
        )

    def place_batch(self, batch: Any) -> Any:
        """Puts this host's part of a batch on its devices, as one array over all hosts.

        Args:
          batch: tree of NumPy arrays; their leading axis is this host's share.
        """

        def place(array: np.ndarray) -> jax.Array:
            return jax.make_array_from_process_local_data(self.batch, array)

        return jax.tree.map(place, batch)

    def check_batch_size(self, name: str, batch_size: int) -> None:
        """Raises InputError where a batch cannot be split evenly over the devices."""
        devices = self.mesh.shape[DATA_AXIS]
        if batch_size % devices:
            raise InputError(
                f"{name} is {batch_size}, which {devices} devices cannot share evenly; use a "
                f"multiple of {devices}"
            )


def make_layout(devices: Sequence[jax.Device] | None = None) -> Layout:
    """A layout over devices along one axis, `data`; XLA propagates layouts by itself.

    Args:
      devices: None takes all.

    Raises:
      InputError: JAX finds no device of the kind that it was told to use; or there are several
        processes: batches and checkpoints are ready for that, but nothing gathers an evaluation's
        results from other hosts yet.
    """
    try:
        devices = jax.devices() if devices is None else devices
    except NO_DEVICE as error:
        raise InputError(
            f"JAX finds no device for JAX_PLATFORMS={jax.config.jax_platforms or ''}: leave it "
            "unset for whatever there is, or set it to cpu; a GPU needs its driver and pip install "
            f"-e '.[cuda12]', a TPU pip install -e '.[tpu]'. JAX says: {str(error) or 'nothing'}"
        ) from error
    if hosts.count() > 1:
        raise InputError(
            f"{hosts.count()} JAX processes: several hosts are not supported yet; start one "
            "process, which uses all devices of its host"
        )
    return over_devices(devices)


def over_devices(devices: Sequence[jax.Device]) -> Layout:
    """A layout over devices along one axis, which need not exist."""
    shape, names = (len(devices),), (DATA_AXIS,)
    return Layout(jax.make_mesh(shape, names, axis_types=(AxisType.Auto,), devices=devices))
