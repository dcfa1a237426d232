"""The command line, the configs and what importing does."""

import ast
import dataclasses
import inspect
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import types
from importlib import metadata

import jax
import pytest
from ml_collections import config_flags  # noqa: F401  (its import must not start a device either)

import launch as launcher
from configs import demo, finediving_hm
from finecausal_jax import FineCausal, settings
from finecausal_jax.commands import train
from finecausal_jax.runtime import compilation_cache
from finecausal_jax.training import loop
from tfds_finecausal import rendered_plan

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


def test_unknown_command_is_named():
    result = launch("trian")
    assert result.returncode == 2
    assert "no command 'trian'" in result.stderr


def test_train_without_a_data_set_says_what_to_run(tmp_path, monkeypatch, capsys):
    # Set once, the cache would be that of all tests.
    monkeypatch.setattr(compilation_cache, "use_compilation_cache", lambda *_: None)
    config = demo.get_config()
    config.data.data_dir = str(tmp_path)
    flags = types.SimpleNamespace(config=config, workdir=str(tmp_path / "run"))
    command = types.SimpleNamespace(run=lambda _: train.run(flags))
    assert launcher._run(command, ["launch.py"]) == 2
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
    config = config.get_config()
    model = settings.make_model(config)
    assert model.frames == settings.make_preprocessing(config).frames
    assert hash(model) == hash(settings.make_model(config))
    assert settings.make_optimiser_settings(config, 10).accumulate == config.train.accumulate


def test_full_size_config_is_the_default_model():
    assert settings.make_model(finediving_hm.get_config()) == FineCausal()


def test_every_config_key_is_read_somewhere():
    words = set()
    for path in itertools.chain(*((ROOT / room).rglob("*.py") for room in ROOMS)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
            elif isinstance(node, ast.keyword):
                words.add(node.arg)
    # Keyword arguments of the network and of the renderer, both taken as a whole.
    words |= set(inspect.signature(FineCausal).parameters)
    words |= {field.name for field in dataclasses.fields(rendered_plan.Settings)}
    flat = settings._flat(finediving_hm.get_config().to_dict())
    unread = [key for key in flat if key.rsplit(".", 1)[-1] not in words]
    assert not unread


def test_a_network_is_not_scored_under_another_config(tmp_path):
    config = demo.get_config()
    loop.claim_workdir(tmp_path, config)
    config.model.dtype = "bfloat16"  # free: how it is computed
    config.train.base_lr = 0.5  # free: no matter of scoring
    loop._refuse_other_network(tmp_path, config)
    config.model.delta_scale = 1.0  # changes no shape, only every score
    with pytest.raises(ValueError, match=r"model.delta_scale: was 8.0, is 1.0"):
        loop.load_network(config, settings.make_model(config), tmp_path, "best", None)


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {line.split("#")[0].strip() for line in lines} - {""}
    wanted = {r for r in project["dependencies"] if not r.startswith("jax>")}
    assert listed == wanted | set(project["optional-dependencies"]["cuda12"])


def test_workdir_of_another_config_is_refused(tmp_path):
    config = demo.get_config()
    loop.claim_workdir(tmp_path / "run", config)
    config.train.log_every = 3  # free to change
    loop.claim_workdir(tmp_path / "run", config)
    config.train.base_lr = 0.5
    with pytest.raises(ValueError, match=r"train.base_lr: was 0.002, is 0.5"):
        loop.claim_workdir(tmp_path / "run", config)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory."), "too little memory"),
        (MemoryError("Unable to allocate 9 GiB"), "smaller --config.train.batch_size"),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: went away"), "by the same command, `train` and"),
        (KeyError("a fault"), None),
    ],
)
def test_a_device_or_memory_that_fails_is_explained_below_the_traceback(error, said):
    def run(_):
        raise error

    with pytest.raises(type(error)) as caught:
        launcher._run(types.SimpleNamespace(run=run), ["launch.py"])
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def test_xla_is_told_what_suits_a_cpu_beside_what_else_is_set():
    sums = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"
    order = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    assert launcher.xla_flags("", "0.10.2") == f"{sums} {order}"
    assert launcher.xla_flags("--xla_dump_to=d", "0.10.2") == f"--xla_dump_to=d {sums} {order}"
    users = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
    assert launcher.xla_flags(users, "0.10.2") == f"{users} {order}"
    assert launcher.xla_flags(f"{users} {order}", "0.10.2") == f"{users} {order}"
    assert launcher.xla_flags("", "0.11.0") == ""


def test_the_installed_jaxlib_knows_the_flags():
    flags = launcher.xla_flags("", metadata.version("jaxlib"))
    code = "import jax; print(jax.numpy.ones(3).sum())"
    environment = {**os.environ, "XLA_FLAGS": flags}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.fixture
def kernel_setting(tmp_path, monkeypatch):
    """The kernel's file where programs may ask for huge pages, beside a recent glibc."""
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    return path


def test_huge_pages_are_asked_for_beside_what_else_is_set(kernel_setting):
    changed = launcher.environment_with_huge_pages({"HOME": "/home"}, kernel_setting)
    assert changed == {"HOME": "/home", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    before = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    changed = launcher.environment_with_huge_pages(before, kernel_setting)
    assert changed == {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"}
    # Nothing is left to change after the second start, or it would start for ever.
    assert launcher.environment_with_huge_pages(changed, kernel_setting) is None


def test_huge_pages_that_a_user_refuses_are_not_asked_for(kernel_setting):
    refused = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert launcher.environment_with_huge_pages(refused, kernel_setting) is None


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_huge_pages_are_not_asked_for_where_it_changes_nothing(kernel_setting, setting):
    kernel_setting.unlink() if setting is None else kernel_setting.write_text(setting)
    assert launcher.environment_with_huge_pages({}, kernel_setting) is None


@pytest.mark.parametrize("library", ["glibc 2.31", None])
def test_huge_pages_are_not_asked_of_another_library(kernel_setting, monkeypatch, library):
    monkeypatch.setattr(os, "confstr", lambda name: library, raising=False)
    assert launcher.environment_with_huge_pages({}, kernel_setting) is None


def test_a_start_for_huge_pages_keeps_arguments_and_exit_code():
    """Whether or not this machine has them: as without, in one process."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-X", "utf8", "launch.py", "trian", "--a=b c"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert "no command 'trian'" in result.stderr


def test_annotations_of_every_module_are_checked_in_tests():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    checked = options["addopts"].partition("=")[2].split(",")
    for path in sorted((ROOT / "finecausal_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
        left_out = path.name == "__init__.py" or "torch_baseline" in parts
        assert left_out or prefixes & set(checked), f"{path}: name it in pyproject.toml"
