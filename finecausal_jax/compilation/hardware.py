"""Chips and how they are joined: what their makers publish, and stand-ins for their devices.

A stand-in can be compiled for and nothing else. TPUs need `libtpu`, GPUs JAX's CUDA plugin, neither
needs the hardware.
"""

import dataclasses
import importlib.util
import math
import os
from typing import Any

import jax

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.layout import Layout, over_devices
from finecausal_jax.runtime.memory import GIB


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, by its published numbers.

    Attributes:
      name: as in a topology.
      platform: "tpu" or "cuda".
      memory: bytes of high-bandwidth memory.
      usable: share of the memory that a program may take. JAX gives a process 75 % of a GPU's
        memory unless told otherwise (`XLA_PYTHON_CLIENT_MEM_FRACTION`). A TPU's compiler itself
        refuses what does not fit.
      bandwidth: bytes/s from and to that memory.
      flops: FLOP/s by compute dtype at JAX's default precision, without sparsity: float32 runs in
        one bfloat16 pass on a TPU, as TF32 on a GPU.
      link: bytes/s to other chips, sent.
      source: where the numbers are published.
      layouts: known slices of a TPU; empty for GPUs.
      cores: GPU: multiprocessors.
      capability: GPU: CUDA compute capability.
      shared_memory: GPU: bytes a multiprocessor.
      cache: GPU: bytes of the second-level cache.
      clock_ghz: GPU: boost clock.
    """

    name: str
    platform: str
    memory: int
    usable: float
    bandwidth: float
    flops: dict[str, float]
    link: float
    source: str
    layouts: tuple[str, ...] = ()
    cores: int = 0
    capability: tuple[int, int] = (0, 0)
    shared_memory: int = 0
    cache: int = 0
    clock_ghz: float = 0.0


def _tpu(name: str, gib: int, bandwidth: float, tflops: int, link_gbits: int, layouts: str) -> Chip:
    # float32 operands are rounded to bfloat16 at the default precision, hence one rate for both.
    flops = {"float32": tflops * 1e12, "bfloat16": tflops * 1e12}
    source = f"cloud.google.com/tpu/docs/{name}"
    link = link_gbits * 1e9 / 8
    return Chip(name, "tpu", gib * GIB, 1.0, bandwidth, flops, link, source, tuple(layouts.split()))


_PLANES = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4"
_HOPPER = {
    "cores": 132,
    "capability": (9, 0),
    "shared_memory": 233472,
    "cache": 50 * 2**20,
    "clock_ghz": 1.98,
}
_HOPPER_FLOPS = {"float32": 494.7e12, "bfloat16": 989.4e12}
_CHIPS = (
    _tpu("v5e", 16, 819e9, 197, 1600, _PLANES),
    _tpu("v5p", 95, 2765e9, 459, 4800, _CUBES),
    _tpu("v6e", 32, 1600e9, 918, 3200, _PLANES),
    Chip(
        "a100",
        "cuda",
        80 * GIB,
        0.75,
        2039e9,
        {"float32": 156e12, "bfloat16": 312e12},
        300e9,
        "NVIDIA A100 80GB datasheet (SXM)",
        cores=108,
        capability=(8, 0),
        shared_memory=167936,
        cache=40 * 2**20,
        clock_ghz=1.41,
    ),
    Chip(
        "h100",
        "cuda",
        80 * GIB,
        0.75,
        3350e9,
        _HOPPER_FLOPS,
        450e9,
        "NVIDIA H100 datasheet (SXM)",
        **_HOPPER,
    ),
    Chip(
        "h200",
        "cuda",
        141 * GIB,
        0.75,
        4800e9,
        _HOPPER_FLOPS,
        450e9,
        "NVIDIA H200 datasheet (SXM)",
        **_HOPPER,
    ),
)
CHIPS = {chip.name: chip for chip in _CHIPS}


# How JAX names them, or begins to: `jax.Device.device_kind`.
_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """FLOP/s that a device is said to do; None for one that is not known here, such as a CPU.

    Args:
      device_kind: as `jax.Device` has it.
      dtype: what is computed in, as `Chip.flops` has it.
    """
    fitting = [kind for kind in _KINDS if device_kind.startswith(kind)]
    if not fitting:
        return None
    return CHIPS[_KINDS[max(fitting, key=len)]].flops.get(dtype)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Some chips of one kind.

    Attributes:
      name: as the user wrote it, such as "v5e:2x4".
      chip: the kind.
      devices: how many.
    """

    name: str
    chip: Chip
    devices: int


