"""BatchNorm against its plain form: autodiff's gradient of the formula as written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.lowering.batch_norm import batch_norm, shifted
from finecausal_jax.lowering.rectified import value_of

EPSILON = 1e-5
# float32 sums of 60 rows in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("groups", [1, 2])
def test_values_and_gradients(groups):
    random = np.random.default_rng(0)
    # An offset, which centring has to take out, and groups that differ.
    x = 3 + random.standard_normal((4, 6, 5, 5)) * np.array([1, 1, 2, 2]).reshape(4, 1, 1, 1)
    x = x.astype(np.float32)
    scale, bias = random.standard_normal((2, 5)).astype(np.float32)
    gradient = random.standard_normal(x.shape).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(plain, *arguments):
        def loss(*arguments):
            y, mean, var = batch_norm(*arguments, EPSILON, groups=groups, plain=plain)
            # Nothing is trained by the statistics.
            return jnp.vdot(value_of(y), gradient) + jnp.sum(mean * var), (value_of(y), mean, var)

        gradients, values = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return *values, *gradients

    forms = (False, True)
    got, want = (values_and_gradients(plain, x, scale, bias) for plain in forms)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **TOLERANCE)


def test_what_is_made_again_is_what_was_made():
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(1.0, 2.0, (4, 3, 5)), jnp.float32)
    scale, bias = jnp.asarray(random.normal(0.0, 1.0, (2, 5)), jnp.float32)
    for made in (batch_norm(x, scale, bias, EPSILON, groups=2)[0], shifted(x, bias)):
        assert made.factor.shape == made.shift.shape == (4, 1, 5)
        np.testing.assert_allclose(made.source * made.factor + made.shift, made.value, **TOLERANCE)
