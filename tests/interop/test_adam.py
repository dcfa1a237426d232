"""Adam's moments, made by PyTorch's own Adam, to Flax trees and back."""

import numpy as np
import pytest
from synthetic_weights import BUFFERS, as_arrays, trained_adam

from finecausal_jax.interop.adam import adam_from_pytorch, adam_to_pytorch
from finecausal_jax.interop.order import MODULES, OPTIMIZER_GROUPS
from finecausal_jax.interop.pytorch import from_pytorch


@pytest.mark.parametrize("order", [OPTIMIZER_GROUPS, MODULES], ids=["reference", "file"])
def test_moments_are_converted_and_come_back(torch, small_state, small_tensors, order):
    parameters, optimizer = trained_adam(torch, small_state, order)
    given = optimizer.state_dict()
    adam, problems = adam_from_pytorch(as_arrays(given), MODULES, small_tensors)
    assert problems == []
    assert adam["count"] == 3

    fc1 = parameters["decoder2"]["model.1.mlp.fc1.weight"]
    moments = optimizer.state[fc1]
    layer = adam["mu"]["decoder2"]["layer_1"]["mlp"]["fc1"]
    assert np.array_equal(layer["kernel"], moments["exp_avg"].numpy().T)
    upsample = parameters["segmenter"]["upsample1.weight"]
    want = optimizer.state[upsample]["exp_avg_sq"].numpy().transpose(2, 3, 4, 0, 1)
    assert np.array_equal(adam["nu"]["segmenter"]["upsample1"]["kernel"], want)
    assert "regressor_delta3" not in adam["mu"]

    states, groups = adam_to_pytorch(adam, small_tensors, MODULES)
    _, again = trained_adam(torch, small_state, OPTIMIZER_GROUPS)
    want = again.state_dict()
    if order == OPTIMIZER_GROUPS:
        assert states.keys() == want["state"].keys()
        for number, state in want["state"].items():
            for name, value in state.items():
                assert np.array_equal(states[number][name], value.numpy()), (number, name)
    assert groups == [group["params"] for group in want["param_groups"]]


def test_one_optax_step_is_pytorchs_next_step(torch, small_state, small_model, small_tensors):
    """The converted moments mean the same to optax as to PyTorch."""
    import jax.numpy as jnp
    import optax

    parameters, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS)
    arrays = as_arrays(optimizer.state_dict())
    arrays = {
        **arrays,
        "state": {n: {k: v.copy() for k, v in s.items()} for n, s in arrays["state"].items()},
    }
    adam, _ = adam_from_pytorch(arrays, MODULES, small_tensors)
    weight = parameters["awl"]["params"]
    before = weight.detach().numpy().copy()
    gradient = np.array([0.3, -0.2, 0.1], np.float32)
    weight.grad = torch.from_numpy(gradient)
    optimizer.step()

    state = optax.ScaleByAdamState(
        jnp.asarray(adam["count"]), {"awl": adam["mu"]["awl"]}, {"awl": adam["nu"]["awl"]}
    )
    update, _ = optax.scale_by_adam().update({"awl": jnp.asarray(gradient)}, state)
    # Both compute in float32, in another order: a few units in the last place of 1e-3.
    np.testing.assert_allclose(before - 1e-3 * update["awl"], weight.detach().numpy(), rtol=1e-6)


def test_frozen_parameters_get_zeros(torch, small_state, small_tensors):
    _, optimizer = trained_adam(
        torch, small_state, OPTIMIZER_GROUPS, frozen=("base_model", "segmenter")
    )
    adam, problems = adam_from_pytorch(as_arrays(optimizer.state_dict()), MODULES, small_tensors)
    assert problems == []
    assert not adam["mu"]["base_model"]["conv3d_1a_7x7"]["conv3d"]["kernel"].any()
    assert adam["mu"]["awl"].all()


def test_fineparsers_moments(torch, small_state, small_tensors):
    for module in ("causal_intervention", "temporal_causal_attn", "awl"):
        del small_state[module]
    _, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS)
    arrays = as_arrays(optimizer.state_dict())
    adam, problems = adam_from_pytorch(arrays, list(small_state), small_tensors)
    assert problems == []
    assert not adam["nu"]["awl"].any()
    assert adam["nu"]["decoder1"]["layer_0"]["norm_q"]["scale"].all()


def test_no_step_means_no_moments(small_tensors):
    empty = {"state": {}, "param_groups": []}
    assert adam_from_pytorch(empty, MODULES, small_tensors) == (None, [])


def test_an_unknown_order_is_refused(torch, small_state, small_tensors):
    order = ("video_encoder", *(m for m in MODULES if m != "video_encoder"))
    _, optimizer = trained_adam(torch, small_state, order)
    adam, problems = adam_from_pytorch(as_arrays(optimizer.state_dict()), MODULES, small_tensors)
    assert adam is None
    assert "number 0" in problems[0]
    assert "in the order of the reference's groups" in problems[0]
    assert any("in the order of the file's modules" in line for line in problems)


