"""Parts of the PyTorch baseline, by their definitions and on small inputs."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import pathlib
import runpy
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch, which is not installed")

from benchmarks import torch_baseline  # noqa: E402
from benchmarks.results import LIMITS  # noqa: E402
from benchmarks.torch_baseline import (  # noqa: E402
    graph,
    losses,
    segmenter,
    settings,
    stages,
    temporal_attention,
    training,
    trunk,
)


@pytest.fixture(autouse=True)
def _repeatable():
    """One thread, because two mostly wait for each other in small work on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    """One full-size model, in evaluation mode; tests leave it as they found it."""
    torch.manual_seed(0)
    return torch_baseline.FineCausal().eval()


def test_missing_pytorch_is_explained(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else found(name, *a)
    )
    # Told before a module is imported that would need it.
    monkeypatch.setitem(sys.modules, f"{torch_baseline.__name__}.checkpoint", None)
    with pytest.raises(ModuleNotFoundError, match="Install it with `pip install torch==2.13.0`"):
        runpy.run_path(torch_baseline.__file__)


class TestTrunk:
    def test_padding_puts_the_larger_half_behind(self):
        assert trunk._padding((7, 3, 2), (2, 2, 2)) == (0, 0, 0, 1, 2, 3)

    def test_pool_is_in_ceil_mode(self):
        # 7 steps of 2 do not divide evenly; ceil mode keeps the last column.
        pooled = trunk.PaddedMaxPool((2, 2, 2), (2, 2, 2))(
            torch.arange(196.0).reshape(1, 1, 4, 7, 7)
        )
        assert pooled.shape == (1, 1, 2, 4, 4)
        assert pooled[0, 0, 0, 3, 3] == 97  # last pixel of depth 1

    @pytest.mark.parametrize("kernel", [(3, 3, 3), (2, 2, 2), (1, 3, 3)])
    def test_hidden_pool_has_the_same_values_and_gradients(self, kernel):
        pool = trunk.PaddedMaxPool(kernel, (2, 2, 2))
        inputs = [torch.rand(2, 3, 4, 7, 7, requires_grad=True)]
        inputs.append(inputs[0].detach().clone().requires_grad_())
        outputs = [pool(inputs[0])]
        pool.opaque = True
        outputs.append(pool(inputs[1]))
        torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
        for out in outputs:
            (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=0)

    def test_conv_unit_matches_its_definition(self):
        unit = trunk.ConvUnit(2, 3, (3, 3, 3), (2, 2, 2)).eval()
        unit.batch3d.running_var.fill_(4.0)
        x = torch.randn(1, 2, 4, 4, 4)
        out = unit(x)
        assert out.shape == (1, 3, 2, 2, 2)
        # Padding of 1 goes behind only, so output (0, 0, 0) sees input 0..2 of every axis.
        window = (x[0, :, :3, :3, :3] * unit.conv3d.weight[1]).sum() / math.sqrt(4 + 1e-5)
        torch.testing.assert_close(out[0, 1, 0, 0, 0], window.relu())

    def test_stages_have_the_taps_shapes(self, model):
        with torch.no_grad():
            taps = model.base_model.backbone.stages(torch.randn(1, 3, 16, 112, 112))
        assert [tuple(tap.shape[1:]) for tap in taps] == [
            (64, 8, 56, 56),
            (192, 8, 28, 28),
            (480, 8, 14, 14),
            (832, 4, 7, 7),
            (1024,),
        ]


class TestSegmenter:
    def test_enlargement_starts_bilinear(self):
        layer = segmenter._transposed(2, segmenter._SIDES[1])
        x = torch.zeros(1, 2, 2, 6, 6)
        x[:, 0] = torch.arange(6.0)  # a ramp over the width, in channel 0 alone
        out = layer(x)
        assert out.shape == (1, 2, 4, 24, 24)
        assert not out[:, 1].any()
        # Stride 4: steps of 1/4 between the centres; each depth gets two taps of weight 1.
        torch.testing.assert_close(
            out[0, 0, 1, 12, 6:10], 2 * torch.tensor([1.125, 1.375, 1.625, 1.875])
        )

    def test_plain_convolutions_start_small(self, model):
        assert model.segmenter.side_prep4.weight.std().item() == pytest.approx(0.001, rel=0.05)
        assert model.segmenter.fuse.bias.item() == 0.0

    def test_gives_five_maps_and_the_trunk_feature(self, model):
        clips = torch.randn(1, 3, 16, 112, 112)
        with torch.no_grad():
            maps, feature = model.segmenter(clips)
            *_, pooled = model.segmenter.stages(clips)
        assert [tuple(logits.shape) for logits in maps] == [(1, 16, 112, 112)] * 5
        torch.testing.assert_close(feature, pooled)

    def test_memory_format_does_not_change_results(self):
        unit = trunk.MixedBlock(8, (4, 4, 8, 4, 4, 4)).eval()
        x = torch.randn(2, 8, 4, 6, 6)
        expected = unit(x)
        unit.to(memory_format=torch.channels_last_3d)
        got = unit(x.contiguous(memory_format=torch.channels_last_3d))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # by PyTorch's own import
