"""The comparison put together: what each switch leaves out, and which transitions cut what.

Its parts are stand-ins of one layer, which compile in no time; how they are put together is the
network's own.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finecausal_jax.models import finecausal
from finecausal_jax.models.decoders import PairDecoder
from finecausal_jax.models.finecausal import STAGE_WEIGHTS, Features, FineCausal
from finecausal_jax.models.layers import Dense

SMALL = {
    "frames": 16,
    "windows": 2,
    "window_frames": 8,
    "window_stride": 8,
    "width": 1 / 16,
    "frame_width": 1 / 8,
    "embedding": 8,
}
PAIRS = 2
SWITCHES = {
    "graph_intervention": {"causal_intervention"},
    "temporal_attention": {"temporal_causal_attn"},
}


class Head(nn.Module):
    frames: int
    dtype: object = None

    @nn.compact
    def __call__(self, x, *, train, runs):
        logits = Dense(2 * self.frames)(x.reshape(len(x), -1))
        return nn.sigmoid(logits.reshape(len(x), self.frames, 2))


class Reducer(nn.Module):
    embedding: int
    dtype: object = None

    @nn.compact
    def __call__(self, x, *, train, runs):
        return Dense(12 * self.embedding)(x.reshape(len(x), -1)).reshape(len(x), 12, self.embedding)


class Static(nn.Module):
    stage_frames: tuple
    margin: int
    width: float
    dtype: object = None
    remat: str = "none"

    @nn.compact
    def reduce(self, frames, transitions, *, train, runs):
        ends = jnp.take_along_axis(frames, transitions[..., None], axis=1)  # [v, 2, 64]
        return jnp.tanh(Dense(3 * 4 * 8)(ends.reshape(len(ends), -1)).reshape(-1, 3, 4, 8))


class Intervention(nn.Module):
    """Moves every node by the mean of its graph, query and exemplar, original and fused."""

    dropout: float
    dtype: object = None

    @nn.compact
    def __call__(self, graph, train):
        mean = jnp.mean(graph.nodes, axis=1, keepdims=True)
        count = graph.nodes.shape[1]
        weights = jnp.full((len(mean), 1, count, count), 1 / count)
        return graph.nodes + jnp.tanh(Dense(mean.shape[-1])(mean)), weights, weights


class Attention(nn.Module):
    attention_dropout: float
    dropout: float
    dtype: object = None

    @nn.compact
    def __call__(self, stages, *, train):
        earlier = jnp.cumsum(stages, axis=1)
        return Dense(stages.shape[-1])(earlier), jnp.ones((len(stages), 1, 1, 3, 3))


class Decoder(PairDecoder):
    @nn.compact
    def __call__(self, tokens, memory):
        return tokens + Dense(tokens.shape[-1])(jnp.sin(memory) * tokens)


@pytest.fixture(scope="module", autouse=True)
def _stand_ins():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finecausal, "BatchedIntervention", Intervention)
        patch.setattr(finecausal, "TemporalCausalAttention", Attention)
        patch.setattr(finecausal, "TransitionHead", Head)
        patch.setattr(finecausal, "StageReducer", Reducer)
        patch.setattr(finecausal, "StaticEncoder", Static)
        patch.setattr(finecausal, "PairDecoder", Decoder)
        yield


def features(seed):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.standard_normal((PAIRS, *shape)).astype(np.float32)

    return Features(normal(2, 64), normal(2, 64), normal(16, 64))


@functools.cache
def shapes_of(**switches):
    init = functools.partial(FineCausal(**SMALL, **switches).init, method="compare")
    return jax.eval_shape(init, jax.random.key(0), features(0), features(1))


@functools.cache
def comparison(**switches):
    model = FineCausal(**SMALL, **switches)
    return jax.jit(functools.partial(model.apply, method="compare"))


@pytest.fixture(scope="module")
def params(_stand_ins):
    """Of the whole network, from NumPy: its own initial values would have to be compiled."""
    random = np.random.default_rng(2)

    def fill(x):
        fan_in = max(1, int(np.prod(x.shape[:-1])))
        return (random.standard_normal(x.shape) * fan_in**-0.5).astype(x.dtype)

    return jax.tree.map(fill, shapes_of()["params"])


def compare(params, query, exemplar, switches=(), **options):
    """With the modules named in `switches` off; `params` may hold more than what is left."""
    switches = dict.fromkeys(switches, False)
    own = {name: params[name] for name in shapes_of(**switches)["params"]}
    out = comparison(**switches)({"params": own}, query, exemplar, **options)
    return jax.device_get(out)


@pytest.fixture(scope="module")
def whole(params):
    return compare(params, features(0), features(1))


def test_each_pair_s_graph_moves_its_own_motion_features(params, whole):
    query, exemplar = features(0), features(1)
    both = np.concatenate([query.video_feature, exemplar.video_feature])  # [v, n, d]
    masks = np.concatenate([query.mask_feature, exemplar.mask_feature])
    fused = both / (1 + np.exp(-masks))
    np.testing.assert_allclose(whole.fused_feature, fused, atol=1e-5)
    nodes = np.stack([both, fused]).reshape(2, 2, PAIRS, 2, 64)  # kind, who, pair, window, d
    layer = params["causal_intervention"]["Dense_0"]
    mean = nodes.mean((0, 1, 3)) @ layer["kernel"] + layer["bias"]  # [pair, d]
    want = both + np.tanh(np.concatenate([mean, mean]))[:, None]
    np.testing.assert_allclose(whole.causal_feature, want, atol=1e-5)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_module_that_is_switched_off_has_no_parameters(switch):
    every, fewer = shapes_of()["params"], shapes_of(**{switch: False})["params"]
    assert every.keys() - fewer.keys() == SWITCHES[switch]
    assert fewer == {name: every[name] for name in fewer}


def test_without_the_graph_motion_features_are_used_as_they_are(params, whole):
    run = functools.partial(compare, params, switches=["graph_intervention"])
    query, exemplar = features(0), features(1)
    out = run(query, exemplar)
    both = np.concatenate([query.video_feature, exemplar.video_feature])
    np.testing.assert_array_equal(out.causal_feature, both)
    assert out.spatial_attention_layer1 is None and out.spatial_attention_layer2 is None
    assert np.abs(out.delta - whole.delta).max() > 1e-3

    # The graph is all that reads the segmenter's features.
    other = run(query.replace(mask_feature=query.mask_feature[::-1]), exemplar)
    np.testing.assert_array_equal(other.delta, out.delta)
    # Given the features that the graph made, the rest is the whole network.
    first, second = np.split(whole.causal_feature, 2)
    rest = run(query.replace(video_feature=first), exemplar.replace(video_feature=second))
    for field in ("delta", "transition_probability", "temporal_feature", "dynamic_decoded"):
        np.testing.assert_allclose(getattr(rest, field), getattr(whole, field), atol=1e-5)


def test_without_temporal_attention_stages_are_decoded_token_by_token(params, whole):
    out = compare(params, features(0), features(1), switches=["temporal_attention"])
    assert out.temporal_attention is None and out.temporal_feature is None
    for field in ("causal_feature", "stage_embedding", "stage_delta_static"):
        np.testing.assert_allclose(getattr(out, field), getattr(whole, field), atol=1e-5)

    tokens = np.asarray(out.stage_embedding)  # [v, 3, 12, 8], and what comes of it by hand
    memory = np.roll(tokens, PAIRS, axis=0)
    decoded = []
    for stage, name in enumerate(("decoder2", "decoder2", "decoder4")):
        layer = params[name]["Dense_0"]
        seen = np.sin(memory[:, stage]) * tokens[:, stage]
        decoded.append(tokens[:, stage] + seen @ layer["kernel"] + layer["bias"])
    np.testing.assert_allclose(out.dynamic_decoded, np.concatenate(decoded, 1), atol=1e-4)
    x, layers = np.stack(decoded, 1), params["regressor_delta1"]
    for name in ("layer1", "layer2"):
        x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
    x = x @ layers["layer3"]["kernel"] + layers["layer3"]["bias"]
    dynamic = x[..., 0].mean(-1)
    np.testing.assert_allclose(out.stage_delta_dynamic, dynamic, atol=1e-4)
    want = (0.5 * (dynamic + out.stage_delta_static)) @ np.array(STAGE_WEIGHTS)
    np.testing.assert_allclose(out.delta[:, 0], want, atol=1e-4)
    assert np.abs(out.delta - whole.delta).max() > 1e-3


def test_fineparser_is_both_switched_off(params):
    query, exemplar = features(0), features(1)
    out = compare(params, query, exemplar, switches=SWITCHES)
    assert out.temporal_feature is None and out.spatial_attention_layer1 is None
    half = compare(params, query, exemplar, switches=["graph_intervention"])
    for field in ("causal_feature", "transition_probability", "stage_embedding", "static_feature"):
        np.testing.assert_allclose(getattr(out, field), getattr(half, field), atol=1e-5)
    assert np.abs(out.stage_delta_dynamic - half.stage_delta_dynamic).max() > 1e-3
    every = shapes_of()["params"].keys()
    fewer = shapes_of(graph_intervention=False, temporal_attention=False)["params"].keys()
    assert every - fewer == set.union(*SWITCHES.values())


def test_predictions_cut_the_static_encoder_alone(params, whole):
    labels = np.array([[9, 14], [8, 13], [10, 15], [8, 12]])  # other windows than any prediction
    assert (labels != whole.transitions).any(axis=1).all()
    off, on = (
        compare(
            params,
            features(0),
            features(1),
            transitions=labels,
            static_from_prediction=np.array(flag),
        )
        for flag in (False, True)
    )
    for out in (off, on):
        np.testing.assert_array_equal(out.transitions, whole.transitions)
    np.testing.assert_allclose(on.static_feature, whole.static_feature, atol=1e-5)
    assert np.abs(on.static_feature - off.static_feature).max() > 1e-2
    np.testing.assert_array_equal(on.stage_feature, off.stage_feature)
    assert np.abs(on.stage_feature - whole.stage_feature).max() > 1e-2
