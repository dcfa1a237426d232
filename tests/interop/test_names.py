"""The table of names: one Flax leaf for each tensor of a released file, and back."""

import collections

import pytest

from finecausal_jax.interop import names
from finecausal_jax.interop.expected import expected_tensors
from finecausal_jax.interop.order import MODULES, OPTIMIZER_GROUPS, state_order


def test_every_tensor_is_mapped_once_or_dropped(manifest):
    leaves = {}
    dropped = collections.Counter()
    for name in manifest:
        reason, target = names.drop_reason(*name), names.to_flax(*name)
        assert (reason is None) != (target is None), name
        if target is None:
            dropped[reason.split(":")[0]] += 1
        else:
            assert target.name not in leaves, (name, leaves[target.name])
            leaves[target.name] = name
    assert len(leaves) == 1316
    assert dropped == {
        "regressor_delta3 is never called": 6,
        "ResNet's classifier": 2,
        "BatchNorm's step count": 196,
    }


def test_names_come_back(manifest):
    for name in manifest:
        target = names.to_flax(*name)
        if target is not None:
            source = names.to_pytorch(target.collection, target.path)
            assert (source.module, source.key) == name
            assert source.layout == target.layout


@pytest.mark.parametrize(
    ("module", "key", "leaf"),
    [
        ("awl", "params", "params/awl"),
        (
            "base_model",
            "backbone.mixed_3b.branch_1.0.conv3d.weight",
            "params/base_model/mixed_3b/branch_1_0/conv3d/kernel",
        ),
        (
            "segmenter",
            "conv3d_1a_7x7.batch3d.running_var",
            "batch_stats/segmenter/trunk/conv3d_1a_7x7/batch3d/var",
        ),
        ("segmenter", "upsample2_.weight", "params/segmenter/upsample2_/kernel"),
        (
            "video_encoder",
            "backbone.layer2.0.downsample.1.weight",
            "params/video_encoder/backbone/layer2_0/downsample_norm/scale",
        ),
        ("video_encoder", "down23.mpconv.1.conv.3.bias", "params/video_encoder/down23/conv2/bias"),
        ("dim_reducer3", "down1.conv.4.weight", "params/dim_reducer3/down1/norm2/scale"),
        ("decoder4", "model.2.attn.q_map.weight", "params/decoder4/layer_2/attn/q_map/kernel"),
        ("causal_intervention", "gat1.att", "params/causal_intervention/gat1/att"),
        (
            "temporal_causal_attn",
            "encoder.attn_layers.1.conv1.weight",
            "params/temporal_causal_attn/layer_1/conv1/kernel",
        ),
    ],
)
def test_named_examples(module, key, leaf):
    assert names.to_flax(module, key).name == leaf


@pytest.mark.parametrize(
    ("module", "key"),
    [
        ("decoder1", "model.0.attn.qmap.weight"),
        ("base_model", "backbone.mixed_3b.branch_1.0.conv3d.bias2"),
        ("base_model", "conv3d_1a_7x7.conv3d.weight"),
        ("awl", "params2"),
        ("decoder", "model.0.norm2.weight"),
    ],
)
def test_unknown_names_have_no_rule(module, key):
    assert names.to_flax(module, key) is None
    assert names.drop_reason(module, key) is None


def test_kinetics_classifier_is_dropped_with_a_reason():
    reason = names.drop_reason("base_model", "backbone.conv3d_0c_1x1.conv3d.weight")
    assert "Kinetics classifier" in reason


@pytest.mark.slow
def test_full_size_model_is_the_manifest(manifest):
    tensors = expected_tensors()
    assert {name: want.shape for name, want in tensors.items()} == manifest
    assert list(tensors) == list(manifest)


def test_order_is_the_released_one(manifest):
    by_name = sorted(manifest)
    assert sorted(by_name, key=lambda name: state_order(*name)) == list(manifest)
    assert list(dict.fromkeys(module for module, _ in manifest)) == list(MODULES)
    assert set(OPTIMIZER_GROUPS) == set(MODULES)
