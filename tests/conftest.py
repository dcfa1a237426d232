"""Settings and fixtures for all tests."""

import gc
import importlib.util
import os
import pathlib

# Tests run tiny networks once: compiling them well would take longer than running them badly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A [n] that meets an [n, c] is a mistake more often than it is meant.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import pytest

from finecausal_jax.runtime.environment import GARBAGE_THRESHOLDS

gc.set_threshold(*GARBAGE_THRESHOLDS)
REFERENCE = pathlib.Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """The recorded reference: seeded.py, manifest.json and cases/."""
    return REFERENCE


@pytest.fixture(scope="session")
def reference_cases() -> pathlib.Path:
    """The recorded results."""
    return REFERENCE / "cases"


def pytest_runtest_teardown():
    """Ends what a test left behind, such as iterators, before the next one begins.

    Their finalizers are checked by beartype, which draws from `random`; amid a test of Hypothesis
    that is an error.
    """
    gc.collect(1)


def pytest_terminal_summary(terminalreporter):
    """Says in one line what was left out where PyTorch is missing.

    Whole files are not among the reports of several processes, so they are looked for.
    """
    if importlib.util.find_spec("torch") is not None:
        return
    reason = "needs PyTorch, which is not installed"
    skipped = [one for one in terminalreporter.getreports("skipped") if reason in str(one.longrepr)]
    tests = sum("::" in one.nodeid for one in skipped)
    files = [
        path.name
        for path in sorted(pathlib.Path(__file__).parent.rglob("test_*.py"))
        if f'= pytest.importorskip("torch", reason="{reason}")' in path.read_text()
    ]
    terminalreporter.write_line(
        f"left out: {tests} tests and all of {', '.join(files)}: {reason}", yellow=True
    )
