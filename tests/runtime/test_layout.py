"""Devices that are not there."""

import jax
import pytest

from finecausal_jax.runtime.layout import make_layout


@pytest.mark.parametrize(
    "error", [RuntimeError("Unable to initialize backend 'cuda'"), AssertionError()]
)
def test_no_device_says_what_to_do(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match=r"no device for JAX_PLATFORMS=cpu.*cuda12.*JAX says: "):
        make_layout()
