"""Which code made a result."""

from finecausal_jax.runtime import provenance


def test_the_code_of_a_result_is_told(monkeypatch, tmp_path):
    found = provenance.compiled_with()
    assert found["commit"] is None or len(found["commit"].partition("-")[0]) == 40
    assert {"XLA_FLAGS", "jax", "jaxlib"} <= found.keys()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "finecausal_jax" / "provenance.py"))
    assert provenance.commit() is None  # outside of a checkout
