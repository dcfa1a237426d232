"""What a measurement depends on: code, versions, machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
# What is measured; how (this package) may be mended without measuring anew.
_CODE = ("finecausal_jax/**/*.py", "configs/*.py", "benchmarks/*.py", "benchmarks/torch_*/*.py")
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "jraph", "numpy", "torch")
_OF_CUDA = ("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
_ASKED = "name,driver_version,memory.total,memory.used"
_VARIABLES = ("JAX_", "XLA_", "TORCH", "CUDA_", "NVIDIA_TF32", "TF_")


def collect(device: str, sizes: str, command: Sequence[str]) -> dict[str, Any]:
    """The facts of a call.

    Args:
      device: "gpu" or "cpu".
      sizes: "full" or "tiny".
      command: as it was typed.

    Returns:
      "device" (its name), "driver", "memory" (of the GPU: total, used when we began), "processor",
      "cores", "sizes", "commit", "source" (a checksum of the code that is measured, which a copy
      without `.git` has, too), "versions", "python", "environment", "command".
    """
    gpu = _nvidia() if device == "gpu" else {}
    return {
        "device": gpu.get("name", "unknown GPU") if device == "gpu" else "cpu",
        "driver": gpu.get("driver_version"),
        "memory": {key: gpu[key] for key in ("memory.total", "memory.used") if key in gpu},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "sizes": sizes,
        "commit": os.environ.get("GPU_COMMIT") or _commit(),
        "source": checksum(ROOT),
        "versions": _versions(),
        "python": platform.python_version(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
        "command": " ".join(command),
    }


def checksum(root: pathlib.Path) -> str:
    """Of the measured code, its first 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _CODE for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _nvidia() -> dict[str, str]:
    """What the driver says of the first GPU; empty where it does not answer."""
    command = ("nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader", "--id=0")
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in said.stdout.strip().split(",")]
    return dict(zip(_ASKED.split(","), values, strict=False))


def _processor() -> str:
    with contextlib.suppress(OSError, IndexError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [line for line in lines if line.startswith("model name")]
        return names[0].partition(":")[2].strip()
    return platform.machine()


def _commit() -> str | None:
    if not (ROOT / ".git").exists():  # a copy of the files, or installed
        return None
    command = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return said.stdout.strip()
    return None


def _versions() -> dict[str, str]:
    found = {}
    for name in (*_LIBRARIES, *_OF_CUDA):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
