"""Runs one command of FineCausal in JAX: `python launch.py COMMAND --help`."""

import pathlib

from finecausal_jax import command_line

if __name__ == "__main__":
    command_line.start(pathlib.Path(__file__).parent)
