"""Settings and fixtures for all tests."""

import os
import pathlib

# Tests run tiny networks once: compiling them well would take longer than running them badly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A [n] that meets an [n, c] is a mistake more often than it is meant.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import pytest

REFERENCE = pathlib.Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """The recorded reference: seeded.py, manifest.json and cases/."""
    return REFERENCE


@pytest.fixture(scope="session")
def reference_cases() -> pathlib.Path:
    """The recorded results."""
    return REFERENCE / "cases"