def test_compiled_block_has_the_same_values_and_gradients():
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        block = trunk.MixedBlock(8, (4, 4, 8, 4, 4, 4)).train()
        x = torch.randn(2, 8, 4, 6, 6).contiguous(memory_format=torch.channels_last_3d)
        x.requires_grad_()
        if compiled:
            block.branch_3[0].opaque = True
            block.compile()
        out = block(x)
        (out * out).sum().backward()
        results.append((out, x.grad, block.branch_1[0].conv3d.weight.grad))
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


class TestGraph:
    def test_edges_join_all_different_nodes_of_a_graph(self):
        source, target = graph.complete_edges(2, 3, torch.device("cpu"))
        pairs = set(zip(source.tolist(), target.tolist(), strict=True))
        inside = [(a, b) for g in (0, 3) for a in range(g, g + 3) for b in range(g, g + 3)]
        assert pairs == {(a, b) for a, b in inside if a != b}

    def test_layer_matches_a_dense_computation(self):
        layer = graph.GraphAttention(6, 2).eval()
        x = torch.randn(5, 6)
        source, target = graph.complete_edges(1, 5, x.device)
        out, alpha = layer(x, source, target)
        left, right = (f(x).reshape(5, 4, 2) for f in (layer.lin_l, layer.lin_r))
        hidden = torch.nn.functional.leaky_relu(left[None] + right[:, None], 0.2)
        logits = torch.einsum("tshc,hc->hts", hidden, layer.att[0])
        logits = logits.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
        dense = logits.softmax(-1)
        expected = torch.einsum("hts,shc->thc", dense, left).flatten(1) + layer.bias
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(alpha, dense.permute(1, 2, 0)[target, source])

    def test_pairs_are_apart_or_together_by_scope(self, model):
        features = torch.rand(4, 9, 1024)
        changed = features.clone()
        changed[3] += 1.0  # the second pair's exemplar
        results = {}
        for scope in ("pair", "batch"):
            model.graph_scope = scope
            with torch.no_grad():
                results[scope] = [model._intervene(x, x * 0.5)[0] for x in (features, changed)]
        model.graph_scope = "pair"
        before, after = results["pair"]
        torch.testing.assert_close(before[[0, 2]], after[[0, 2]])
        assert (before[1] - after[1]).abs().max() > 1e-4
        before, after = results["batch"]
        assert (before[0] - after[0]).abs().max() > 1e-5

    def test_one_pair_is_the_same_in_both_scopes(self, model):
        features = torch.rand(2, 9, 1024)
        with torch.no_grad():
            alone = model._intervene(features, features * 0.5)
            model.graph_scope = "batch"
            together = model._intervene(features, features * 0.5)
        model.graph_scope = "pair"
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other)
        assert alone[1].shape == (1, 4, 36, 36)
        torch.testing.assert_close(alone[1].sum(-1), torch.ones(1, 4, 36))


