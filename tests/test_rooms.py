"""Promises about the code's shape that no linter keeps."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MOST_ARGUMENTS = 6  # of a function: what belongs together travels as one thing


@pytest.mark.parametrize("room", ["scoring", "training"])
def test_functions_take_few_arguments(room):
    long = {}
    for path in sorted((ROOT / "finecausal_jax" / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                given = node.args
                names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                if count > MOST_ARGUMENTS:
                    long[f"{path.name}: {node.name}"] = count
    assert not long


def test_the_launcher_is_short():
    assert len((ROOT / "launch.py").read_text().splitlines()) < 100


def test_help_needs_no_jax():
    """Importing the package, the launcher or a command, and defining its flags, loads no JAX."""
    code = """
import importlib, pathlib, sys
import finecausal_jax, launch
from absl import flags
from finecausal_jax import command_line
loaded = []
for name, path in command_line.commands(pathlib.Path.cwd()).items():
    flags.FLAGS.remove_flag_values(list(flags.FLAGS))
    parts = path.relative_to(pathlib.Path.cwd()).with_suffix("").parts
    module = importlib.import_module(".".join(parts))
    module.define_flags()
    loaded += [name] if {"jax", "numpy", "tensorflow", "torch"} & set(sys.modules) else []
print(loaded)
"""
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
