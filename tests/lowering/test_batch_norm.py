"""BatchNorm's own gradient against that which autodiff makes of the plain formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.lowering.batch_norm import normalize_by_batch

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
    x = x.reshape(shape).astype(np.float32)
    scale, bias = random.standard_normal((2, 5)).astype(np.float32)
    gradient = random.standard_normal(shape).astype(np.float32)

    def ours(x, scale, bias):
        return normalize_by_batch(x, scale, bias, EPSILON)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(form, *arguments):
        def loss(*arguments):
            values = form(*arguments)
            return jnp.vdot(values[0], gradient), values

        gradients, values = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return *values, *gradients

    got, want = (values_and_gradients(form, x, scale, bias) for form in (ours, plain))
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **TOLERANCE)
