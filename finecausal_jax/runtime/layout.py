"""How arrays lie on devices: batches split over the data axis, the state on every device."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
# What JAX raises where there is no device of the kind that it was told to use; the latter, without
# a word, where not even its plugin is installed.
NO_DEVICE = (RuntimeError, AssertionError)


def make_mesh() -> Mesh:
    """All devices along one axis, `data`; XLA propagates layouts by itself.

    Raises:
      ValueError: JAX finds no device of the kind that it was told to use; or there are several
        processes: batches and checkpoints are made for that, but nothing gathers an evaluation's
        results from other hosts yet.
    """
    try:
        devices = jax.device_count()
    except NO_DEVICE as error:
        raise ValueError(
            f"JAX finds no device for JAX_PLATFORMS={jax.config.jax_platforms or ''}: leave it "
            "unset for whatever there is, or set it to cpu; a GPU needs its driver and pip install "
            f"-e '.[cuda12]', a TPU pip install -e '.[tpu]'. JAX says: {str(error) or 'nothing'}"
        ) from error
    if jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} JAX processes: several hosts are not supported yet; start one "
            "process, which uses all devices of its host"
        )
    return jax.make_mesh((devices,), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def over_data(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis of every array over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError where a batch cannot be split evenly over the devices."""
    devices = mesh.size
    if batch_size % devices:
        raise ValueError(
            f"{name} is {batch_size}, which {devices} devices cannot share evenly; use a multiple "
            f"of {devices}"
        )


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts this host's part of a batch on its devices, as one array over all hosts.

    Args:
      batch: tree of NumPy arrays; their leading axis is this host's share.
      mesh: from `make_mesh`.
    """
    sharding = over_data(mesh)

    def place(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree.map(place, batch)
