"""FineCausal in PyTorch: wires the parts and returns named outputs."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from benchmarks.torch_baseline.blocks import Mlp, on_each
from benchmarks.torch_baseline.decoders import PairDecoder
from benchmarks.torch_baseline.graph import CausalIntervention
from benchmarks.torch_baseline.losses import LossWeights
from benchmarks.torch_baseline.outputs import Features, Outputs
from benchmarks.torch_baseline.segmenter import Segmenter
from benchmarks.torch_baseline.stages import (
    StageReducer,
    TransitionHead,
    cut_frames,
    cut_windows,
    pair_boundaries,
    predict_transitions,
)
from benchmarks.torch_baseline.static_encoder import StaticEncoder
from benchmarks.torch_baseline.temporal_attention import TemporalCausalAttention
from benchmarks.torch_baseline.trunk import BaseModel

WINDOW_STARTS = tuple(range(0, 90, 10))
WINDOW_FRAMES = 16
STAGE_WEIGHTS = (0.3, 0.5, 0.2)  # of take-off, flight and entry in a video's delta


class FineCausal(nn.Module):
    """Compares the dives of a batch of pairs.

    Args:
        graph_scope: "batch" lets all pairs share one causal graph, as the reference does;
            "pair" gives each its own, so that a pair's result does not depend on its neighbours.
        dropout: False turns every dropout off, for runs that must repeat.

    Raises:
        ValueError: for another `graph_scope`.
    """

    def __init__(self, graph_scope: str = "pair", *, dropout: bool = True) -> None:
        super().__init__()
        if graph_scope not in ("pair", "batch"):
            raise ValueError(
                f"graph_scope of the PyTorch baseline: expected 'pair' or 'batch', got"
                f" {graph_scope!r}; 'pair' is what scoring needs."
            )
        self.graph_scope = graph_scope
        self.base_model = BaseModel()
        self.segmenter = Segmenter()
        self.video_encoder = StaticEncoder()
        self.causal_intervention = CausalIntervention()
        self.psnet_model = TransitionHead()
        self.dim_reducer1 = StageReducer()
        self.dim_reducer2 = StageReducer()
        self.dim_reducer3 = StageReducer()
        self.temporal_causal_attn = TemporalCausalAttention()
        self.decoder1 = PairDecoder()
        self.decoder2 = PairDecoder()
        self.decoder3 = PairDecoder()
        self.decoder4 = PairDecoder()
        self.regressor_delta1 = Mlp(64, 256, 64, 1)
        self.regressor_delta2 = Mlp(64, 256, 64, 1)
        self.regressor_delta3 = Mlp(64, 256, 64, 1)  # Parity: in checkpoints and unused
        self.awl = LossWeights()
        self.frames_format = torch.contiguous_format
        self.clips_format = torch.contiguous_format
        self.frozen_encoders = False
        if not dropout:
            for module in self.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0

    def train(self, mode: bool = True) -> FineCausal:
        """Training mode, in which `base_model`'s BatchNorm keeps its running statistics."""
        super().train(mode)
        self.base_model.eval()
        return self

    def forward(
        self,
        query: Tensor,
        exemplar: Tensor,
        *,
        transitions: Tensor | None = None,
        static_transitions: Tensor | None = None,
    ) -> Outputs:
        """Compares pairs from their frames.

        Args:
            query: float32 [b, 3, 96, 112, 112], normalised frames.
            exemplar: float32 [b, 3, 96, 112, 112].
            transitions: [2b, 2] frames, labels; the predictions where None.
            static_transitions: [2b, 2] frames for the static encoder; `transitions` where None.

        Returns:
            The outputs.
        """
        features = self.encode(query, exemplar)
        return self.compare(
            features, transitions=transitions, static_transitions=static_transitions
        )

    def encode(self, *runs: Tensor) -> Features:
        """Features of videos, each by itself.

        Parity: base model and segmenter run once over all windows, the frame encoder once an
        argument, so in training each argument has frame statistics of its own.

        Args:
            *runs: float32 [v, 3, 96, 112, 112] each, normalised frames.

        Returns:
            Features of all videos, in the order of the arguments.
        """
        videos = torch.cat(runs)
        clips = torch.cat([videos[:, :, i : i + WINDOW_FRAMES] for i in WINDOW_STARTS])
        clips = clips.contiguous(memory_format=self.clips_format)  # [9 * v, 3, 16, 112, 112]
        frozen = torch.no_grad() if self.frozen_encoders else contextlib.nullcontext()
        with frozen:
            video_feature = self.base_model(clips)
            mask_logits, mask_feature = self.segmenter(clips)
        count = len(videos)
        frame_feature = torch.cat([self._frame_features(run) for run in runs])
        return Features(
            video_feature=_by_video(video_feature, count),
            mask_feature=_by_video(mask_feature, count),
            frame_feature=frame_feature,
            mask_logits=tuple(_by_video(logits, count) for logits in mask_logits),
        )

    def compare(
        self,
        features: Features,
        *,
        transitions: Tensor | None = None,
        static_transitions: Tensor | None = None,
    ) -> Outputs:
        """Everything after the encoders.

        Args:
            features: of 2b videos, queries first.
            transitions: [2b, 2] frames; the predictions where None.
            static_transitions: [2b, 2] frames; `transitions` where None.

        Returns:
            The outputs.
        """
        video_feature, mask_feature, frame_feature, mask_logits = features
        pairs = len(video_feature) // 2
        fused = video_feature * torch.sigmoid(mask_feature)
        causal, attention1, attention2 = self._intervene(video_feature, fused)
        # Parity: one run for the queries, one for the exemplars, as for the reducers below.
        probability = on_each(self.psnet_model, causal, 2)
        predicted = predict_transitions(probability.detach())
        used = predicted if transitions is None else transitions
        static_used = used if static_transitions is None else static_transitions

        pieces = cut_frames(frame_feature, static_used)
        halves = zip(*(piece.chunk(2) for piece in pieces), strict=True)
        static = torch.cat([self.video_encoder.reduce(half) for half in halves])

        boundaries = pair_boundaries(used[:pairs], used[pairs:])
        stage_feature = cut_windows(causal, boundaries + boundaries)  # [v, 12, 1024]
        reducers = (self.dim_reducer3, self.dim_reducer1, self.dim_reducer2)
        embedding = torch.stack(
            [
                on_each(reducer, steps, 2)
                for reducer, steps in zip(reducers, stage_feature.chunk(3, dim=1), strict=True)
            ],
            dim=1,
        )  # [v, 3, 12, 64]
        dynamic, temporal, temporal_attention = self._relate(embedding)

        static_decoded = _decode((self.decoder1, self.decoder1, self.decoder3), static)
        dynamic_decoded = _decode((self.decoder2, self.decoder2, self.decoder4), dynamic)
        dynamic_delta = self.regressor_delta1(dynamic_decoded).mean((2, 3))  # [v, 3]
        static_delta = self.regressor_delta2(static_decoded).mean((2, 3))  # [v, 3]
        weights = dynamic_delta.new_tensor(STAGE_WEIGHTS)
        delta = ((dynamic_delta @ weights) + (static_delta @ weights)) / 2
        return Outputs(
            video_feature=video_feature,
            mask_feature=mask_feature,
            fused_feature=fused,
            causal_feature=causal,
            spatial_attention_layer1=attention1,
            spatial_attention_layer2=attention2,
            transition_probability=probability,
            transitions=predicted,
            static_feature=static,
            stage_feature=stage_feature,
            stage_embedding=embedding,
            temporal_feature=temporal,
            temporal_attention=temporal_attention,
            static_decoded=static_decoded.flatten(1, 2),
            dynamic_decoded=dynamic_decoded.flatten(1, 2),
            stage_delta_dynamic=dynamic_delta,
            stage_delta_static=static_delta,
            delta=delta.unsqueeze(1),
            mask_logits=mask_logits,
        )

    def _frame_features(self, videos: Tensor) -> Tensor:
        count, _, frames = videos.shape[:3]
        images = videos.transpose(1, 2).flatten(0, 1)  # [v * 96, 3, 112, 112]
        images = images.contiguous(memory_format=self.frames_format)
        return self.video_encoder.backbone(images).reshape(count, frames, -1)

    def _intervene(
        self, original: Tensor, fused: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        videos, windows, features = original.shape
        graphs = 1 if self.graph_scope == "batch" else videos // 2

        # [2, b, 9, d] to [g, 2 * (b / g) * 9, d]: queries, then exemplars, graph by graph.
        def by_graph(x: Tensor) -> Tensor:
            x = x.reshape(2, graphs, -1, features).transpose(0, 1)
            return x.reshape(graphs, -1, features)

        nodes = torch.cat([by_graph(original), by_graph(fused)], dim=1)
        causal, attention1, attention2 = self.causal_intervention(nodes)
        causal = causal.reshape(graphs, 2, -1, windows, features).transpose(0, 1)
        return causal.reshape(videos, windows, features), attention1, attention2

    def _relate(self, embedding: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        temporal, attention = self.temporal_causal_attn(embedding.mean(2))
        # Parity: all 12 tokens of a stage become its one vector.
        return temporal.unsqueeze(2).expand_as(embedding), temporal, attention


def _by_video(x: Tensor, videos: int) -> Tensor:
    """[9 * v, ...], window by window, to [v, 9, ...]."""
    return x.reshape(len(WINDOW_STARTS), videos, *x.shape[1:]).transpose(0, 1)


def _decode(decoders: tuple[nn.Module, ...], tokens: Tensor) -> Tensor:
    """Each stage's tokens [v, 3, k, 64] against the other video's of the same stage."""
    memory = torch.cat(tokens.chunk(2)[::-1])
    return torch.stack(
        [decoder(tokens[:, i], memory[:, i]) for i, decoder in enumerate(decoders)], dim=1
    )