class TestStages:
    def test_transitions_come_from_their_half(self):
        probability = torch.zeros(1, 96, 2)
        probability[0, [60, 7], 0] = torch.tensor([0.9, 0.5])
        probability[0, [20, 95], 1] = torch.tensor([0.9, 0.5])
        assert stages.predict_transitions(probability).tolist() == [[7, 95]]

    def test_boundaries_are_the_pairs_mean_in_windows(self):
        query, exemplar = torch.tensor([[5.0, 78.0]]), torch.tensor([[34.0, 81.0]])
        assert stages.pair_boundaries(query, exemplar) == [(1, 7)]

    def test_last_boundary_zero_takes_the_last_window(self):
        steps = torch.arange(9.0)[:, None]
        cut = stages.cut_windows(steps[None], [(0, 0)])
        assert cut[0, :, 0].tolist() == [0.0] * 8 + [8.0] * 4

    def test_resampling_keeps_the_ends(self):
        cut = stages.cut_frames(torch.arange(96.0)[None, :, None], torch.tensor([[20, 60]]))
        ends = [(piece.shape[1], piece[0, 0].item(), piece[0, -1].item()) for piece in cut]
        assert ends == [(36, 0.0, 24.0), (60, 15.0, 64.0), (48, 55.0, 95.0)]


def test_a_stage_sees_no_later_stage():
    module = temporal_attention.TemporalCausalAttention().eval()
    stages_before = torch.randn(2, 3, 64)
    stages_after = stages_before.clone()
    stages_after[:, 2] += 1.0
    (before, attention), (after, _) = module(stages_before), module(stages_after)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().min() > 0
    assert attention.shape == (2, 2, 1, 3, 3)
    assert not attention.triu(1).any()


class TestShortFloats:
    """bfloat16 by autocast, which leaves some operations in float32."""

    @pytest.fixture
    def features(self):
        return torch_baseline.Features(
            torch.rand(2, 9, 1024), torch.rand(2, 9, 1024), torch.rand(2, 96, 512)
        )

    def test_comparison_is_close_to_float32(self, model, features):
        with torch.no_grad():
            exact = model.compare(features)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                short = model.compare(features)
        for name in ("causal_feature", "spatial_attention_layer2", "transition_probability"):
            want, got = getattr(exact, name), getattr(short, name).float()
            error = ((got - want).abs().max() / want.abs().max()).item()
            assert 0 < error < LIMITS["bfloat16"], name

    def test_losses_and_gradients_are_float32(self, model, features):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model.compare(features)
        maps = (torch.zeros(2, 9, 16, 2, 2, dtype=torch.bfloat16),) * 5
        outputs = dataclasses.replace(outputs, mask_logits=maps)
        assert outputs.transition_probability.dtype == torch.bfloat16
        batch = _toy_batch(1.0)._replace(mask=torch.zeros(2, 96, 2, 2))
        found = training.compute_losses(model, outputs, batch)
        assert {loss.dtype for loss in found} == {torch.float32}
        assert found.loss_mask.item() == pytest.approx(5 * 0.25 * math.log(2), rel=1e-6)
        found.loss.backward()
        gradient = model.causal_intervention.gat1.lin_l.weight.grad
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all() and gradient.any()
        model.zero_grad(set_to_none=True)

    def test_autocast_ends_before_the_losses(self, monkeypatch):
        seen = []

        def note(function):
            def noted(*arguments, **options):
                seen.append(torch.is_autocast_enabled("cpu"))
                return function(*arguments, **options)

            return noted

        monkeypatch.setattr(_Toy, "forward", note(_Toy.forward))
        monkeypatch.setattr(training, "compute_losses", note(training.compute_losses))
        exact = torch_baseline.Trainer(_Toy()).step(_toy_batch(1.0))
        trainer = torch_baseline.Trainer(_Toy(), dtype=torch.bfloat16)
        assert trainer.step(_toy_batch(1.0)).loss_tas == exact.loss_tas
        assert seen == [False, False, True, False]


class TestLosses:
    def test_score_loss_adds_both_directions(self):
        delta = torch.tensor([[1.0], [2.0], [0.0], [-1.0]])
        loss = losses.score_loss(delta, torch.tensor([3.0, 5.0]), torch.tensor([1.0, 5.0]))
        assert loss.item() == pytest.approx((1 + 4) / 2 + (4 + 1) / 2)

    def test_transition_loss_has_one_positive_frame(self):
        probability = torch.full((1, 96, 2), 0.5)
        probability[0, 10, 0] = 0.25
        loss = losses.transition_loss(probability, torch.tensor([[10, 50]]))
        assert loss.item() == pytest.approx((191 * math.log(2) + math.log(4)) / 192, rel=1e-6)

    def test_mask_loss_is_focal_and_rounds_the_mask(self):
        logits = torch.tensor([0.0, math.log(3.0)]).reshape(1, 1, 1, 1, 2)
        mask = torch.tensor([0.6, 0.4]).reshape(1, 1, 1, 1, 2)
        each = (0.25 * math.log(2) + 0.75**2 * math.log(4)) / 2
        assert losses.mask_loss([logits, logits], mask).item() == pytest.approx(2 * each, rel=1e-6)

    def test_weights_follow_the_formula(self):
        weigh = losses.LossWeights()
        weigh.params.data = torch.tensor([1.0, 2.0, 0.5])
        expected = (
            5 * (0.5 * 3 + math.log(2)) + (0.125 * 4 + math.log(5)) + (2 * 5 + math.log(1.25))
        )
        got = weigh([torch.tensor(value) for value in (3.0, 4.0, 5.0)])
        assert got.item() == pytest.approx(expected, rel=1e-6)


