"""Runs one command of FineCausal in JAX.

    python launch.py COMMAND --config=configs/NAME.py --workdir=DIR [--config.key=value ...]

`python launch.py COMMAND --help` explains a command and its flags; without a command, all are
listed.
"""

import ast
import importlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

ROOT = pathlib.Path(__file__).parent
PACKAGES = ("finecausal_jax.commands", "benchmarks.commands")
# What XLA's CPU backend is told: to leave YNNPACK only sums, and not products and convolutions too,
# since its own kernels (Eigen's) are faster at the batched ones of this network; and to order the
# work for memory, not for operations beside each other, which each take all cores anyway.
XLA_FOR_CPU = {
    "--xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "--xla_cpu_enable_concurrency_optimized_scheduler": "false",
}
JAXLIB_WITH_FLAGS = "0.10."  # a jaxlib that does not know a flag ends the process
# Said below the traceback where a device failed or memory ran out.
FAILED = """\
the runtime or compiler of JAX's device failed.
Files written before are whole: by the same command, `train` and `bank` go on from them."""
LESS_MEMORY = """\
there was too little memory. It takes less with a smaller --config.train.batch_size, or
--config.evaluate.video_batch and --config.evaluate.pair_batch; with --config.model.dtype=bfloat16;
in training on a GPU or TPU with --config.model.remat=blocks. `launch.py compile` looks for the
largest batch that fits a device. Files written before are whole: a training goes on in its
--workdir with another remat; with another batch or dtype it needs a new one."""
HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def main(argv: Sequence[str]) -> int:
    """Picks the command, parses its flags and hands over; returns the exit code."""
    found = _commands()
    if len(argv) < 2 or argv[1] not in found:
        asked = len(argv) > 1 and argv[1] not in ("-h", "--help", "help")
        if asked:
            print(f"launch.py: no command {argv[1]!r}", file=sys.stderr)
        print(__doc__ + "\nCommands:\n" + "\n".join(_summary(*one) for one in found.items()))
        return 2 if asked or len(argv) < 2 else 0
    command = importlib.import_module(found[argv[1]])
    if command.NEEDS_CONFIG:
        config_flags.DEFINE_config_file("config", None, "Config file, such as configs/demo.py.")
        flags.mark_flag_as_required("config")
    flags.DEFINE_string(
        "workdir", None, "Folder of the run: config, checkpoints, metrics, reports."
    )
    command.define_flags()
    flags.adopt_module_key_flags(command)  # or --help would not list the command's own flags
    # absl shows this module's docstring for --help.
    sys.modules["__main__"].__doc__ = f"launch.py {argv[1]}: {command.__doc__}"
    sys.argv = [argv[0], *argv[2:]]
    app.run(lambda rest: _run(command, rest), flags_parser=_parse)
    return 0


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; a config file or key that is not there is told in one line."""
    try:
        rest = app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections passes on a KeyError's text, which is quoted with its line breaks.
        text = str(error.args[0]).strip("\"'").replace("\\'", "'").replace("\\n", "\n")
        return _refuse(f"--config has no such key: {text}")
    if "config" in flags.FLAGS and flags.FLAGS.config is not None:
        try:
            flags.FLAGS.config.to_dict()  # a missing file shows only where the config is used
        except OSError:
            return _refuse(f"--config: cannot read {flags.FLAGS['config'].config_filename!r}")
    return rest


def _refuse(problem: str) -> NoReturn:
    print(f"launch.py: {problem}", file=sys.stderr)
    sys.exit(2)


def _run(command, rest: Sequence[str]) -> int:
    from finecausal_jax.runtime import files

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries tell their every step at INFO
    try:
        if len(rest) > 1:
            raise ValueError(f"unexpected arguments {list(rest[1:])}: flags start with --")
        if "workdir" in flags.FLAGS and flags.FLAGS["workdir"].value:
            files.check_folder(flags.FLAGS["workdir"].value, "--workdir", writable=False)
        return command.run(flags.FLAGS) or 0
    except ValueError as error:
        # Bad input, explained by its text; anything else is a fault here and keeps its traceback.
        print(f"launch.py: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        advice = _advice(error)
        if advice:
            error.add_note(f"launch.py: {advice}")
        raise


def _advice(error: Exception) -> str:
    """What a user can do about a machine or a device that failed; empty for another fault."""
    jax = sys.modules.get("jax")  # not imported for this: --help needs no JAX
    of_jax = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    if isinstance(error, MemoryError) or (of_jax and "RESOURCE_EXHAUSTED" in str(error)):
        return LESS_MEMORY
    return FAILED if of_jax else ""


def _commands() -> dict[str, str]:
    """Name of each command and the module that it is."""
    return {
        path.stem: f"{package}.{path.stem}"
        for package in PACKAGES
        for path in sorted((ROOT / package.replace(".", "/")).glob("[a-z]*.py"))
    }


def _summary(name: str, module: str) -> str:
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    doc = ast.get_docstring(ast.parse(source)) or ""
    return f"  {name:10} {doc.splitlines()[0]}"


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
    os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""), metadata.version("jaxlib"))
    changed = environment_with_huge_pages(os.environ)
    if changed is not None:  # start again, in the same process
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
    from finecausal_jax.runtime.console import quiet_broken_pipe

    with quiet_broken_pipe():
        sys.exit(main(sys.argv))
