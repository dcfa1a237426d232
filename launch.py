"""Runs one command of FineCausal in JAX: `python launch.py COMMAND --help`."""

import os
import pathlib
import sys
from collections.abc import Mapping
from importlib import metadata

from finecausal_jax import command_line
from finecausal_jax.runtime.console import quiet_broken_pipe

# What XLA's CPU backend is told: to leave YNNPACK only sums, and not products and convolutions too,
# since its own kernels (Eigen's) are faster at the batched ones of this network; and to order the
# work for memory, not for operations beside each other, which each take all cores anyway.
XLA_FOR_CPU = {
    "--xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "--xla_cpu_enable_concurrency_optimized_scheduler": "false",
}
JAXLIB_WITH_FLAGS = "0.10."  # a jaxlib that does not know a flag ends the process
HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def xla_flags(flags: str, jaxlib: str) -> str:
    """The value of XLA_FLAGS, which JAX reads when it starts, for the best of the CPU backend.

    Args:
      flags: its value now. What it says of a flag stays.
      jaxlib: the version that is installed.
    """
    if not jaxlib.startswith(JAXLIB_WITH_FLAGS):
        return flags
    missing = [f"{name}={value}" for name, value in XLA_FOR_CPU.items() if name not in flags]
    return " ".join([*filter(None, [flags]), *missing])


def environment_with_huge_pages(
    environment: Mapping[str, str], setting: pathlib.Path = HUGE_PAGES
) -> dict[str, str] | None:
    """The environment in which glibc asks the kernel for huge pages, or None to leave it.

    XLA allocates each array anew. On a CPU, filling gigabytes of fresh 4 kB pages takes a fifth of
    a forward pass; with 2 MB pages next to nothing. glibc reads the variable only while a process
    starts.

    Args:
      environment: of this process; a value of `glibc.malloc.hugetlb` in it is left as it is.
      setting: the kernel's, "always [madvise] never" where programs may ask.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in tunables:
        return None
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        asked_only = "[madvise]" in setting.read_text()
    except (AttributeError, ValueError, OSError):
        return None  # not Linux, or not glibc
    if not asked_only or name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return None
    tunables = ":".join(filter(None, (tunables, "glibc.malloc.hugetlb=1")))
    return {**environment, "GLIBC_TUNABLES": tunables}


if __name__ == "__main__":
    if not command_line.is_help(sys.argv):
        os.environ["XLA_FLAGS"] = xla_flags(
            os.environ.get("XLA_FLAGS", ""), metadata.version("jaxlib")
        )
        changed = environment_with_huge_pages(os.environ)
        if changed is not None:  # start again, in the same process
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
    with quiet_broken_pipe():
        sys.exit(command_line.main(sys.argv, pathlib.Path(__file__).parent))
