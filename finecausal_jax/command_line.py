"""Runs a command of `launch.py`: finds it, parses its flags, and says what is wrong in one line.

Nothing here imports JAX: help comes at once, and a command imports what it needs when it runs.
"""

from __future__ import annotations

import ast
import errno
import importlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import flags

from finecausal_jax.runtime.errors import InputError

# Each module that begins with a letter is a command.
PACKAGES = ("finecausal_jax.commands", "benchmarks.commands")
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
# Errors of the system that say all that there is to say; what was being written is not half there.
_GO_ON = "what was written before is whole, and the same command goes on from it"
_OF_DISKS = {
    errno.ENOSPC: f"make room; {_GO_ON}",
    errno.EDQUOT: f"make room; {_GO_ON}",
    errno.EROFS: "choose a folder that can be written",
    errno.EIO: f"see to the disk; {_GO_ON}",
    errno.ESTALE: f"see to the network file system; {_GO_ON}",
}
_NO_CONFIG = "expected a file with a function get_config()"
_BEGIN_WITH = (
    "A config file begins with finecausal_jax.settings.default_config(), which has them all"
)
USAGE = """\
Runs one command of FineCausal in JAX.

    python launch.py COMMAND --config=configs/NAME.py --workdir=DIR [--config.key=value ...]

`python launch.py COMMAND --help` explains a command, its flags and the config's keys.

Commands:
"""


def start(root: pathlib.Path) -> NoReturn:
    """Runs what the program's arguments ask for, and ends with its exit code.

    Args:
      root: the folder that the packages of commands lie in.
    """
    from finecausal_jax.runtime import environment
    from finecausal_jax.runtime.console import quiet_broken_pipe

    if not is_help(sys.argv):
        environment.prepare()
    with quiet_broken_pipe():
        sys.exit(main(sys.argv, root))


def main(argv: Sequence[str], root: pathlib.Path) -> int:
    """Picks the command, parses its flags and hands over.

    Args:
      argv: the program's name, the command, its flags.
      root: the folder that the packages of commands lie in.

    Returns:
      The exit code: 2 for bad input.
    """
    found = commands(root)
    if len(argv) < 2 or argv[1] not in found:
        asked = len(argv) > 1 and argv[1] not in ("-h", "--help", "help")
        if asked:
            print(f"launch.py: no command {argv[1]!r}", file=sys.stderr)
        print(USAGE + "\n".join(_summary(name, path) for name, path in found.items()))
        return 2 if asked or len(argv) < 2 else 0
    name, rest = argv[1], list(argv[2:])
    command = importlib.import_module(_module(found[name], root))
    _define_flags(command)
    if "config" in flags.FLAGS:
        rest = _with_config_files(rest)
    if is_help(argv):
        print(help_text(name, command, rest))
        return 0
    from absl import app  # slower than all of help

    app.run(
        lambda left: run(command, left),
        argv=[argv[0], *rest],
        flags_parser=_parse,
    )
    return 0


def is_help(argv: Sequence[str]) -> bool:
    """Whether nothing is to be run, only explained."""
    return len(argv) < 2 or any(one in ("-h", "-help", "--help", "help") for one in argv[1:])