def parse_topology(text: str) -> Topology:
    """Reads "CHIP:LAYOUT" for TPUs, such as v5e:2x4, or "CHIP:COUNT" for GPUs, such as h100:8.

    Raises:
      InputError: there is no such chip or layout; the text lists those there are.
    """
    name, _, layout = text.partition(":")
    chip = CHIPS.get(name)
    if chip is None:
        raise InputError(f"--topology={text}: no chip {name!r}. Known topologies:\n{_known()}")
    if chip.platform == "tpu":
        if layout not in chip.layouts:
            raise InputError(
                f"--topology={text}: no slice {layout!r} of {name}. Known topologies:\n{_known()}"
            )
        return Topology(text, chip, math.prod(int(side) for side in layout.split("x")))
    count = int(layout) if layout.isdecimal() else 0
    if count < 1 or (count > 8 and count % 8):
        raise InputError(
            f"--topology={text}: expected 1 to 8 GPUs or a multiple of 8 (hosts of 8), got "
            f"{layout!r}. Known topologies:\n{_known()}"
        )
    return Topology(text, chip, count)


def prepare_environment() -> None:
    """Keeps JAX and libtpu from looking for hardware; to be called before either starts."""
    jax.config.update("jax_platforms", "cpu")
    # Without these libtpu asks the cloud's metadata server who it is, and complains.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Else one process at a time could compile: libtpu locks chips, which are not there.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # The CUDA plugin would refuse to load without a driver.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def make_layout(topology: Topology) -> Layout:
    """A layout over stand-ins along one axis, as `layout.make_layout` makes it of real devices.

    Raises:
      InputError: the compiler for the platform is not installed.
    """
    chip = topology.chip
    packages, extra = {
        "tpu": (("libtpu",), "tpu"),
        "cuda": (("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"), "cuda12"),
    }[chip.platform]
    if not any(_installed(package) for package in packages):
        raise InputError(
            f"--topology={topology.name} needs the compiler of {packages[0]}, which is not "
            f"installed: pip install -e '.[{extra}]'"
        )
    from jax.experimental import topologies

    options: dict[str, Any]
    if chip.platform == "tpu":
        # libtpu takes hosts of 2 x 2 chips for granted, which a single chip is not.
        options = {"chips_per_host_bounds": [1, 1, 1]} if topology.devices == 1 else {}
        described = topologies.get_topology_desc(topology.name, "tpu", **options)
    else:
        hosts = math.ceil(topology.devices / 8)
        options = {
            "target_config": target_config(chip),
            "topology": f"1x{hosts}x{topology.devices // hosts}",
        }
        described = topologies.get_topology_desc(chip.name, "cuda", **options)
    return over_devices(described.devices)


def target_config(chip: Chip) -> str:
    """What XLA must know of a GPU that it cannot ask, as protobuf text (GpuTargetConfigProto)."""
    major, minor = chip.capability
    # Limits without a name of their own in Chip are CUDA's for every capability from 8.0 on.
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_block_optin": chip.shared_memory - 1024,
        "shared_memory_per_core": chip.shared_memory,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "core_count": chip.cores,
        "fpus_per_core": 128 if major >= 9 else 64,
        "clock_rate_ghz": chip.clock_ghz,
        "memory_bandwidth": round(chip.bandwidth),
        "device_memory_size": chip.memory,
        "l2_cache_size": chip.cache,
    }
    fields = "\n".join(f"  {key}: {value}" for key, value in device.items())
    accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    return (
        f"gpu_device_info {{\n{fields}\n"
        f"  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}\n}}\n"
        'platform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
        f'device_description_str: "{chip.name}"\n'
    )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent is not there either
        return False


def _known() -> str:
    lines = []
    for chip in CHIPS.values():
        layouts = ", ".join(chip.layouts) or "1 to 8, or a multiple of 8"
        lines.append(f"  {chip.name}: {layouts}")
    return "\n".join(lines)