def test_another_number_of_parameters_is_refused(torch, small_state, small_tensors):
    _, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS[:-1])
    adam, problems = adam_from_pytorch(as_arrays(optimizer.state_dict()), MODULES, small_tensors)
    assert adam is None
    count = sum(not key.endswith(BUFFERS) for tensors in small_state.values() for key in tensors)
    assert problems == [
        f"optimizer: numbers {count - 1} parameters, but the file's modules have {count}"
    ]


def test_other_settings_are_refused(torch, small_state, small_tensors):
    _, optimizer = trained_adam(
        torch, small_state, OPTIMIZER_GROUPS, weight_decay=0.01, betas=(0.8, 0.999)
    )
    adam, problems = adam_from_pytorch(as_arrays(optimizer.state_dict()), MODULES, small_tensors)
    assert adam is None
    assert len(problems) == 2 * 17
    assert "optimizer, group 0: betas [0.8, 0.999], expected [0.9, 0.999]" in problems[0]
    assert "weight_decay 0.01, expected 0" in problems[1]


def test_moments_that_are_not_numbers_or_out_of_step(torch, small_state, small_tensors):
    _, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS)
    arrays = as_arrays(optimizer.state_dict())
    last = max(arrays["state"])
    arrays["state"][last]["exp_avg"] = np.full(3, np.nan, np.float32)
    _, problems = adam_from_pytorch(arrays, MODULES, small_tensors)
    assert problems == ["optimizer, exp_avg of awl/params: 3 of 3 values are NaN or infinite"]
    told = "optimizer: expected one number of steps for all parameters, at most 1000000000, found "
    arrays["state"][last]["step"] = np.float32(9)
    _, problems = adam_from_pytorch(arrays, MODULES, small_tensors)
    assert problems == [f"{told}3, 9"]
    for state in arrays["state"].values():
        state["step"] = np.float32(np.nan)
    _, problems = adam_from_pytorch(arrays, MODULES, small_tensors)
    assert problems == [f"{told}nan"]
    for state in arrays["state"].values():
        state["step"] = 1e30
    _, problems = adam_from_pytorch(arrays, MODULES, small_tensors)
    assert problems == [f"{told}1e+30"]
    for state in arrays["state"].values():
        state["step"], state["exp_avg"] = 3, np.zeros_like(state["exp_avg"])
    arrays["state"][last]["exp_avg_sq"] = np.array([1, -1, -2], np.float32)
    _, problems = adam_from_pytorch(arrays, MODULES, small_tensors)
    assert problems == ["optimizer, exp_avg_sq of awl/params: 2 values are negative"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o: [o], "optimizer: expected a dict with state and param_groups"),
        (lambda o: {"state": o["state"]}, "optimizer: expected a dict with state and param_groups"),
        (
            lambda o: o | {"state": [1]},
            "optimizer: expected state to be a dict and param_groups a list",
        ),
        (
            lambda o: o | {"param_groups": [{"lr": 1e-3}]},
            "optimizer, group 0: expected a dict with params, a list of numbers",
        ),
        (
            lambda o: o | {"state": o["state"] | {4: {"momentum_buffer": np.ones(2)}}},
            "optimizer, number 4: no step, exp_avg, exp_avg_sq as Adam has",
        ),
        (
            lambda o: o | {"state": o["state"] | {4: o["state"][4] | {"step": None}}},
            "optimizer, number 4: no step as Adam has",
        ),
    ],
)
def test_what_is_no_adam_is_named(torch, small_state, small_tensors, spoil, message):
    _, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS, steps=1)
    spoiled = spoil(as_arrays(optimizer.state_dict()))
    assert adam_from_pytorch(spoiled, MODULES, small_tensors) == (None, [message])


@pytest.mark.parametrize("kind", [int, lambda step: step.reshape(1)])
def test_steps_counted_in_another_form(torch, small_state, small_tensors, kind):
    """PyTorch before 1.12 saved plain integers."""
    _, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS)
    arrays = as_arrays(optimizer.state_dict())
    for state in arrays["state"].values():
        state["step"] = kind(state["step"])
    adam, problems = adam_from_pytorch(arrays, MODULES, small_tensors)
    assert problems == []
    assert (adam["count"], adam["count"].dtype) == (3, np.int32)


def test_weights_and_moments_have_the_same_tree(torch, small_state, small_model, small_tensors):
    import jax

    _, optimizer = trained_adam(torch, small_state, OPTIMIZER_GROUPS, steps=1)
    adam, _ = adam_from_pytorch(as_arrays(optimizer.state_dict()), MODULES, small_tensors)
    params = from_pytorch(small_state, model=small_model)["params"]
    for name in ("mu", "nu"):
        shapes = jax.tree.map(
            lambda a, b: a.shape == b.shape and a.dtype == b.dtype, params, adam[name]
        )
        assert all(jax.tree.leaves(shapes))
