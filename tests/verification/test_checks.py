"""What counts as equal: each limit, on both of its sides."""

import math

import numpy as np
import pytest

from finecausal_jax.verification import checks


def test_errors_are_relative_to_the_largest_value():
    want = np.array([100.0, 0.001])
    check = checks.compare("case", "tensor", want + [0.0, 0.019], want)
    assert check.passed
    assert check.absolute == pytest.approx(0.019)
    assert check.relative == pytest.approx(0.00019)
    assert not checks.compare("case", "tensor", want + [0.0, 0.021], want).passed


def test_nan_shapes_and_missing_tensors_are_misses():
    want = np.ones((2, 3))
    assert not checks.compare("case", "tensor", np.full((2, 3), np.nan), want).passed
    assert not checks.compare("case", "tensor", None, want).passed
    other = checks.compare("case", "tensor", np.ones((3, 2)), want)
    assert not other.passed
    assert other.note == "shape: expected [2, 3], found [3, 2]"
    assert "MISS" in str(other)


def test_transitions_are_exact():
    want = np.array([[5.0, 78.0]], np.float32)
    assert checks.exact("case", "transitions", np.array([[5, 78]], np.int32), want).passed
    assert not checks.exact("case", "transitions", np.array([[5, 79]], np.int32), want).passed


def test_zero_tensors_must_be_zero():
    assert checks.compare("case", "tensor", np.zeros(3), np.zeros(3)).passed
    assert not checks.compare("case", "tensor", np.full(3, 1e-9), np.zeros(3)).passed


def test_72_gradients_vanish(reference):
    import json

    record = json.loads((reference / "cases" / "train_step.json").read_text())
    zero = [name for name in record["gradients"] if checks.is_zero_gradient(name)]
    assert len(zero) == 72
    assert all(record["gradients"][name] is not None for name in zero)
    # Those that the recorded case has below 1e-4 of their module's norm, no other.
    norms = {}
    for name, pair in record["gradients"].items():
        if pair:
            module = name.split("/")[0]
            norms[module] = math.hypot(norms.get(module, 0), pair[0])
    small = {
        name
        for name, pair in record["gradients"].items()
        if pair and pair[0] < 1e-6 * norms[name.split("/")[0]]
    }
    assert set(zero) >= small


def gradients(count=100, norm=1.0, product=0.2):
    return {f"decoder1/model.{i}.norm2.weight": [norm, product] for i in range(count)}


def test_single_gradients_may_be_off_by_more_than_most():
    want = gradients()
    found = {name: tuple(pair) for name, pair in want.items()}
    names = list(want)
    for name in names[:4]:
        found[name] = (1.04, 0.29)
    assert all(check.passed for check in checks.gradients("case", found, want))
    for name in names[:8]:
        found[name] = (1.04, 0.29)
    missed = [c.tensor for c in checks.gradients("case", found, want) if not c.passed]
    assert missed == ["all gradients: norms", "all gradients: probes"]
    found = {name: tuple(pair) for name, pair in want.items()}
    found[names[0]] = (1.06, 0.2)
    found[names[1]] = (1.0, 0.31)
    del found[names[2]]
    missed = [c.tensor for c in checks.gradients("case", found, want) if not c.passed]
    assert missed[:4] == [names[0], names[1], names[2], names[2]]


def test_gradients_that_must_not_be_there():
    want = {"regressor_delta3/layer1.weight": None}
    assert [c.passed for c in checks.gradients("case", {}, want)] == [True]
    found = {"regressor_delta3/layer1.weight": (0.1, 0.0)}
    assert [c.passed for c in checks.gradients("case", found, want)] == [False]


def test_vanishing_gradients_are_held_to_their_modules_norm():
    want = {
        "decoder2/model.0.norm_q.weight": [3e-8, 1e-8],
        "decoder2/model.0.norm2.bias": [2.0, 1.0],
    }
    found = {
        "decoder2/model.0.norm_q.weight": (1.9e-4, 1.0),
        "decoder2/model.0.norm2.bias": (2.0, 1.0),
    }
    assert all(check.passed for check in checks.gradients("case", found, want))
    found["decoder2/model.0.norm_q.weight"] = (2.1e-4, 1.0)
    assert not all(check.passed for check in checks.gradients("case", found, want))


def test_running_statistics():
    rng = np.random.default_rng(0)
    value, probe = rng.uniform(0.5, 1.5, 64), rng.uniform(-1, 1, 64)
    size = np.linalg.norm(value) * np.linalg.norm(probe) / 8
    product = float(value @ probe)
    assert checks.statistic("case", "mean", value, probe, product + 4e-5 * size).passed
    assert not checks.statistic("case", "mean", value, probe, product + 6e-5 * size).passed