def commands(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name of each command and the file that it is."""
    return {
        path.stem: path
        for package in PACKAGES
        for path in sorted((root / package.replace(".", "/")).glob("[a-z]*.py"))
    }


def help_text(name: str, command: Any, arguments: Sequence[str] = ()) -> str:
    """What a command does, its flags, and the keys of its config with their values.

    Args:
      name: of the command.
      command: its module, whose flags are defined.
      arguments: flags given; with --config the keys show that file's values.
    """
    own = [
        f"  --{flag.name}={flag.default_as_str}\n      {flag.help}"
        for flag in flags.FLAGS.get_key_flags_for_module(command)
        if flag.name != "config"
    ]
    lines = [f"launch.py {name}: {command.__doc__.rstrip()}", "", "Flags:", *own]
    if "config" in flags.FLAGS:
        from finecausal_jax.settings import config as configs

        value = next((one for one in arguments if one.startswith("--config=")), None)
        values = None
        if value is not None:
            try:
                flags.FLAGS([name, value])
            except flags.Error:  # a flag that is required is not needed for help
                flags.FLAGS.mark_as_parsed()
            values = flags.FLAGS.config.to_dict()
        lines += ["", f"Keys of the config{f' {value}' if value else ''}:"]
        lines.append(configs.help_text(values))
    return "\n".join(lines)


def run(command: Any, rest: Sequence[str]) -> int:
    """Runs a command whose flags are parsed.

    Args:
      command: its module.
      rest: what was no flag, after the program's name.

    Returns:
      Its exit code; 2 where it refuses its input and 1 where disks failed, which standard error
      then explains; 128 and the signal's number where one ended it.
    """
    from absl import logging

    from finecausal_jax.runtime import interruption

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries tell their every step at INFO
    try:
        if len(rest) > 1:
            raise InputError(f"unexpected arguments {list(rest[1:])}: flags start with --")
        _check_places(command)
        with interruption.raising():
            return command.run(flags.FLAGS) or 0
    except interruption.Interrupted as ended:
        print(f"launch.py: {ended}", file=sys.stderr)
        return 128 + ended.number
    except InputError as error:
        # Bad input, explained by its text; anything else is a fault here and keeps its traceback.
        print(f"launch.py: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        workdir = flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None
        if refused := _refused_by_system(error, workdir):
            print(f"launch.py: {refused}", file=sys.stderr)
            return 1
        advice = _advice(error)
        if advice:
            error.add_note(f"launch.py: {advice}")
        raise


def _check_places(command: Any) -> None:
    """Expands `~` in flags; refuses addresses, and places that cannot be written, before the work.

    Raises:
      InputError: names the flag.
    """
    from finecausal_jax.runtime import files, places

    for flag in flags.FLAGS.get_key_flags_for_module(getattr(command, "__name__", "")):
        if isinstance(flag.value, str) and flag.name != "config":
            flag.value = places.local(flag.value, f"--{flag.name}")
    workdir = flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None
    if workdir:
        reads = getattr(command, "ONLY_READS_WORKDIR", False)
        files.check_folder(workdir, "--workdir", writable=not reads)
    if "output" in flags.FLAGS and flags.FLAGS["output"].value:
        files.check_folder(pathlib.Path(flags.FLAGS["output"].value).parent, "folder of --output")


def _define_flags(command: Any) -> None:
    if command.NEEDS_CONFIG:
        from ml_collections import config_flags

        config_flags.DEFINE_config_file("config", None, "Config file, such as configs/demo.py.")
        flags.mark_flag_as_required("config")
    flags.DEFINE_string(
        "workdir", None, "Folder of the run: config, checkpoints, metrics, reports."
    )
    command.define_flags()
    # Or help would not list them as the command's own.
    flags.FLAGS.register_key_flag_for_module(command.__name__, flags.FLAGS["workdir"])
    flags.adopt_module_key_flags(command)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; a config file or key that is not there is told in one line."""
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        # Of a config file that raises, absl gives the whole traceback, its last line says why.
        text = str(error).strip().splitlines()[-1] if "Traceback" in str(error) else error
        return _refuse(f"{text}. `launch.py COMMAND --help` lists the flags")
    except (AttributeError, KeyError) as error:
        # ml_collections passes on a KeyError's text, which is quoted with its line breaks.
        text = str(error.args[0]).strip("\"'").replace("\\'", "'").replace("\\n", "\n")
        if "no attribute 'get_config" in text:
            return _refuse(f"--config: {_NO_CONFIG}, found no such function")
        return _refuse(f"--config has no such key: {text}. {_BEGIN_WITH}")
    if "config" in flags.FLAGS and flags.FLAGS.config is not None:
        if not hasattr(flags.FLAGS.config, "to_dict"):
            found = type(flags.FLAGS.config).__name__
            return _refuse(f"--config: {_NO_CONFIG} that returns a ConfigDict, found {found}")
    return rest


def _with_config_files(argv: Sequence[str]) -> list[str]:
    """The flags, where a config file that is not there is the package's own of that name.

    One that the package has not either is refused: ml_collections tells of it only when it is used.

    Args:
      argv: all flags; a file may have text behind a colon, for its `get_config`.
    """
    given = list(argv)
    for place, one in enumerate(argv):
        name, is_there, value = one.partition("=")
        if name not in ("-config", "--config"):
            continue
        text = value if is_there else (*argv, "")[place + 1]
        file, colon, behind = text.partition(":")
        path = pathlib.Path(file)
        own = pathlib.Path(__file__).parent / path
        if not path.exists() and path.parts[:1] == ("configs",) and own.is_file():
            path, text = own, f"{own}{colon}{behind}"
        if path.suffix != ".py" or not path.is_file():
            found = "something else" if path.exists() else "no such file"
            _refuse(
                f"--config={text}: expected a Python file such as configs/demo.py, found {found}"
            )
        if is_there:
            given[place] = f"{name}={text}"
        else:
            given[place + 1] = text
    return given


def _refuse(problem: str) -> NoReturn:
    print(f"launch.py: {problem}", file=sys.stderr)
    sys.exit(2)


def _refused_by_system(error: BaseException, workdir: str | None) -> str:
    """One sentence where the machine's disks failed, not this program; empty for another fault."""
    if workdir and isinstance(error, FileNotFoundError) and not pathlib.Path(workdir).exists():
        return f"{workdir} is gone: it was moved or deleted while the command ran"
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        for number, sentence in _OF_DISKS.items():
            of_system = isinstance(error, OSError) and error.errno == number
            # Of TensorStore, which writes arrays, there is only the text.
            if of_system or os.strerror(number) in str(error):
                name = getattr(error, "filename", None)
                return f"{f'{name}: ' if name else ''}{os.strerror(number).lower()}: {sentence}"
        error = error.__cause__ or error.__context__ or error
    return ""


def _advice(error: Exception) -> str:
    """What a user can do about a machine or a device that failed; empty for another fault."""
    jax = sys.modules.get("jax")  # not imported for this: bad input needs no JAX
    of_jax = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    if isinstance(error, MemoryError) or (of_jax and "RESOURCE_EXHAUSTED" in str(error)):
        return LESS_MEMORY
    return FAILED if of_jax else ""


def _module(path: pathlib.Path, root: pathlib.Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _summary(name: str, path: pathlib.Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    return f"  {name:10} {doc.splitlines()[0]}"
