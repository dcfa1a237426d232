"""Paths of this machine, told from addresses."""

import os

import pytest

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.runtime.places import local


@pytest.mark.parametrize("text", ["", "best", "runs/demo", "/a b/*", "C:/x", "official:5:0"])
def test_any_other_text_stays(text):
    assert local(text, "--x") == text


def test_the_home_is_expanded():
    assert local("~/runs", "--workdir") == os.path.join(os.path.expanduser("~"), "runs")
    assert local("~nobody_here/runs", "--workdir") == "~nobody_here/runs"


@pytest.mark.parametrize("text", ["gs://b/run", "s3://b", "file:///tmp/x", "hdfs://a", "a\0b"])
def test_addresses_are_refused(text):
    with pytest.raises(InputError, match="--workdir=.*: expected a path"):
        local(text, "--workdir")
