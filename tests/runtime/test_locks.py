"""One process at a time on a folder."""

import os
import subprocess
import sys

import pytest

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.locks import FILES, only_one

# Takes the lock, says so, and keeps it until it is killed.
HOLD = """
import sys, time
from finecausal_jax.runtime.locks import only_one
with only_one(sys.argv[1], "a bank"):
    print("held", flush=True)
    time.sleep(100)
"""


def test_the_second_is_refused_and_a_kill_leaves_no_lock(tmp_path, request):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=request.config.rootpath) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            told = rf"run is in use by a bank, process {holder.pid} on .* since .*: wait until"
            with pytest.raises(InputError, match=told), only_one(tmp_path / "run", "a training"):
                pass
        finally:
            holder.kill()
    with only_one(tmp_path / "run", "a training"):
        (tmp_path / "run" / "x").touch()
    assert (tmp_path / "run" / "x").exists()


def test_a_folder_that_stays_empty_goes_with_the_lock(tmp_path):
    with only_one(tmp_path / "new", "a training"):
        assert set(os.listdir(tmp_path / "new")) == set(FILES)
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").mkdir()
    with only_one(tmp_path / "old", "a training"):
        pass
    assert (tmp_path / "old").is_dir()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    import filelock

    def fail(self):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with only_one(tmp_path, "a training"):
        pass
    assert "this file system has no locks" in caplog.text
