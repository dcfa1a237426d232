"""The command line of the GPU's measurements, and the wheels that travel with it."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import facts, wheels
from benchmarks.gpu.plan import PARTS

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["everything"], "invalid choice: 'everything'"),
        (["verify", "--seconds=0"], "--seconds is 0, expected at least 1"),
        (["verify", "--rounds=0"], "--rounds is 0, expected at least 1"),
        (["verify", "--device=tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_wrong_arguments_are_told(arguments, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert told in capsys.readouterr().err


def test_a_measurement_that_is_not_there_is_told_with_those_that_are(tmp_path, capsys):
    code = command.main(["verify", "--device=cpu", f"--out={tmp_path}", "--only=nothing"])
    assert code == 2
    assert "--only=nothing: in none of forward_pair/highest, " in capsys.readouterr().err


def test_a_table_of_nothing_says_so(tmp_path, capsys):
    assert command.main(["table", f"--out={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip() == "Nothing was measured yet."


def test_a_fault_in_the_table_is_told_in_its_place(tmp_path):
    broken = '{"part": "verify", "letter": "a", "facts": {}, "measurements": {}}'
    (tmp_path / "verify.json").write_text(broken)
    command.write_table(tmp_path, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("The table could not be made; the JSON files are whole.")
    assert "KeyError" in text


def test_every_part_fits_its_call_and_names_its_measurements_once():
    names = [one.name for part in PARTS.values() for one in part.measurements]
    assert len(set(names)) == len(names)
    for part in PARTS.values():
        assert part.minutes <= 9
        for one in part.measurements:
            assert (ROOT / f"benchmarks/gpu/{one.module}.py").is_file()


def test_the_script_lists_the_parts():
    variables = {**os.environ, "PYTHON": sys.executable}
    run = subprocess.run(
        [ROOT / "benchmarks/gpu.sh"], env=variables, cwd="/", capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for name, part in PARTS.items():
        assert re.search(rf"{name} +\({part.letter}\) {part.minutes} min ", run.stdout)


def test_the_checksum_is_of_what_is_measured(tmp_path):
    for name in ("finecausal_jax/a.py", "benchmarks/b.py", "benchmarks/gpu/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = facts.checksum(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", before)
    (tmp_path / "benchmarks/gpu/c.py").write_text("2")
    assert facts.checksum(tmp_path) == before
    (tmp_path / "finecausal_jax/a.py").write_text("2")
    assert facts.checksum(tmp_path) != before


class TestWheels:
    def fetched(self, folder, size):
        """pip's place: writes one wheel of that many bytes, and notes what it was asked for."""

        def run(asked, check):
            assert check
            self.asked = asked
            (folder / "absl_py-9.9-py3-none-any.whl").write_bytes(bytes(size))

        return run

    def test_the_newest_wheels_take_the_place_of_old_ones(self, tmp_path):
        (tmp_path / "absl_py-1.0-py3-none-any.whl").write_bytes(b"old")
        assert wheels.download(tmp_path, self.fetched(tmp_path, 1000)) == 1000
        assert [path.name for path in tmp_path.iterdir()] == ["absl_py-9.9-py3-none-any.whl"]
        assert "--no-deps" in self.asked
        assert self.asked[self.asked.index("--python-version") + 1] == "3.12"

    def test_too_many_bytes_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"60\.0 MB of wheels, expected at most 60: take"):
            wheels.download(tmp_path, self.fetched(tmp_path, wheels.LIMIT + 1))

    def test_only_what_is_missing_is_installed_from_the_folder_alone(self, tmp_path):
        for name in ("numpy-9.9-py3-none-any.whl", "no_such_thing-1.0-py3-none-any.whl"):
            (tmp_path / name).touch()
        asked = []
        names = wheels.install(tmp_path, tmp_path / "site", lambda line, check: asked.extend(line))
        assert names == ["no_such_thing-1.0-py3-none-any.whl"]
        assert asked[-1] == str(tmp_path / names[0])
        assert "--no-index" in asked

    def test_nothing_is_asked_of_pip_where_all_is_there(self, tmp_path):
        (tmp_path / "numpy-9.9-py3-none-any.whl").touch()
        assert wheels.install(tmp_path, tmp_path / "site", run=pytest.fail) == []
