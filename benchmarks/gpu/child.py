"""A measuring process's side: options in, values out, a line of JSON each."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

Options = Mapping[str, Any]
Emit = Callable[..., None]


def serve(measure: Callable[[Options, Emit], None]) -> None:
    """Measures what the command line asks for, then ends the process.

    Args:
      measure: takes the options (those of the part and of the measurement) and a function that
        takes values by name; they are in the record at once, whatever happens afterwards.
    """
    # Libraries print what they like: their standard output becomes standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def emit(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    options = json.loads(sys.argv[1])
    try:
        measure(options, emit)
        emit(done=True)  # how the process ends is of no interest from here on
    except Exception as error:  # told to the record, by whose side the log is
        traceback.print_exc()
        emit(error=f"{type(error).__name__}: {error}"[:2000])
        answers.close()
        sys.exit(1)


def environment(options: Options) -> dict[str, str]:
    """Variables to start a measuring process with: the device, and the caches that all share."""
    return {
        "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[options["device"]],
        "JAX_COMPILATION_CACHE_DIR": os.path.join(options["cache"], "jax"),
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(options["cache"], "inductor"),
        # So that the peak is what is in use, and PyTorch finds room.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def compiled_programs(options: Options) -> int:
    """How many programs JAX's cache holds: one more says that one was compiled, not found."""
    folder = os.path.join(options["cache"], "jax")
    # Each has a neighbour that says when it was last used.
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sum(name.startswith("jit_") and not name.endswith("-atime") for name in names)
