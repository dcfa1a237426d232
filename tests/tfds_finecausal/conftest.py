"""A small release, rendered once, and copies of it to spoil."""

import pathlib
import shutil

import pytest

from tfds_finecausal.rendered import render_release


@pytest.fixture(scope="session")
def small_settings() -> dict:
    sizes = dict(frames=(20, 24), width=64, height=36, competitions=4)
    return dict(train_dives=13, test_dives=3, **sizes)


@pytest.fixture(scope="session")
def small_release(tmp_path_factory, small_settings) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("release") / "rendered"
    return render_release(folder, workers=0, progress=False, seed=3, **small_settings)


@pytest.fixture
def spoiled(small_release, tmp_path) -> pathlib.Path:
    """A copy of the release that a test may change."""
    return pathlib.Path(shutil.copytree(small_release, tmp_path / "release"))
