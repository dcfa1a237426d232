"""What XLA and the C library are told before JAX starts."""

import os
import pathlib
import subprocess
import sys

import pytest

from finecausal_jax.runtime import environment

ROOT = pathlib.Path(__file__).parents[2]
SUMS = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"
ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def test_xla_is_told_what_suits_a_cpu_beside_what_else_is_set():
    def told(flags):
        return environment.xla_flags(flags, lambda name: True)

    assert told("") == f"{SUMS} {ORDER}"
    assert told("--xla_dump_to=d") == f"--xla_dump_to=d {SUMS} {ORDER}"
    users = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
    assert told(users) == f"{users} {ORDER}"
    assert told(f"{users} {ORDER}") == f"{users} {ORDER}"


def test_xla_is_not_told_what_it_does_not_know():
    assert environment.xla_flags("", lambda name: False) == ""
    assert environment.xla_flags("", lambda name: name.endswith("scheduler")) == ORDER
    # The flag is known, its value no more.
    assert environment.xla_flags("", lambda name: name.startswith("xla_")) == ORDER


def test_a_flag_is_looked_for_in_the_largest_library(tmp_path):
    (tmp_path / "small.so").write_bytes(b"xla_other")
    content = b"\0xla_first\0" + b"." * 100 + b"xla_second_longer own_xla_second \0" + b"xla_last"
    (tmp_path / "large.so").write_bytes(content)
    for name in ("xla_first", "xla_second_longer", "xla_last"):
        assert environment.known_to_jaxlib(name, tmp_path), name
    for name in ("xla_second", "xla_other", "xla_fir"):
        assert not environment.known_to_jaxlib(name, tmp_path), name
    assert not environment.known_to_jaxlib("xla_first", tmp_path / "nowhere")


def test_the_installed_jaxlib_takes_what_it_is_found_to_know():
    flags = environment.xla_flags("", environment.known_to_jaxlib)
    code = "import jax; print(jax.numpy.ones(3).sum())"
    variables = {**os.environ, "XLA_FLAGS": flags}
    subprocess.run([sys.executable, "-c", code], check=True, env=variables)
    assert not environment.known_to_jaxlib("xla_cpu_no_such_flag")


@pytest.fixture
def kernel_setting(tmp_path, monkeypatch):
    """The kernel's file where programs may ask for huge pages, beside a recent glibc."""
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    return path


def test_huge_pages_are_asked_for_beside_what_else_is_set(kernel_setting):
    changed = environment.environment_with_huge_pages({"HOME": "/home"}, kernel_setting)
    assert changed == {"HOME": "/home", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    before = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    changed = environment.environment_with_huge_pages(before, kernel_setting)
    assert changed == {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"}
    # Nothing is left to change after the second start, or it would start for ever.
    assert environment.environment_with_huge_pages(changed, kernel_setting) is None


def test_huge_pages_that_a_user_refuses_are_not_asked_for(kernel_setting):
    refused = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert environment.environment_with_huge_pages(refused, kernel_setting) is None


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_huge_pages_are_not_asked_for_where_it_changes_nothing(kernel_setting, setting):
    kernel_setting.unlink() if setting is None else kernel_setting.write_text(setting)
    assert environment.environment_with_huge_pages({}, kernel_setting) is None


@pytest.mark.parametrize("library", ["glibc 2.31", None])
def test_huge_pages_are_not_asked_of_another_library(kernel_setting, monkeypatch, library):
    monkeypatch.setattr(os, "confstr", lambda name: library, raising=False)
    assert environment.environment_with_huge_pages({}, kernel_setting) is None


def test_a_start_for_huge_pages_keeps_arguments_and_exit_code():
    """Whether or not this machine has them: as without, in one process."""
    variables = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-X", "utf8", "launch.py", "trian", "--a=b c"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert result.returncode == 2
    assert "no command 'trian'" in result.stderr
