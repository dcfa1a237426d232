"""Initial values without running the network."""

import zlib

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models import initial_values
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.initial_values import init_variables
from finecausal_jax.models.layers import BatchNorm, Dense


class Pair(nn.Module):
    """A small network in FineCausal's place; `extra` adds a layer before the others."""

    frames: int = 2
    extra: bool = False

    @nn.compact
    def __call__(self, query, exemplar):
        x = BatchNorm(3, name="norm")(query - exemplar, train=False)
        if self.extra:
            x = Dense(3, name="extra")(x)
        x = Dense(3, name="second")(Dense(3, name="first")(x))
        layers = nn.vmap(Dense, variable_axes={"params": None}, split_rngs={"params": False})
        return layers(2, name="mapped")(x)


def flat(variables):
    return flax.traverse_util.flatten_dict(variables, sep="/")


def test_names_and_shapes_are_those_of_init_and_what_is_no_draw_its_values():
    found = init_variables(Pair(), 5, jax.random.key(3))
    video = jnp.zeros((1, 2, 5, 5, 3))
    want = Pair().init(jax.random.key(3), video, video)
    assert jax.tree.structure(found) == jax.tree.structure(want)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, want)
    assert jax.tree.leaves(jax.tree.map(lambda x: x.dtype, found)) == [np.float32] * 10
    for path in ("params/norm/scale", "batch_stats/norm/var"):
        np.testing.assert_array_equal(flat(found)[path], np.ones(3))
    for path in ("params/norm/bias", "batch_stats/norm/mean"):
        np.testing.assert_array_equal(flat(found)[path], np.zeros(3))


def test_a_value_depends_on_the_key_and_its_own_path_alone():
    found = flat(init_variables(Pair(), 5, jax.random.key(3)))
    more = flat(init_variables(Pair(extra=True), 5, jax.random.key(3)))
    assert more.keys() - found.keys() == {"params/extra/kernel", "params/extra/bias"}
    assert all(np.array_equal(values, more[path]) for path, values in found.items())
    wanted = ["params/second/kernel", "batch_stats/norm/var", "params/first/bias"]
    few = flat(init_variables(Pair(), 5, jax.random.key(3), wanted))
    assert sorted(few) == sorted(wanted)
    assert all(np.array_equal(values, found[path]) for path, values in few.items())
    # Equal shapes and initialisers, other paths or another key.
    assert not np.allclose(found["params/first/kernel"], found["params/second/kernel"])
    assert not np.allclose(found["params/first/bias"], found["params/second/bias"])
    other = flat(init_variables(Pair(), 5, jax.random.key(4)))
    assert not np.allclose(found["params/second/kernel"], other["params/second/kernel"])


def test_values_stay_from_version_to_version():
    # Recorded with JAX 0.10.2; another hash of the path or another draw changes them.
    found = init_variables(Pair(), 5, jax.random.key(3), ["params/first/bias"])
    want = [0.4117434, -0.21542358, 0.51270354]
    np.testing.assert_allclose(found["params"]["first"]["bias"], want, rtol=1e-6)


def test_under_jit_and_eval_shape_it_is_the_same():
    eager = init_variables(Pair(), 5, jax.random.key(3))
    shapes = jax.eval_shape(lambda: init_variables(Pair(), 5, jax.random.key(3)))
    assert jax.tree.map(jnp.shape, eager) == jax.tree.map(jnp.shape, shapes)
    jitted = jax.jit(lambda key: init_variables(Pair(), 5, key))(jax.random.key(3))
    # The compiler may round a product otherwise than NumPy.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), eager, jitted)


@pytest.mark.parametrize(
    ("init", "shape", "bound", "deviation"),
    [
        (initial_values.uniform_fan_in(64), (3, 5, 64, 32), 1 / 8, 1 / 8 / 3**0.5),
        (initial_values.glorot_uniform, (192, 408), 0.1, 0.1 / 3**0.5),
        (initial_values.normal(1e-3), (1, 1, 1, 832, 16), None, 1e-3),
        # fan_out is 3 x 3 x 256.
        (initial_values.he_normal_fan_out, (3, 3, 16, 256), None, (2 / (9 * 256)) ** 0.5),
    ],
    ids=["uniform", "glorot", "normal", "he"],
)
def test_distributions(init, shape, bound, deviation):
    values = np.asarray(init(jax.random.key(5), shape))
    np.testing.assert_array_equal(init.draw(jax.random.key(5), shape), values)
    # Five deviations of the mean and of the spread of so many values.
    np.testing.assert_allclose(values.mean(), 0, atol=5 * deviation / values.size**0.5)
    np.testing.assert_allclose(values.std(), deviation, rtol=5 / (2 * values.size) ** 0.5)
    if bound:
        assert bound * 0.999 < np.abs(values).max() <= bound
    else:
        # Of a normal distribution 68.3 % lie within a deviation.
        within = np.mean(np.abs(values) < deviation)
        np.testing.assert_allclose(within, 0.683, atol=5 * (0.25 / values.size) ** 0.5)


def test_bilinear_kernels_are_exact():
    kernel = np.asarray(initial_values.bilinear_upsampling(jax.random.key(0), (2, 4, 2, 3, 3)))
    across, down = np.array([0.5, 0.5]), np.array([0.25, 0.75, 0.75, 0.25])
    want = np.broadcast_to(down[:, None] * across, (2, 4, 2))
    np.testing.assert_array_equal(kernel, want[..., None, None] * np.eye(3))
    assert kernel.dtype == np.float32


def test_a_module_that_is_no_layer_is_named():
    class Plain(nn.Module):
        frames: int = 2

        @nn.compact
        def __call__(self, query, exemplar):
            return Dense(3, name="ours")(nn.Dense(3, name="linens")(query))

    with pytest.raises(ValueError, match="of params/linens/bias, params/linens/kernel: .*Layer"):
        init_variables(Plain(), 5, jax.random.key(0))


def test_every_leaf_of_the_network_is_declared_and_has_a_key_of_its_own():
    model = FineCausal(
        frames=16, windows=2, window_frames=8, window_stride=8, width=1 / 16, frame_width=1 / 8,
        embedding=8, stage_frames=(4, 4, 4), stage_margin=1,
    )  # fmt: skip
    found = flat(jax.eval_shape(lambda: init_variables(model, 16, jax.random.key(0))))
    assert "params/causal_intervention/gat1/att" in found  # under nn.vmap
    assert len({zlib.crc32(path.encode()) for path in found}) == len(found) == 1316
