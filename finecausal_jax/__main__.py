"""`python -m finecausal_jax COMMAND`: what `launch.py` does, for an installed package."""

import pathlib

from finecausal_jax import command_line

if __name__ == "__main__":
    command_line.start(pathlib.Path(__file__).parents[1])
