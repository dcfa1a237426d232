"""BatchNorm's own gradient against that which autodiff makes of the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models.normalization import normalize_by_batch

EPSILON = 1e-5
# float32 sums of 60 rows in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def plain(x, scale, bias):
    mean = jnp.mean(x, axis=-2, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axis=-2, keepdims=True)
    scale, bias = (values.reshape((1,) * (x.ndim - 1) + values.shape) for values in (scale, bias))
    return (x - mean) / jnp.sqrt(var + EPSILON) * scale + bias, mean, var


@pytest.mark.parametrize("shape", [(60, 5), (2, 60, 5)], ids=["one group", "two groups"])
def test_values_and_gradients(shape):
    random = np.random.default_rng(0)
    # An offset, which centring has to take out, and groups that differ.
    x = 3 + random.standard_normal(shape) * np.arange(1, 1 + np.prod(shape[:-2])).reshape(-1, 1, 1)
    x = jnp.asarray(x.reshape(shape), jnp.float32)
    scale, bias = jnp.asarray(random.standard_normal((2, 5)), jnp.float32)
    gradient = jnp.asarray(random.standard_normal(shape), jnp.float32)

    def loss(form, *arguments):
        return jnp.vdot(form(*arguments)[0], gradient)

    def ours(x, scale, bias):
        return normalize_by_batch(x, scale, bias, EPSILON)

    for got, want in zip(ours(x, scale, bias), plain(x, scale, bias), strict=True):
        np.testing.assert_allclose(got, want, **TOLERANCE)
    arguments = (x, scale, bias)
    got = jax.grad(loss, argnums=(1, 2, 3))(ours, *arguments)
    want = jax.grad(loss, argnums=(1, 2, 3))(plain, *arguments)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **TOLERANCE)
