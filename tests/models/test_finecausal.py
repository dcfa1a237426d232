"""The network in steps: what each step reads, what each switch leaves out, and interventions.

Its parts are the real ones, shrunk; each step is compiled once by itself.
"""

import functools

import jax
import numpy as np
import pytest

from finecausal_jax.explain.interventions import effects_of, network_interventions
from finecausal_jax.interop.order import CAUSAL_MODULES
from finecausal_jax.models.causal_graph import GRAPHS, NODE_KINDS, EdgeSet, MessageGraph
from finecausal_jax.models.finecausal import STAGE_WEIGHTS, Features, FineCausal
from finecausal_jax.models.outputs import STEPS, steps_after

SMALL = {
    "frames": 16,
    "windows": 2,
    "window_frames": 8,
    "window_stride": 8,
    "width": 1 / 16,
    "frame_width": 1 / 8,
    "embedding": 8,
    "stage_frames": (4, 6, 4),
    "stage_margin": 1,
}
PAIRS = 2
SWITCHES = {
    "graph_intervention": "causal_intervention",
    "temporal_attention": "temporal_causal_attn",
}
LABELS = np.array([[9, 14], [8, 13], [10, 15], [8, 12]], np.int32)


@functools.cache
def shapes_of(**switches):
    init = functools.partial(FineCausal(**SMALL, **switches).init, method="go_on")
    return jax.eval_shape(init, jax.random.key(0), make_features())


@functools.cache
def step_of(name, **switches):
    """One step, compiled."""
    model = FineCausal(**SMALL, **switches)
    return jax.jit(functools.partial(model.apply, method="go_on", to=name))


def make_features(seed=0):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.standard_normal((2 * PAIRS, *shape)).astype(np.float32)

    return Features(normal(2, 64), normal(2, 64), normal(16, 64))


@functools.cache
def all_variables():
    """Of the whole network, from NumPy: its own initial values would have to be compiled."""
    random = np.random.default_rng(2)

    def fill(path, x):
        if path[-1].key in ("var", "scale"):
            return random.uniform(0.7, 1.3, x.shape).astype(x.dtype)
        # Small biases, or they would drown what videos differ in.
        fan_in = 100 if x.ndim == 1 else int(np.prod(x.shape[:-1]))
        return (random.standard_normal(x.shape) * (1.6 / fan_in) ** 0.5).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes_of())


def go_on(state, to="judge", labels=None, **switches):
    """Step by step, with the variables that a network with these switches has."""
    off = {module for switch, module in SWITCHES.items() if not switches.get(switch, True)}
    variables = {
        collection: {name: tree for name, tree in modules.items() if name not in off}
        for collection, modules in all_variables().items()
    }
    for name in steps_after(state, to):
        options = (labels or {}) if name == "locate" else {}
        state = jax.device_get(step_of(name, **switches)(variables, state, **options))
    return state


@pytest.fixture(scope="module")
def whole():
    return go_on(make_features())


def differ(found, want, least=1e-3):
    return np.abs(np.asarray(found) - np.asarray(want)).max() > least


def test_every_step_adds_to_what_was_known_before():
    state, known = make_features(), set(vars(make_features()))
    for name, start in STEPS.items():
        assert type(state) is start
        state = go_on(state, to=name)
        assert vars(state).keys() > known
        known = set(vars(state))
    with pytest.raises(ValueError, match="'judge' is none of the steps that follow Outputs: there"):
        steps_after(state, "judge")
    with pytest.raises(ValueError, match="'fuse' is none of .* Fused: intervene, locate, stage"):
        steps_after(go_on(make_features(), to="fuse"), "fuse")


def test_the_score_is_half_of_frames_and_half_of_motion(whole):
    half = 0.5 * (whole.stage_delta_static + whole.stage_delta_dynamic)
    np.testing.assert_allclose(whole.delta[:, 0], half @ np.array(STAGE_WEIGHTS), atol=1e-5)
    assert differ(whole.stage_delta_static, 0) and differ(whole.stage_delta_dynamic, 0)


