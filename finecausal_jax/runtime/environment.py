"""What a process should tell XLA and the C library before JAX starts, for the best of a CPU."""

from __future__ import annotations

import gc
import importlib.util
import mmap
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping

# What XLA's CPU backend is told: to leave YNNPACK only sums, and not products and convolutions too,
# since its own kernels (Eigen's) are faster at the batched ones of this network; and to order the
# work for memory, not for operations beside each other, which each take all cores anyway.
XLA_FOR_CPU = {
    "--xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "--xla_cpu_enable_concurrency_optimized_scheduler": "false",
}
# JAX traces a training step into millions of objects that all stay. Looking through them for
# garbage as often as Python does by default takes a third of the time of tracing.
GARBAGE_THRESHOLDS = (100_000, 20, 100)
HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def prepare() -> None:
    """Sets XLA_FLAGS and garbage collection; may start the process again to have huge pages.

    To be called before anything imports JAX, which reads the first when it starts.
    """
    os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""), known_to_jaxlib)
    changed = environment_with_huge_pages(os.environ)
    if changed is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def xla_flags(flags: str, known: Callable[[str], bool]) -> str:
    """The value of XLA_FLAGS for the best of the CPU backend.

    Args:
      flags: its value now. What it says of a flag stays.
      known: whether the installed XLA has a flag, by its name without dashes, or a constant: one
        that it has not would end the process.
    """
    missing = [
        f"{name}={value}"
        for name, value in XLA_FOR_CPU.items()
        if name not in flags and known(name.lstrip("-")) and (value.islower() or known(value))
    ]
    return " ".join([*filter(None, [flags]), *missing])


def known_to_jaxlib(name: str, folder: pathlib.Path | None = None) -> bool:
    """Whether the installed jaxlib knows an XLA flag or a constant that is a flag's value.

    Its library is looked through for the name: to ask XLA itself would end the process where the
    answer is no. That takes some hundredths of a second, and a quarter of one for a no.

    Args:
      name: without dashes.
      folder: of the library; None is that of the installed jaxlib.
    """
    if folder is None:
        found = importlib.util.find_spec("jaxlib")
        if found is None or found.origin is None:
            return False
        folder = pathlib.Path(found.origin).parent
    # XLA is the largest of its libraries by far.
    libraries = sorted(folder.glob("*.so"), key=lambda path: path.stat().st_size)
    if not libraries or not libraries[-1].stat().st_size:
        return False
    with (
        libraries[-1].open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        place = content.find(name.encode())
        while place >= 0:
            around = content[max(0, place - 1) : place + len(name) + 1].decode("latin-1")
            if re.fullmatch(rf"[^a-z0-9_]?{name}[^a-z0-9_]?", around):
                return True  # not a part of a longer name
            place = content.find(name.encode(), place + 1)
    return False


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
