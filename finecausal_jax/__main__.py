"""`python -m finecausal_jax COMMAND`: what `launch.py` does, for an installed package."""

import pathlib
import sys

from finecausal_jax import command_line
from finecausal_jax.runtime import environment
from finecausal_jax.runtime.console import quiet_broken_pipe

if __name__ == "__main__":
    if not command_line.is_help(sys.argv):
        environment.prepare()
    with quiet_broken_pipe():
        sys.exit(command_line.main(sys.argv, pathlib.Path(__file__).parents[1]))
