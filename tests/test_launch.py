"""The command line, the configs and what importing does."""

import dataclasses
import errno
import itertools
import os
import pathlib
import re
import signal
import subprocess
import sys
import tomllib
import types

import jax
import pytest
from ml_collections import config_flags  # noqa: F401  (its import must not start a device either)

from configs import demo, finediving_hm
from finecausal_jax import FineCausal, command_line
from finecausal_jax.commands import train
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.settings import read, things

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = ("finecausal_jax", "benchmarks")


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "launch.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_commands_are_listed_with_a_line_each():
    result = launch("--help")
    assert result.returncode == 0
    names = ("render", "build", "train", "evaluate", "bank", "verify", "convert", "export")
    for name in names:
        assert re.search(rf"^  {name} +\S", result.stdout, re.M), name


def test_a_reader_that_wants_only_the_first_lines_is_no_fault():
    command = [sys.executable, "launch.py", "--help"]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **options) as process:
        process.stdout.close()  # as `head` does, only sooner
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_unknown_command_is_named():
    result = launch("trian")
    assert result.returncode == 2
    assert "no command 'trian'" in result.stderr


def test_train_without_a_data_set_says_what_to_run(tmp_path, capsys):
    config = demo.get_config()
    config.data.data_dir = str(tmp_path)
    command = types.SimpleNamespace(run=lambda _: train.train(read(config), tmp_path / "run"))
    assert command_line.run(command, ["launch.py"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("launch.py: ") and "launch.py build" in printed.err
    assert printed.out == ""
    assert not (tmp_path / "run").exists()


def test_a_config_key_that_does_not_exist_is_named():
    result = launch("evaluate", "--config=configs/demo.py", "--config.train.epoch=3")
    assert result.returncode == 2
    assert "epoch" in result.stderr and "epochs" in result.stderr  # what was meant
    assert "Traceback" not in result.stderr


def test_a_command_that_can_do_without_a_config_does(tmp_path):
    result = launch("export", f"--workdir={tmp_path}", f"--output={tmp_path / 'x.safetensors'}")
    assert result.returncode == 2
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_config_file_that_does_not_exist_is_named():
    result = launch("evaluate", "--config=configs/dmeo.py")
    assert result.returncode == 2
    assert "configs/dmeo.py" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (
            ["--config=nope.py", "--config.train.epochs=2"],
            "--config=nope.py: .*, found no such file",
        ),
        (["--config", "nope.py"], "found no such file"),
        (["--config="], "found something else"),
        (["--config=configs"], "found something else"),
        (["--config=README.md"], "--config=README.md: expected a Python file.* something else"),
        (["--config=configs/demo.py", "--config=nope.py:small"], "--config=nope.py:small: "),
    ],
)
def test_what_is_no_config_file_is_refused_before_it_is_used(capsys, monkeypatch, arguments, found):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as caught:
        command_line._with_config_files(["--workdir=x", *arguments])
    assert caught.value.code == 2
    assert re.search(found, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1", r"expected a file with a function get_config\(\), found no such function"),
        ("def get_config():\n  return 3", "that returns a ConfigDict, found int"),
        (
            "import ml_collections as m\ndef get_config():\n  return m.ConfigDict({'model': 3})",
            "config.model is 3, expected the keys of a section",
        ),
    ],
)
def test_a_config_file_of_something_else_is_explained(tmp_path, text, found):
    (tmp_path / "other.py").write_text(text)
    result = launch("train", f"--config={tmp_path / 'other.py'}", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert re.fullmatch(f"launch.py: .*{found}.*\n", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--workdir=gs://bucket/run"], "--workdir=gs://bucket/run: expected a path of this"),
        (["--workdir=a[0]"], r"--workdir='/.*/a\[0\]': the path holds '\[', '\]', which"),
        (["--config.data.data_dir=s3://b"], "config.data.data_dir=s3://b: expected a path of this"),
    ],
)
def test_places_are_of_this_machine(tmp_path, arguments, found):
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    result = launch("build", "--config=configs/demo.py", data, *arguments)
    assert result.returncode == 2
    assert re.match(f"launch.py: .*{found}", result.stderr), result.stderr
    assert not list(tmp_path.rglob("*_info.json"))


