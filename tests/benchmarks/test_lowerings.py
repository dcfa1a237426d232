"""The timings of single optimisations and parts: they measure, and compare like with like."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import lowerings, parts


def comparison(ours):
    return lowerings.Comparison("a sum", lambda x, y: jnp.sum(x @ y), ours, ((3, 4), (4, 5)))


def test_two_forms_that_agree_are_timed():
    found = lowerings.measure(comparison(lambda x, y: jnp.vdot(x.sum(0), y.sum(1))), 2)
    assert found["name"] == "a sum"
    assert found["ratio"] == pytest.approx(found["plain_seconds"] / found["ours_seconds"])
    assert 0 <= found["error"] < 1e-5 and found["ours_seconds"] > 0


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_two_forms_that_disagree_are_refused(factor):
    with pytest.raises(ValueError, match=r"a sum: the two forms differ by .* more than rounding"):
        lowerings.measure(comparison(lambda x, y: factor * jnp.sum(x @ y)), 1)


@pytest.mark.parametrize("one", lowerings.comparisons(), ids=lambda one: one.name)
def test_both_forms_have_one_shape(one):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in one.arrays]
    plain, ours = (jax.eval_shape(form, *arrays) for form in (one.plain, one.ours))
    assert (plain.shape, plain.dtype) == (ours.shape, ours.dtype)
    assert plain.size > 1


def test_a_part_is_profiled_in_both_passes():
    x = jnp.ones((4, 8), jnp.float32)
    shapes = {
        "params": {"kernel": jax.ShapeDtypeStruct((8, 16), jnp.float32)},
        "batch_stats": {"mean": jax.ShapeDtypeStruct((16,), jnp.float32)},
    }

    def outputs(variables, x, train):
        return x @ variables["params"]["kernel"] - variables["batch_stats"]["mean"][None]

    forward, both = parts.profile(parts.Part("a layer", outputs, x, shapes), 1, 1e9)
    assert [row["pass"] for row in (forward, both)] == ["forward", "forward and backward"]
    # 2 x 4 x 8 x 16 of the product, besides the sum
    assert 1024e-9 <= forward["gflop"] < 1400e-9
    share = 1e9 * forward["gflop"] / forward["seconds"] / 1e9
    assert forward["share_of_peak"] == pytest.approx(share)


@pytest.mark.slow  # traces the full-size encoders
def test_parts_have_their_outputs():
    shapes = {
        part.name: jax.eval_shape(lambda v, x: part.outputs(v, x, True), part.shapes, part.x)  # noqa: B023
        for part in parts.parts()
    }
    assert shapes["base trunk"].shape == (18, 1024)
    assert shapes["segmenter, fused map"].shape == (18, 16, 112, 112)
    assert len(jax.tree.leaves(shapes["segmenter, five maps"])) == 6
    assert shapes["static encoder"].shape == (192, 512)
