"""The schedule against the reference's recorded rates and against its formula in float64."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finecausal_jax.training import schedule as schedules

# Recorded from the reference (PyTorch code, its own scheduler object) in float64.
CASES = json.loads(
    (pathlib.Path(__file__).parents[1] / "reference" / "cases" / "schedule.json").read_text()
)


def make(case):
    names = ("iterations_per_epoch", "base_lr", "lr_factor", "warmup_epochs", "max_epoch")
    return schedules.Schedule(**{name: case[name] for name in names})


def compiled(rate, setting):
    return jax.jit(functools.partial(rate, setting))


@pytest.mark.parametrize("name", sorted(CASES))
def test_matches_the_recorded_rates(name):
    case = CASES[name]
    rows = np.asarray(case["rows"])
    assert case["columns"] == ["update", "backbone", "rest"]
    numbers = rows[:, 0].astype(np.int32)
    for rate, column in (
        (schedules.base_model_learning_rate, 1),
        (schedules.learning_rate, 2),
    ):
        got = np.asarray(compiled(rate, make(case))(numbers))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, rows[:, column], rtol=1e-6)


def test_float32_keeps_six_digits_at_every_number_of_two_periods():
    # The formula as written down, in float64; the float32 one may be off by 1e-6 of the rate.
    setting = schedules.Schedule(iterations_per_epoch=1126)
    number = np.arange(-3, 2 * setting.period + 3)
    angle = np.pi * (number % setting.period) / setting.period
    cosine = 1e-4 + (1e-3 - 1e-4) / 2 * (1 + np.cos(angle))
    linear = 1e-4 + (1e-3 - 1e-4) * np.maximum(number, 0) / 5630
    want = np.where(number < 5630, linear, cosine)
    got = compiled(schedules.learning_rate, setting)(number.astype(np.int32))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_one_period_by_hand():
    # Lowest 0.2, highest 1; a warm-up of 2 micro-batches, a period of 8. cos(pi / 4) = 0.7071068.
    setting = schedules.Schedule(2, base_lr=1.0, lr_factor=0.2, warmup_epochs=1, max_epoch=4)
    got = compiled(schedules.learning_rate, setting)(np.array([-1, 0, 1, 2, 4, 6, 8, 9]))
    want = [0.2, 0.2, 0.6, 0.8828427, 0.6, 0.3171573, 1.0, 0.9695518]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_no_warmup_starts_at_the_highest_rate():
    setting = schedules.Schedule(4, base_lr=0.5, warmup_epochs=0, max_epoch=1)
    got = compiled(schedules.learning_rate, setting)(0)
    np.testing.assert_allclose(got, 0.5, rtol=1e-6)


def test_base_model_takes_a_rate_of_its_own():
    setting = schedules.Schedule(
        2, base_lr=1.0, lr_factor=0.2, warmup_epochs=1, max_epoch=4, base_model_lr=0.4
    )
    got = compiled(schedules.base_model_learning_rate, setting)(np.array([0, 1, 2, 8]))
    np.testing.assert_allclose(got, [0.2, 0.3, 0.3707107, 0.4], rtol=1e-6)


def test_an_optimiser_step_uses_its_last_micro_batch():
    setting = schedules.Schedule(10, warmup_epochs=1, max_epoch=4)
    rates = schedules.optax_schedules(setting, micro_batches_per_step=2)
    optimiser = optax.sgd(rates["rest"])
    params = {"w": jnp.zeros(())}
    state = optimiser.init(params)
    gradient = {"w": jnp.ones(())}
    for last in (2, 4, 6):
        updates, state = optimiser.update(gradient, state, params)
        want = schedules.learning_rate(setting, last)
        np.testing.assert_allclose(-updates["w"], want, rtol=1e-7)
    np.testing.assert_allclose(rates["base_model"](jnp.int32(7)), 1e-4, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations_per_epoch": 0}, "iterations_per_epoch 0 and max_epoch 300"),
        ({"warmup_epochs": 301}, "warmup_epochs 301 must lie in 0..max_epoch"),
        ({"base_lr": 0.0}, "base_lr 0.0 must be positive"),
        ({"lr_factor": 1.5}, "lr_factor 1.5"),
        ({"base_model_lr": 1e-5}, "base_model_lr 1e-05 is below the lowest rate"),
    ],
)
def test_impossible_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        schedules.Schedule(**({"iterations_per_epoch": 5} | change))


def test_steps_add_up_at_least_one_micro_batch():
    with pytest.raises(ValueError, match="micro_batches_per_step is 0"):
        schedules.optax_schedules(schedules.Schedule(5), micro_batches_per_step=0)