def test_the_mask_reaches_the_score_through_its_feature_and_half_of_it_alone(whole):
    features = make_features()
    masks = 1 / (1 + np.exp(-features.mask_feature))
    np.testing.assert_allclose(whole.fused_feature, features.video_feature * masks, atol=1e-5)
    other = features.replace(mask_feature=-features.mask_feature)
    located = go_on(other, to="locate")
    assert differ(located.causal_feature, whole.causal_feature)
    # Cut where it was cut before, the path of single frames does not know of the mask.
    out = go_on(located.replace(window_cuts=whole.window_cuts, frame_cuts=whole.frame_cuts))
    np.testing.assert_array_equal(out.stage_delta_static, whole.stage_delta_static)
    assert differ(out.stage_delta_dynamic, whole.stage_delta_dynamic)


@pytest.mark.parametrize("scope", ["pair", "batch"])
def test_pairs_see_each_other_in_a_graph_of_the_batch_alone(scope, whole):
    features = make_features()
    changed = np.array(features.video_feature)
    changed[[1, 3]] += 1  # the second pair
    switches = {} if scope == "pair" else {"graph_scope": scope}
    run = functools.partial(go_on, to="intervene", **switches)
    before, after = run(features), run(features.replace(video_feature=changed))
    moved = np.abs(after.causal_feature - before.causal_feature).max((1, 2))
    assert (moved[[1, 3]] > 1e-3).all()
    assert (moved[[0, 2]] > 1e-3).all() == (scope == "batch")
    assert (moved[[0, 2]] == 0).all() == (scope == "pair")

    graphs, nodes = (2, 8) if scope == "pair" else (1, 16)
    weights = before.spatial_attention_layer1
    assert weights.shape == (graphs, 4, nodes * (nodes - 1))
    edges = before.graph.connect(windows=2, samples=PAIRS // graphs)
    totals = np.zeros((graphs, 4, nodes))
    np.add.at(totals, (slice(None), slice(None), edges.receivers), weights)
    np.testing.assert_allclose(totals, 1, atol=1e-5)


def layer_by_hand(params, x, edges, heads=4):
    """A GATv2 layer edge by edge: nodes [n, d] and {(source, target)} to nodes [n, heads * d']."""
    left, right = (x @ params[name]["kernel"] + params[name]["bias"] for name in ("lin_l", "lin_r"))
    left, right = (y.reshape(len(x), heads, -1) for y in (left, right))
    out = np.zeros_like(left)
    for target in range(len(x)):
        sources = [s for s, t in edges if t == target]
        if not sources:
            continue
        hidden = left[sources] + right[target]
        logits = (np.where(hidden > 0, hidden, 0.2 * hidden) * params["att"]).sum(-1)
        weights = np.exp(logits - logits.max(0))
        out[target] = ((weights / weights.sum(0))[..., None] * left[sources]).sum(0)
    return out.reshape(len(x), -1) + params["bias"]


@pytest.mark.parametrize("name", ["complete", "fused", "hand-made"])
def test_messages_pass_along_the_edges_of_the_graph(name):
    made = MessageGraph(
        kinds=(NODE_KINDS[3], NODE_KINDS[0], NODE_KINDS[2]),  # in an order of its own
        edges=(
            EdgeSet(NODE_KINDS[2], NODE_KINDS[0], "within"),
            EdgeSet(NODE_KINDS[0], NODE_KINDS[3], "earlier"),
        ),
        read=(NODE_KINDS[0], NODE_KINDS[3]),
    )
    graph = GRAPHS.get(name, made)
    fused = go_on(make_features(), to="fuse").replace(graph=graph)
    found = go_on(fused, to="intervene")

    params = all_variables()["params"]["causal_intervention"]
    features = dict(
        zip(
            NODE_KINDS,
            (x for f in (fused.video_feature, fused.fused_feature) for x in np.split(f, 2)),
            strict=True,
        )
    )
    times = {-1: "earlier", 0: "within", 1: "later"}
    nodes = [(kind, window) for kind in graph.kinds for window in range(2)]
    edges = [
        (s, t)
        for s, source in enumerate(nodes)
        for t, target in enumerate(nodes)
        if s != t and (source[0], target[0], times[np.sign(source[1] - target[1])]) in graph.edges
    ]
    led_to = {target for _, target in edges}
    edges += [(node, node) for node in range(len(nodes)) if node not in led_to]
    for pair in range(PAIRS):
        x = np.concatenate([features[kind][pair] for kind in graph.kinds])
        y = layer_by_hand(params["gat1"], x, edges)
        y = layer_by_hand(params["gat2"], np.where(y > 0, y, np.expm1(y)), edges)
        y = y @ params["output_0"]["kernel"] + params["output_0"]["bias"]
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        y = np.maximum(y * params["output_1"]["scale"] + params["output_1"]["bias"], 0)
        y += params["residual_weight"] * x
        for who, kind in enumerate(graph.read):
            want = y[2 * graph.kinds.index(kind) :][:2]
            np.testing.assert_allclose(
                found.causal_feature[who * PAIRS + pair], want, atol=1e-4, err_msg=kind
            )


def test_what_is_switched_off_has_no_parameters():
    off = dict.fromkeys(SWITCHES, False) | {"loss_weighting": "sum"}
    every, fewer = shapes_of()["params"], shapes_of(**off)["params"]
    assert every.keys() - fewer.keys() == set(CAUSAL_MODULES)  # what FineParser's files lack
    assert fewer == {name: every[name] for name in fewer}


@pytest.mark.parametrize("kept", ["original", "fused"])
def test_without_the_graph_one_feature_or_the_other_goes_on(kept):
    features = make_features()
    run = functools.partial(go_on, to="intervene", graph_intervention=False, without_graph=kept)
    out = run(features)
    want = {"original": features.video_feature, "fused": out.fused_feature}[kept]
    np.testing.assert_array_equal(out.causal_feature, want)
    assert out.graph is out.spatial_attention_layer1 is out.spatial_attention_layer2 is None


def test_a_network_with_a_graph_can_do_without_it_but_not_the_reverse():
    features = make_features()
    fused = go_on(features, to="fuse")
    same = go_on(fused.replace(graph=None), to="intervene")
    np.testing.assert_array_equal(same.causal_feature, features.video_feature)
    with pytest.raises(ValueError, match="made with graph_intervention=False and has no param"):
        go_on(fused, to="intervene", graph_intervention=False)


def test_an_open_gate_lets_all_motion_pass():
    out = go_on(make_features(), to="fuse", gate="open")
    np.testing.assert_array_equal(out.fused_feature, out.video_feature)


@pytest.mark.parametrize(("kept", "gone"), [("static", "dynamic"), ("dynamic", "static")])
def test_one_path_alone_is_its_half_of_the_difference(kept, gone, whole):
    out = go_on(make_features(), paths=kept)
    assert shapes_of(paths=kept) == shapes_of()  # one set of weights fits both
    parts = getattr(whole, f"stage_delta_{kept}")
    np.testing.assert_allclose(getattr(out, f"stage_delta_{kept}"), parts, rtol=1e-5, atol=1e-6)
    assert not getattr(out, f"stage_delta_{gone}").any() and differ(parts, 0)
    want = parts @ np.array(STAGE_WEIGHTS, np.float32)[:, None] / 2
    np.testing.assert_allclose(out.delta, want, rtol=1e-5, atol=1e-6)


def test_rules_choose_the_edges_of_the_network():
    fused = go_on(make_features(), to="fuse", graph_edges="fused to original within")
    assert {(edge.source[-5:], edge.time) for edge in fused.graph.edges} == {("fused", "within")}
    with pytest.raises(ValueError, match="graph_edges='fused to fused any'.*nothing reads"):
        go_on(make_features(), to="fuse", graph_edges="fused to fused any")


def test_interventions_are_those_that_a_network_has_parts_for():
    switches = {"gate": "open", "paths": "static", "graph_edges": "own fused to original within"}
    names = {one.name for one in network_interventions(FineCausal(**SMALL, **switches))}
    assert "graph: no messages from fused features" in names
    for part in ("gate", "path:", "between the videos", "across", "from original"):
        assert not [name for name in names if part in name], part


def test_without_temporal_attention_stages_keep_their_tokens(whole):
    run = functools.partial(go_on, to="relate", temporal_attention=False)
    staged = go_on(make_features(), to="stage")
    out = run(staged.replace(stage_order=None))
    assert out.temporal_attention is None and out.temporal_feature is None
    np.testing.assert_array_equal(out.dynamic_feature, whole.stage_embedding)
    assert differ(out.dynamic_feature, whole.dynamic_feature)
    with pytest.raises(ValueError, match="made with temporal_attention=False and has no param"):
        run(staged)


def test_predictions_cut_the_static_encoder_alone(whole):
    features = make_features()
    assert (LABELS != whole.transitions).any(axis=1).all()
    off, on = (
        go_on(
            features,
            to="stage",
            labels={"transitions": LABELS, "static_from_prediction": np.array(flag)},
        )
        for flag in (False, True)
    )
    for out in (off, on):
        np.testing.assert_array_equal(out.transitions, whole.transitions)
    np.testing.assert_allclose(on.static_feature, whole.static_feature, atol=1e-5)
    assert differ(on.static_feature, off.static_feature, 1e-2)
    np.testing.assert_array_equal(on.stage_feature, off.stage_feature)
    assert differ(on.stage_feature, whole.stage_feature, 1e-2)


class TestInterventions:
    """Run to a step, change what it gave, go on: one of each kind."""

    def test_replacing_the_fused_feature(self, whole):
        fused = go_on(make_features(), to="fuse")
        changed = fused.replace(fused_feature=np.zeros_like(fused.fused_feature))
        out = go_on(changed)
        np.testing.assert_array_equal(out.video_feature, whole.video_feature)
        assert differ(out.causal_feature, whole.causal_feature)
        assert differ(out.delta, whole.delta)

    def test_cutting_edges_of_the_graph(self, whole):
        """Without messages from a video to the other one, neither can move the other's features."""
        cut = GRAPHS["complete"]
        for feature in ("original", "fused"):
            for other in ("original", "fused"):
                cut = cut.without(f"query {feature}", f"exemplar {other}")
                cut = cut.without(f"exemplar {feature}", f"query {other}")
        features = make_features()
        changed = np.array(features.video_feature)
        changed[PAIRS:] += 1  # the exemplars
        run = functools.partial(go_on, to="intervene")
        states = [features, features.replace(video_feature=changed)]
        fused = [go_on(state, to="fuse") for state in states]
        before, after = (run(state.replace(graph=cut)) for state in fused)
        assert before.spatial_attention_layer1.shape == (PAIRS, 4, 2 * 4 * 3)
        moved = after.causal_feature - before.causal_feature
        assert (moved[:PAIRS] == 0).all() and differ(moved[PAIRS:], 0)
        assert differ(before.causal_feature, whole.causal_feature)
        linked = run(fused[1]).causal_feature - whole.causal_feature
        assert differ(linked[:PAIRS], 0)
        # No edge at all is a graph too: what is left is each node by itself.
        alone = cut.without(time="within").without(time="across")
        assert np.isfinite(run(fused[0].replace(graph=alone)).causal_feature).all()

    def test_setting_transitions(self, whole):
        located = go_on(make_features(), to="locate")
        out = go_on(located.replace(window_cuts=LABELS, frame_cuts=LABELS))
        labelled = go_on(make_features(), to="stage", labels={"transitions": LABELS})
        np.testing.assert_array_equal(out.stage_feature, labelled.stage_feature)
        np.testing.assert_array_equal(out.static_feature, labelled.static_feature)
        np.testing.assert_array_equal(out.causal_feature, whole.causal_feature)
        assert differ(out.delta, whole.delta)

    @pytest.mark.parametrize("order", ["causal", "full", "none", "reversed"])
    def test_changing_the_order_of_stages(self, order, whole):
        """A stage's tokens move with those of the stages that it attends to, and no others."""
        staged = go_on(make_features(), to="stage").replace(stage_order=order)
        relate = functools.partial(go_on, to="relate")
        before = relate(staged)
        attends = {
            "causal": [(0,), (0, 1), (0, 1, 2)],
            "full": [(0, 1, 2)] * 3,
            "none": [(0,), (1,), (2,)],
            "reversed": [(0, 1, 2), (1, 2), (2,)],
        }[order]
        for source in range(3):
            embedding = np.array(staged.stage_embedding)
            embedding[:, source] += np.linspace(-1, 1, 8, dtype=np.float32)
            after = relate(staged.replace(stage_embedding=embedding))
            for target in range(3):
                moved = after.dynamic_feature[:, target] - before.dynamic_feature[:, target]
                assert differ(moved, 0) == (source in attends[target]), (source, target)
        np.testing.assert_allclose(before.temporal_attention.sum(-1), 1, atol=1e-5)
        same = order == "causal"
        assert differ(before.dynamic_feature, whole.dynamic_feature, 1e-6) != same


class TestEffects:
    """Interventions on one query and two exemplars, see `explain.interventions`."""

    @staticmethod
    def effects(state, names=None):
        """Of some interventions, by name, on the first video against the last two.

        Without a choice, of all but those that have a step compiled for themselves.
        """
        model = FineCausal(**SMALL)
        found = network_interventions(model)
        assert len({one.name for one in found}) == len(found)

        def run(model, variables, state, step):
            return step_of(step)(variables, state)

        query = jax.tree.map(lambda x: x[0], state)
        exemplars = jax.tree.map(lambda x: x[PAIRS:], state)
        compiled = ("graph", "temporal order")
        chosen = [
            one for one in found if (one.name in names if names else one.part not in compiled)
        ]
        got = effects_of(model, all_variables(), query, exemplars, chosen, run)
        return {one.name: one for one in got}

    def test_nothing_changed_changes_nothing(self):
        (effect,) = self.effects(make_features(), {"nothing is changed"}).values()
        np.testing.assert_array_equal(effect.change, 0.0)

    def test_the_exemplars_part_is_no_change_where_both_are_one_dive(self):
        alike = jax.tree.map(lambda x: np.repeat(x[:1], 2 * PAIRS, axis=0), make_features())
        for name, effect in self.effects(alike).items():
            if "exemplar's" in name:  # a row's last bits depend on its place in the batch
                np.testing.assert_allclose(effect.change, 0.0, atol=1e-5, err_msg=name)

    def test_parts_have_the_effects_that_they_should(self):
        state = make_features()
        effects = self.effects(state)
        query = jax.tree.map(lambda x: np.concatenate([x[:1], x[:1], x[PAIRS:]]), state)
        out = go_on(query)
        weights = 0.5 * np.array(STAGE_WEIGHTS)
        static = (out.stage_delta_static[:PAIRS] * weights).sum(axis=1)
        left_out = effects["static path: left out"]
        np.testing.assert_allclose(left_out.change, -static, rtol=1e-4, atol=1e-6)
        assert left_out.mean == pytest.approx(-static.mean(), rel=1e-4)
        everything = effects["gate: everything passes"]
        open_gate = go_on(go_on(query, to="fuse").replace(fused_feature=query.video_feature))
        change = open_gate.delta[:PAIRS, 0] - out.delta[:PAIRS, 0]
        np.testing.assert_allclose(everything.change, change, rtol=1e-4, atol=1e-6)
        assert all(np.any(one.change) for name, one in effects.items() if one.part != "none"), {
            name for name, one in effects.items() if not np.any(one.change)
        }

    @pytest.mark.slow
    def test_every_graph_and_order_has_an_effect(self):
        names = {one.name for one in network_interventions(FineCausal(**SMALL))}
        effects = self.effects(make_features(), names)
        assert effects.keys() == names
        without = [name for name, one in effects.items() if not np.any(one.change)]
        assert without == ["nothing is changed"]
