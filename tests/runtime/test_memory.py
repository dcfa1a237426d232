"""A program that cannot fit is refused before it runs."""

import types

import jax
import jax.numpy as jnp
import pytest

from finecausal_jax.runtime import memory


def test_a_donated_argument_counts_once():
    def f(x):
        return x + 1

    x = jnp.zeros((1000,))
    kept = jax.jit(f).lower(x).compile()
    donated = jax.jit(f, donate_argnums=0).lower(x).compile()
    kept, donated = memory.planned_memory(kept), memory.planned_memory(donated)
    assert (kept["arguments"], kept["outputs"], donated["outputs"]) == (4000, 4000, 0)
    assert kept["total"] >= 8000
    assert donated["total"] == kept["total"] - 4000


def test_a_plan_larger_than_the_memory_is_refused():
    compiled = jax.jit(lambda x: x @ x).lower(jnp.zeros((512, 512))).compile()
    device = types.SimpleNamespace(
        platform="gpu", device_kind="H0", memory_stats=lambda: {"bytes_limit": 10**6}
    )
    with pytest.raises(ValueError, match=r"a step takes 0.0 GiB .* H0 has 0.0: take fewer"):
        memory.check_fits(compiled, device, "a step", "take fewer")
    for known in ({"bytes_limit": 10**9}, {}, None):
        device.memory_stats = lambda known=known: known
        memory.check_fits(compiled, device, "a step", "take fewer")
    memory.check_fits(compiled, jax.devices("cpu")[0], "a step", "take fewer")


def test_memory_of_a_cpu_is_the_machines_or_its_containers(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path / "memory.max")
    whole = memory.machine_bytes()
    assert whole > 1e9
    for text, expected in (("max\n", whole), ("1000000\n", 1_000_000)):
        (tmp_path / "memory.max").write_text(text)
        assert memory.device_bytes(jax.devices("cpu")[0]) == expected
