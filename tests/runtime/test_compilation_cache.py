"""The persistent compilation cache, where programs run in processes of their own.

JAX settles at its first program where the cache is.
"""

import os
import subprocess
import sys

import jax
import pytest

from finecausal_jax.runtime import compilation_cache
from finecausal_jax.runtime.compilation_cache import use_compilation_cache

PROGRAM = """
import sys, jax, jax.monitoring, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
from finecausal_jax.runtime.compilation_cache import use_compilation_cache
use_compilation_cache(sys.argv[1], sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(float(jax.jit(lambda x: jnp.sin(x) + 1)(0.0)))
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.fixture
def _restored():
    yield
    jax.config.update("jax_compilation_cache_dir", None)


def run(folder, workdir):
    command = [sys.executable, "-c", PROGRAM, folder, str(workdir)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    value, hits = result.stdout.split()
    assert float(value) == 1
    return int(hits)


def test_the_second_process_finds_the_first_ones_programs(tmp_path):
    assert run("cache", tmp_path) == 0
    assert list((tmp_path / "cache").iterdir())
    assert run("cache", tmp_path) > 0


def test_other_workdirs_of_a_user_find_them_too(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert run("user", tmp_path / "one") == 0
    assert run("user", tmp_path / "two") > 0


def test_other_kinds_of_cpu_have_other_folders(tmp_path):
    folders = set()
    for name, text in (("old", "flags : sse"), ("new", "flags : sse avx512f"), ("none", None)):
        if text:
            (tmp_path / name).write_text(f"processor : 0\n{text}\n")
        folders.add(compilation_cache.user_folder(tmp_path / name))
    assert len(folders) == 3


def test_a_home_that_cannot_be_written_is_done_without(_restored, monkeypatch, tmp_path):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    use_compilation_cache("user", tmp_path)
    assert jax.config.jax_compilation_cache_dir is None


def test_empty_keeps_nothing(_restored, tmp_path):
    use_compilation_cache("", tmp_path)
    assert jax.config.jax_compilation_cache_dir is None
    use_compilation_cache("cache", tmp_path)  # which would have been seen
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")


def test_a_folder_given_to_jax_is_left_as_it_is(_restored, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    use_compilation_cache("cache", tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


def test_a_file_in_its_place_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(ValueError, match="train.compilation_cache.*cache is a file"):
        use_compilation_cache("cache", tmp_path)
    assert jax.config.jax_compilation_cache_dir is None
