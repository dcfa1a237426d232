"""Weights from the released layout to the Flax tree and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_weights import assert_same

from finecausal_jax.interop import names, pytorch
from finecausal_jax.interop.pytorch import WeightsError, from_pytorch, to_pytorch

LAYOUTS = {
    "conv3d": (names.CONV3D, (4, 3, 2, 5, 6), (2, 5, 6, 3, 4)),
    "transposed3d": (names.TRANSPOSED3D, (4, 3, 2, 5, 6), (2, 5, 6, 4, 3)),
    "conv2d": (names.CONV2D, (4, 3, 5, 6), (5, 6, 3, 4)),
    "conv1d": (names.CONV1D, (4, 3, 5), (5, 3, 4)),
    "pointwise1d": (names.POINTWISE1D, (4, 3, 1), (3, 4)),
    "linear": (names.LINEAR, (4, 3), (3, 4)),
    "attention": (names.ATTENTION, (1, 4, 3), (4, 3)),
    "vector": (names.VECTOR, (4,), (4,)),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts(kind):
    layout, torch_shape, flax_shape = LAYOUTS[kind]
    value = np.random.default_rng(0).random(torch_shape, np.float32)
    moved = pytorch._to_flax_layout(value, layout)
    assert moved.shape == flax_shape
    assert np.array_equal(pytorch._to_torch_layout(moved, layout), value)


def test_layouts_move_the_right_axes():
    conv = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)  # [o, i, d, h, w]
    assert pytorch._to_flax_layout(conv, names.CONV3D)[1, 2, 3, 0, 1] == conv[1, 0, 1, 2, 3]
    assert pytorch._to_flax_layout(conv, names.TRANSPOSED3D)[1, 2, 3, 0, 1] == conv[0, 1, 1, 2, 3]
    linear = np.arange(6, dtype=np.float32).reshape(2, 3)  # [o, i]
    assert pytorch._to_flax_layout(linear, names.LINEAR)[2, 1] == linear[1, 2]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_layouts_are_bijections(data):
    kind = data.draw(st.sampled_from(sorted(LAYOUTS)))
    layout, example, _ = LAYOUTS[kind]
    shape = tuple(
        1 if i in layout.extra else data.draw(st.integers(1, 4)) for i in range(len(example))
    )
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    back = pytorch._to_torch_layout(pytorch._to_flax_layout(value, layout), layout)
    assert back.shape == shape
    assert np.array_equal(back, value)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_round_trip_is_bit_exact(small_state, small_model, prefix):
    given_state = {m: {prefix + k: v for k, v in ts.items()} for m, ts in small_state.items()}
    variables = from_pytorch(given_state, model=small_model)
    assert sorted(variables) == ["batch_stats", "params"]
    assert_same(to_pytorch(variables, small_state), small_state)


def test_values_land_where_they_belong(small_state, small_model):
    variables = from_pytorch(small_state, model=small_model)
    fc1 = small_state["decoder2"]["model.1.mlp.fc1.weight"]
    layer = variables["params"]["decoder2"]["layer_1"]["mlp"]["fc1"]
    assert np.array_equal(layer["kernel"], fc1.T)
    mean = small_state["psnet_model"]["inc1.conv.conv.1.running_mean"]
    assert np.array_equal(variables["batch_stats"]["psnet_model"]["inc1"]["norm1"]["mean"], mean)
    assert np.array_equal(variables["params"]["awl"], small_state["awl"]["params"])
    assert "regressor_delta3" not in variables["params"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 11])
def test_the_full_size_state_comes_back_bit_for_bit(seeded, seed):
    state = seeded.state(seed)
    unused = {
        m: {k: v for k, v in ts.items() if names.drop_reason(m, k)} for m, ts in state.items()
    }
    assert_same(to_pytorch(from_pytorch(state), unused), state)


def test_unused_tensors_get_stated_defaults(small_state, small_model, small_tensors):
    state = to_pytorch(from_pytorch(small_state, model=small_model))
    for (module, key), want in small_tensors.items():
        assert state[module][key].shape == want.shape
        assert state[module][key].dtype == want.dtype
        if want.target is None:
            assert not state[module][key].any()


def test_every_problem_is_listed(small_state, small_model):
    attention, mlp = "model.0.attn.proj.bias", "model.0.mlp.fc1.weight"
    small_state["decoder1"]["model.0.attn.projection.bias"] = small_state["decoder1"].pop(attention)
    gat = "gat1.att"  # [1, 4, 8]
    small_state["causal_intervention"][gat] = small_state["causal_intervention"][gat][0].T
    small_state["decoder2"][mlp] = small_state["decoder2"][mlp].astype(np.float64)
    small_state["decoder3"][mlp] = np.full_like(small_state["decoder3"][mlp], np.nan)
    count = "inc1.conv.conv.1.num_batches_tracked"
    small_state["psnet_model"][count] = np.float32(3)
    small_state["awl"]["module.params"] = small_state["awl"]["params"]
    del small_state["regressor_delta2"]
    small_state["extra"] = {"weight": np.zeros(2, np.float32)}
    with pytest.raises(WeightsError) as caught:
        from_pytorch(small_state, model=small_model, where="best.pth")
    text = str(caught.value)
    assert text.startswith("best.pth: ")
    assert len(caught.value.problems) == 7 + 2 + 1
    for line in (
        "decoder1/model.0.attn.projection.bias: unknown tensor [8]",
        "decoder1/model.0.attn.proj.bias: missing",
        "causal_intervention/gat1.att: shape: expected [1, 4, 8], found [8, 4]",
        "decoder2/model.0.mlp.fc1.weight: dtype: expected float32, found float64",
        "decoder3/model.0.mlp.fc1.weight: 64 of 64 values are NaN or infinite",
        f"psnet_model/{count}: dtype: expected int64, found float32",
        "awl/module.params: awl/params already gave this tensor",
        "regressor_delta2/layer1.weight: missing, params/regressor_delta2/layer1/kernel",
        "extra/weight: unknown tensor [2]",
    ):
        assert line in text


def test_half_precision_and_infinities_are_refused(small_state, small_model):
    small_state["awl"]["params"] = np.array([1, np.inf, 1], np.float16)
    with pytest.raises(WeightsError, match="found float16; 1 of 3 values are NaN or infinite"):
        from_pytorch(small_state, model=small_model)


def test_a_leaf_without_a_tensor_is_refused():
    with pytest.raises(WeightsError, match="params/decoder9/kernel: no PyTorch tensor corresponds"):
        to_pytorch({"params": {"decoder9": {"kernel": np.zeros((2, 2), np.float32)}}})


def test_gradients_are_renamed_without_unused_tensors(small_state, small_model):
    params = from_pytorch(small_state, model=small_model)["params"]
    state = pytorch.rename_to_pytorch({"params": params})
    assert "regressor_delta3" not in state
    assert not any("running" in key or "num_batches" in key for ts in state.values() for key in ts)
    assert np.array_equal(state["awl"]["params"], small_state["awl"]["params"])