def test_importing_starts_no_device_and_no_other_framework():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in itertools.chain(*((ROOT / room).rglob("*.py") for room in ROOMS))
        if "torch_baseline" not in path.parts and path.stem != "__init__"
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "print([m for m in ('torch', 'torchvision', 'tensorflow') if m in sys.modules])\n"
        "import jax; jax.devices()\n"
    )
    # No import asked for this platform, or the first one would have ended in its error.
    environment = {**os.environ, "JAX_PLATFORMS": "none_such"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "[]", result.stderr
    assert "none_such" in result.stderr


@pytest.mark.parametrize("config", [finediving_hm, demo])
def test_every_config_makes_its_parts(config):
    settings = read(config.get_config())
    model = things.make_model(settings)
    assert model.frames == things.make_preprocessing(settings).frames
    assert hash(model) == hash(things.make_model(settings))
    assert things.optimiser_settings(settings, 10).accumulate == settings.train.accumulate


def test_full_size_config_is_the_default_model():
    assert things.make_model(read(finediving_hm.get_config())) == FineCausal()


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {line.split("#")[0].strip() for line in lines} - {""}
    wanted = {r for r in project["dependencies"] if not r.startswith("jax>")}
    assert listed == wanted | set(project["optional-dependencies"]["cuda12"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory."), "too little memory"),
        (MemoryError("Unable to allocate 9 GiB"), "smaller --config.train.batch_size"),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: went away"), "by the same command, `train` and"),
        (KeyError("a fault"), None),
        (ValueError("not written for a user"), None),
    ],
)
def test_a_device_or_memory_that_fails_is_explained_below_the_traceback(error, said):
    def run(_):
        raise error

    with pytest.raises(type(error)) as caught:
        command_line.run(types.SimpleNamespace(run=run), ["launch.py"])
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def _error(number, name):
    return OSError(number, os.strerror(number), name)


def _of_arrays():
    error = RuntimeError("saving failed")
    error.__cause__ = ValueError("Error writing 0: No space left on device [source locations='x']")
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (_error(errno.ENOSPC, "a/b.jsonl"), "a/b.jsonl: no space left on device: make room; what"),
        (_of_arrays(), "no space left on device: make room; what was written before is whole"),
        (_error(errno.EROFS, "/mnt/x"), "/mnt/x: read-only file system: choose a folder that can"),
        (_error(errno.ENOENT, "gone/x"), "gone is gone: it was moved or deleted while the command"),
    ],
)
def test_disks_that_fail_are_told_in_one_line(capsys, error, said):
    def run(_):
        raise error

    if error.args[0] != errno.ENOENT:  # which takes a --workdir
        assert command_line.run(types.SimpleNamespace(run=run), ["launch.py"]) == 1
        assert capsys.readouterr().err.startswith(f"launch.py: {said}")
    assert command_line._refused_by_system(error, "gone").startswith(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_any_command_with_its_code(capsys, number):
    def run(_):
        os.kill(os.getpid(), number)

    assert command_line.run(types.SimpleNamespace(run=run), ["launch.py"]) == 128 + number
    assert capsys.readouterr().err == f"launch.py: ended by {number.name}\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_a_user_can_mend_is_told_in_one_line(capsys):
    def run(_):
        raise InputError("x.json: empty, expected a config; delete it")

    assert command_line.run(types.SimpleNamespace(run=run), ["launch.py"]) == 2
    assert capsys.readouterr().err == "launch.py: x.json: empty, expected a config; delete it\n"


def test_annotations_of_every_module_are_checked_in_tests():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    checked = options["addopts"].partition("=")[2].split(",")
    for path in sorted((ROOT / "finecausal_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
        left_out = path.name in ("__init__.py", "__main__.py") or "configs" in parts
        assert left_out or prefixes & set(checked), f"{path}: name it in pyproject.toml"


def test_the_packages_own_configs_serve_where_there_is_no_such_folder(tmp_path, monkeypatch):
    own = str(ROOT / "finecausal_jax" / "configs" / "rendered.py")
    arguments = ["--config=configs/rendered.py:few", "--config", "configs/rendered.py", "--x=1"]
    monkeypatch.chdir(tmp_path)
    found = command_line._with_config_files(arguments)
    assert found == [f"--config={own}:few", "--config", own, "--x=1"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "rendered.py").touch()  # a user's own comes first
    assert command_line._with_config_files(arguments) == arguments


def test_few_dives_are_for_the_same_network():
    from configs import rendered
    from finecausal_jax.settings.config import differences
    from finecausal_jax.settings.schema import FIXED_IN_SCORING

    every, few = read(rendered.get_config()), read(rendered.get_config("few"))
    assert differences(every, few, FIXED_IN_SCORING) == []
    assert every.rendered.seed != few.rendered.seed
    with pytest.raises(ValueError, match="expected all or few behind the colon"):
        rendered.get_config("many")


def test_confounded_test_sets_differ_in_their_ties_alone():
    from configs import confounded
    from finecausal_jax.settings.config import differences
    from finecausal_jax.settings.schema import FIXED_IN_SCORING

    tied, other = read(confounded.get_config()), read(confounded.get_config("reversed"))
    assert differences(tied, other, FIXED_IN_SCORING) == []
    changed = dataclasses.replace(other.rendered, test_confounding=0.9)
    assert tied.rendered == changed and other.rendered.test_confounding == -0.9
    with pytest.raises(ValueError, match="expected tied, untied or reversed"):
        confounded.get_config("loose")
