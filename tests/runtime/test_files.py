"""Files that appear whole, and that replace no other."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from finecausal_jax.runtime import files
from finecausal_jax.runtime.files import check_folder, keep_earlier, write_atomically


def test_a_folder_can_be_there_or_be_made(tmp_path):
    check_folder(tmp_path, "--workdir")
    check_folder(tmp_path / "new" / "newer", "--workdir")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_is_no_folder(tmp_path, below):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="--output=.*: expected a folder, .*file is none; move"):
        check_folder(file / below, "--output")


def test_a_link_to_nothing_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="expected a folder, .*link is none"):
        check_folder(tmp_path / "link", "--output")


def test_a_folder_that_cannot_be_written_into(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ValueError, match="nothing can be written into"):
        check_folder(tmp_path / "run", "--workdir")
    check_folder(tmp_path / "run", "--workdir", writable=False)


def test_earlier_files_get_one_number(tmp_path):
    numbers, plot = tmp_path / "b.json", tmp_path / "b.png"
    assert keep_earlier(numbers, plot) == []
    numbers.write_text("first")
    (tmp_path / "b.1.png").write_text("of somebody else")
    assert keep_earlier(numbers, plot) == [tmp_path / "b.1.json"]  # its own place is free
    numbers.write_text("second")
    plot.write_text("second")
    assert keep_earlier(numbers, plot) == [tmp_path / "b.2.json", tmp_path / "b.2.png"]
    assert (tmp_path / "b.1.json").read_text() == "first"
    assert (tmp_path / "b.1.png").read_text() == "of somebody else"


def test_one_process_of_several_writes(tmp_path):
    path = tmp_path / "report.json"
    assert write_atomically(path, lambda file: file.write_text("second"), lambda: False) == path
    assert not list(tmp_path.iterdir())
    assert write_atomically(path, lambda file: file.write_text("first"), lambda: True) == path
    assert path.read_text() == "first"
    assert [one.name for one in tmp_path.iterdir()] == ["report.json"]


def test_what_killed_processes_left_is_cleaned_by_the_next_who_writes_there(tmp_path):
    path = tmp_path / "x.json"
    child = subprocess.run(
        [sys.executable, "-c", _KILLED_AMID, str(path)], cwd=pathlib.Path(__file__).parents[2]
    )
    assert child.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    own = files.temporary_neighbour(tmp_path / "y.json")  # of a process that is alive
    own.touch()
    elsewhere = tmp_path / ".x.json.another.machine-1.0123abcd.partial"
    elsewhere.touch()
    folder = tmp_path / left.name.replace("x.json", "folder")
    (folder / "0").mkdir(parents=True)
    files.temporary_neighbour(tmp_path / "y.json")
    files.temporary_neighbour(tmp_path / "folder")
    write_atomically(path, lambda file: file.write_text("second"))
    assert set(tmp_path.iterdir()) == {path, own, elsewhere}


_KILLED_AMID = """
import os, pathlib, signal, sys
from finecausal_jax.runtime.files import write_atomically
write_atomically(pathlib.Path(sys.argv[1]), lambda path: os.kill(os.getpid(), signal.SIGKILL))
"""
