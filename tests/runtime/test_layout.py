"""Where arrays lie, and devices that are not there."""

import jax
import jax.numpy as jnp
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


def test_rules_say_where_arrays_lie_and_the_rest_is_everywhere():
    layout = make_layout()
    split = jax.sharding.PartitionSpec("data")
    ruled = type(layout)(layout.mesh, (("trunk/kernel$", split),))
    tree = {"params": {"trunk": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)}}}
    layouts = ruled.of(tree)["params"]["trunk"]
    assert layouts["kernel"].spec == split
    assert layouts["bias"] == layout.whole
    shapes = ruled.shapes(tree)["params"]["trunk"]
    assert shapes["kernel"].sharding == layouts["kernel"] and shapes["kernel"].shape == (2, 3)
    assert ruled.place(tree)["params"]["trunk"]["kernel"].sharding.spec == split
