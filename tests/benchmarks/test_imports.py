"""The benchmark's driver and XLA's worker never need PyTorch."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

_CODE = """
import importlib.abc
import sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())
from benchmarks import (
    lowerings, parts, report, results, serve, task, throughput, workers, xla_worker
)
print("imported")
"""


@pytest.mark.slow  # imports everything once more
def test_all_but_the_baseline_imports_without_pytorch():
    root = pathlib.Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", _CODE], cwd=root, capture_output=True, text=True)
    assert run.stdout == "imported\n", run.stderr