class _Toy(torch_baseline.FineCausal):
    """A model of four numbers with what the trainer and the scorer touch."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.base_model = torch.nn.Linear(1, 1, bias=False)
        self.segmenter = torch.nn.Linear(1, 1, bias=False)
        self.awl = losses.LossWeights()
        self.frozen_encoders = False

    def forward(self, query, exemplar, *, transitions=None, static_transitions=None):
        difference = (query - exemplar).mean((1, 2, 3, 4))[:, None]
        delta = self.segmenter(self.base_model(difference))
        videos = 2 * len(query)
        fields = dict.fromkeys(torch_baseline.Outputs.__dataclass_fields__, query)
        fields["delta"] = torch.cat([delta, -delta])
        fields["transition_probability"] = torch.full((videos, 96, 2), 0.5)
        fields["mask_logits"] = (torch.zeros(videos, 9, 16, 1, 1),) * 5
        return torch_baseline.Outputs(**fields)


def _toy_batch(value: float) -> torch_baseline.Batch:
    return torch_baseline.Batch(
        query=torch.full((1, 3, 96, 1, 1), value),
        exemplar=torch.zeros(1, 3, 96, 1, 1),
        mask=torch.zeros(2, 96, 1, 1),
        transitions=torch.tensor([[20, 60], [25, 66]]),
        query_completeness=torch.tensor([20.0]),
        exemplar_completeness=torch.tensor([23.5]),
    )


class TestTrainer:
    def test_gradients_are_summed_over_micro_batches(self):
        model = _Toy()
        trainer = torch_baseline.Trainer(model, accumulate=3)
        before = model.segmenter.weight.item()
        gradients = []
        for value in (1.0, 2.0):
            alone = torch_baseline.Trainer(_Toy())
            alone.model.load_state_dict(model.state_dict())
            alone.backward(_toy_batch(value))
            gradients.append(alone.model.segmenter.weight.grad.item())
            trainer.step(_toy_batch(value))
        assert model.segmenter.weight.grad.item() == pytest.approx(sum(gradients), rel=1e-6)
        assert model.segmenter.weight.item() == before

    def test_base_model_and_the_rest_have_their_rates(self):
        model = _Toy()
        schedule = torch_baseline.Schedule(warmup_epochs=1, iterations_per_epoch=10)
        trainer = torch_baseline.Trainer(model, schedule=schedule, accumulate=2)
        start = [model.base_model.weight.item(), model.segmenter.weight.item()]
        trainer.step(_toy_batch(1.0))
        trainer.step(_toy_batch(2.0))
        moved = [
            abs(weight.item() - before)
            for weight, before in zip(
                (model.base_model.weight, model.segmenter.weight), start, strict=True
            )
        ]
        # Adam's first step is the learning rate itself: 1e-4, and 1e-4 + 9e-4 * 2 / 10.
        np.testing.assert_allclose(moved, [1e-4, 2.8e-4], rtol=1e-3)
        assert model.base_model.weight.grad is None

    def test_stored_features_have_no_mask_loss(self):
        model = _Toy()
        batch = _toy_batch(1.0)
        fields = vars(model(batch.query, batch.exemplar)) | {"mask_logits": None}
        with pytest.raises(ValueError, match="expected outputs with 5 mask maps, got none"):
            training.compute_losses(model, torch_baseline.Outputs(**fields), batch)

    def test_accumulation_below_one_is_refused(self):
        with pytest.raises(ValueError, match="expected at least 1 micro-batch a step, got 0"):
            torch_baseline.Trainer(_Toy(), accumulate=0)


class TestScoring:
    def test_score_is_the_mean_over_exemplars_times_difficulty(self):
        model = _Toy().eval()
        for layer in (model.base_model, model.segmenter):
            torch.nn.init.ones_(layer.weight)
        query, exemplars = torch.full((3, 96, 1, 1), 5.0), torch.zeros(2, 3, 96, 1, 1)
        exemplars[1] = 1.0
        score = torch_baseline.score_dive(model, query, exemplars, [20.0, 22.0], 3.0)
        assert score == pytest.approx(((5 + 20) + (4 + 22)) / 2 * 3)

    def test_exemplars_need_their_completeness(self):
        with pytest.raises(ValueError, match="got 1 exemplars and 2 completeness values"):
            torch_baseline.score_dive(
                _Toy(), torch.zeros(3, 96, 1, 1), torch.zeros(1, 3, 96, 1, 1), [1.0, 2.0], 3.0
            )


class TestModel:
    def test_base_model_keeps_its_statistics_in_training(self):
        with torch.device("meta"):
            model = torch_baseline.FineCausal().train()
        assert not any(module.training for module in model.base_model.modules())
        assert model.segmenter.training and model.video_encoder.backbone.bn1.training

    def test_dropout_can_be_turned_off(self, model):
        def rates(any_model):
            found = [m.p for m in any_model.modules() if isinstance(m, torch.nn.Dropout)]
            return sorted(set(found))

        assert rates(model) == [0.01, 0.1]
        with torch.device("meta"):
            assert rates(torch_baseline.FineCausal(dropout=False)) == [0.0]

    def test_unknown_names_are_refused(self, model):
        with pytest.raises(ValueError, match="expected 'pair' or 'batch', got 'all'"):
            torch_baseline.FineCausal("all")
        with pytest.raises(ValueError, match="expected one of .* got 'fast'"):
            torch_baseline.apply_setting(model, "fast")

    def test_channels_last_converts_every_convolution(self):
        with torch.device("meta"):
            model = torch_baseline.apply_setting(torch_baseline.FineCausal(), "channels_last")
        for name, parameter in model.named_parameters():
            if parameter.dim() == 5:
                assert parameter.is_contiguous(memory_format=torch.channels_last_3d), name
            if parameter.dim() == 4:
                assert parameter.is_contiguous(memory_format=torch.channels_last), name

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_pools_are_hidden_from_the_compiler_on_a_cpu_alone(self, device):
        pool = trunk.PaddedMaxPool((1, 3, 3), (1, 2, 2))
        settings._hide_pools(torch.nn.Sequential(torch.nn.Linear(1, 1, device=device), pool))
        assert pool.opaque == (device == "cpu")


class TestCheckpoint:
    def test_missing_modules_are_named(self, model, tmp_path):
        # NumPy scalars among the tensors, as released files have them, must not stop the reading.
        blob = {"awl": {"module.params": torch.ones(3)}, "rho_best": np.float64(0.9447)}
        torch.save(blob, tmp_path / "best.pth")
        with pytest.raises(ValueError, match=r"missing \['base_model', 'causal_intervention'"):
            torch_baseline.load_checkpoint(model, tmp_path / "best.pth")

    def test_other_objects_are_not_loaded(self, model, tmp_path):
        torch.save({"awl": pathlib.PurePosixPath("/")}, tmp_path / "best.pth")
        with pytest.raises(ValueError, match="not loaded because it could run code"):
            torch_baseline.load_checkpoint(model, tmp_path / "best.pth")

    def test_wrong_tensors_are_named(self, model):
        state = {name: child.state_dict() for name, child in model.named_children()}
        state["awl"] = {"params": torch.ones(2)}
        with pytest.raises(ValueError, match="(?s)checkpoint's awl.*size mismatch for params"):
            torch_baseline.load_state(model, state)

    def test_parallel_runs_prefix_is_dropped(self):
        model = torch_baseline.FineCausal()
        state = {
            name: {"module." + key: value for key, value in child.state_dict().items()}
            for name, child in model.named_children()
        }
        state["awl"] = {"module.params": np.array([1.0, 2.0, 3.0], np.float32)}
        torch_baseline.load_state(model, state)
        assert model.awl.params.tolist() == [1.0, 2.0, 3.0]
