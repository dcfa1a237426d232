"""FineCausal: scores a query dive against an exemplar dive of the same dive number.

Han et al., FineCausal, CVPR Workshops 2025; built on FineParser, TSA and CoRe.

The network is a row of steps with a struct of `outputs` between each:

    encode      videos to features, each video by itself
    fuse        motion weighted by the mask feature: where the predicted mask enters
    intervene   motion corrected by messages along a graph of original and fused features
    locate      where each dive passes from stage to stage
    stage       tokens of each stage, from single frames and from motion
    relate      each stage's motion tokens influenced by other stages
    judge       both kinds of token compared with the other video's: half of the score each

The static tokens, and with them half of the score, go through neither mask nor graph: these only
choose the transitions at which they are cut.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from finecausal_jax.models import outputs
from finecausal_jax.models.causal_graph import stage_edges
from finecausal_jax.models.decoders import PairDecoder
from finecausal_jax.models.graph_attention import BatchedIntervention, correct_windows
from finecausal_jax.models.i3d import I3D
from finecausal_jax.models.layers import MLP
from finecausal_jax.models.network_arguments import NetworkArguments
from finecausal_jax.models.outputs import Features, Outputs
from finecausal_jax.models.segmenter import Segmenter
from finecausal_jax.models.stages import (
    StageReducer,
    TransitionHead,
    pair_boundaries,
    pool_windows,
    predict_transitions,
)
from finecausal_jax.models.static_encoder import StaticEncoder
from finecausal_jax.models.temporal_attention import TemporalCausalAttention

STAGES = ("forward", "twist", "entry")
STAGE_WEIGHTS = (0.3, 0.5, 0.2)  # the reference's, for the sum of the stages' differences
WINDOW_TOKENS = 4  # to how many steps a stage's windows are resampled


class FineCausal(NetworkArguments):
    """The whole scorer, made from `NetworkArguments`.

    Its steps are methods, to be called by `model.apply(variables, ..., method="go_on")`. When first
    used it raises ValueError where its arguments do not fit each other.
    """

    def setup(self) -> None:
        self.check()
        dtype = self.dtype
        self.base_model = I3D(self.width, dtype, self.remat)
        self.segmenter = Segmenter(self.width, dtype, self.remat)
        self.video_encoder = StaticEncoder(
            tuple(self.stage_frames),
            self.stage_margin,
            self.frame_width,
            dtype=dtype,
            remat=self.remat,
        )
        if self.graph_intervention:
            self.causal_intervention = BatchedIntervention(dropout=self.graph_dropout, dtype=dtype)
        self.psnet_model = TransitionHead(self.frames, dtype)
        # Named as in released checkpoints, where forward is 3, twist 1 and entry 2.
        self.dim_reducer3 = StageReducer(self.embedding, dtype=dtype)
        self.dim_reducer1 = StageReducer(self.embedding, dtype=dtype)
        self.dim_reducer2 = StageReducer(self.embedding, dtype=dtype)
        if self.temporal_attention:
            self.temporal_causal_attn = TemporalCausalAttention(
                attention_dropout=self.attention_dropout, dropout=self.dropout, dtype=dtype
            )
        self.decoder1 = PairDecoder(dtype=dtype)
        self.decoder2 = PairDecoder(dtype=dtype)
        self.decoder3 = PairDecoder(dtype=dtype)
        self.decoder4 = PairDecoder(dtype=dtype)
        self.regressor_delta1 = MLP((4 * self.embedding, self.embedding, 1), dtype)
        self.regressor_delta2 = MLP((4 * self.embedding, self.embedding, 1), dtype)
        if self.loss_weighting == "learned":
            # The weights of the three losses live with the parameters they train beside.
            self.awl = self.param("awl", nn.initializers.ones, (3,))

    def __call__(
        self,
        query: Float[Array, "b t h w 3"],
        exemplar: Float[Array, "b t h w 3"],
        *,
        train: bool = False,
        **labels: Any,
    ) -> Outputs:
        """Compares query dives with exemplar dives: `encode`, then all other steps.

        Args:
          query: normalised frames [b, 96, 112, 112, 3].
          exemplar: the same of the dives to compare with.
          train: batch statistics and dropout (keys from the collection "dropout").
          **labels: `transitions` and `static_from_prediction`, as for `locate`.
        """
        features = self.encode(jnp.concatenate([query, exemplar]), train=train, runs=2)
        # As they are: taken apart and put together again, XLA would copy them.
        return self.go_on(features, train=train, **labels)

    def compare(
        self, query: Features, exemplar: Features, *, train: bool = False, **labels: Any
    ) -> Outputs:
        """Everything after `encode`, of b queries and b exemplars; else as `__call__`."""
        both = jax.tree.map(lambda q, e: jnp.concatenate([q, e]), query, exemplar)
        return self.go_on(both, train=train, **labels)

    def go_on(self, state: Any, *, to: str = "judge", train: bool = False, **labels: Any) -> Any:
        """Runs the steps that follow the one that gave `state`.

        An intervention runs to a step, changes what it gave and goes on:

            run = functools.partial(model.apply, variables, method="go_on")
            fused = run(features, to="fuse")
            cut = fused.replace(graph=fused.graph.without(source="exemplar original"))
            outputs = run(cut)

        Args:
          state: what is known so far of b pairs, queries first: `Features` or any later struct.
          to: the last step to run, a name of `outputs.STEPS`.
          train: batch statistics and dropout.
          **labels: `transitions` and `static_from_prediction`, as for `locate`.

        Returns:
          What is known after the step `to`; `Outputs` after the last one.

        Raises:
          ValueError: `to` is none of the steps that are left to run.
        """
        for name in outputs.steps_after(state, to):
            options = labels if name == "locate" else {}
            state = getattr(self, name)(state, train=train, **options)
        return state

    def encode(
        self, videos: Float[Array, "v t h w 3"], *, train: bool = False, runs: int = 1
    ) -> Features:
        """Encodes each video by itself.

        Args:
          videos: normalised frames [v, 96, 112, 112, 3].
          train: whether BatchNorm uses batch statistics.
          runs: equal groups of videos (queries, exemplars) that the static encoder normalises each
            by its own statistics. The trunks always see all videos as one batch.

        Returns:
          Features of v videos.
        """
        self.check_videos(videos)
        v = videos.shape[0]
        starts = range(0, self.windows * self.window_stride, self.window_stride)
        clips = jnp.stack([videos[:, s : s + self.window_frames] for s in starts], axis=1)
        clips = clips.reshape(v * self.windows, *clips.shape[2:])  # [v n, 16, 112, 112, 3]

        train_base = train and self.base_batch_norm == "batch"
        video_feature, _ = self.base_model(clips, train=train_base)  # [v n, 1024]
        mask_feature, maps = self.segmenter(clips, train=train)
        by_video = (v, self.windows)
        return Features(
            video_feature=video_feature.reshape(*by_video, -1),
            mask_feature=mask_feature.reshape(*by_video, -1),
            frame_feature=self.video_encoder.encode_frames(videos, train=train, runs=runs),
            mask_logits=tuple(m.reshape(*by_video, *m.shape[1:]) for m in maps),
        )

    def fuse(self, features: Features, *, train: bool = False) -> outputs.Fused:
        """Weights motion by the mask feature, the only way of the predicted mask into the score."""
        fused = features.video_feature
        if self.gate == "mask":
            fused = fused * nn.sigmoid(features.mask_feature)  # [v, 9, 1024]
        graph = self.message_graph() if self.graph_intervention else None
        return outputs.Fused(**vars(features), fused_feature=fused, graph=graph)

    def intervene(self, fused: outputs.Fused, *, train: bool = False) -> outputs.Intervened:
        """Corrects motion by messages along `fused.graph`, or passes `without_graph` on."""
        is_fused = self.without_graph == "fused"
        causal = fused.fused_feature if is_fused else fused.video_feature
        weights1, weights2 = None, None
        if fused.graph is not None:
            self.check_has("graph_intervention")
            pairs = fused.video_feature.shape[0] // 2
            causal, weights1, weights2 = correct_windows(
                lambda nodes: self.causal_intervention(nodes, train),
                fused.graph,
                fused.video_feature,
                fused.fused_feature,
                graphs=pairs if self.graph_scope == "pair" else 1,
            )
        return outputs.Intervened(
            **vars(fused),
            causal_feature=causal,  # [v, 9, 1024]
            spatial_attention_layer1=weights1,
            spatial_attention_layer2=weights2,
        )

    def locate(
        self,
        intervened: outputs.Intervened,
        *,
        train: bool = False,
        transitions: Int[Array, "v 2"] | None = None,
        static_from_prediction: Bool[Array, ""] | None = None,
    ) -> outputs.Located:
        """Finds the transitions in the corrected motion.

        Args:
          intervened: of v videos.
          train: whether BatchNorm uses batch statistics.
          transitions: frames (s, e) at which each of the v videos is cut into stages, queries
            first: the labels, in training. None: the predicted ones.
          static_from_prediction: a boolean that makes the static encoder use the predicted
            transitions in spite of `transitions`. None: no.
        """
        probability = self.psnet_model(intervened.causal_feature, train=train, runs=2)  # [v, 96, 2]
        predicted = predict_transitions(probability)
        used = predicted if transitions is None else transitions.astype(jnp.int32)
        frame_cuts = used
        if static_from_prediction is not None:
            frame_cuts = jnp.where(static_from_prediction, predicted, used)
        return outputs.Located(
            **vars(intervened),
            transition_probability=probability,
            transitions=predicted,
            window_cuts=used,
            frame_cuts=frame_cuts,
        )

    def stage(self, located: outputs.Located, *, train: bool = False) -> outputs.Staged:
        """Cuts both kinds of feature into stages and reduces each stage to tokens.

        The static tokens come from `frame_feature`, so neither mask nor graph changes them while
        `located.frame_cuts` stay.
        """
        mode = {"train": train, "runs": 2}
        static = self.video_encoder.reduce(located.frame_feature, located.frame_cuts, **mode)
        boundaries = pair_boundaries(located.window_cuts, self.window_stride)
        stage_feature = pool_windows(located.causal_feature, boundaries, WINDOW_TOKENS)
        reducers = (self.dim_reducer3, self.dim_reducer1, self.dim_reducer2)
        pieces = jnp.split(stage_feature, len(STAGES), axis=1)
        embedding = jnp.stack(
            [reduce(piece, **mode) for reduce, piece in zip(reducers, pieces, strict=True)], axis=1
        )
        return outputs.Staged(
            **vars(located),
            static_feature=static,  # [v, 3, 4, 64]
            stage_feature=stage_feature,  # [v, 12, 1024]
            stage_embedding=embedding,  # [v, 3, 12, 64]
            stage_order=self.stage_order if self.temporal_attention else None,
        )

    def relate(self, staged: outputs.Staged, *, train: bool = False) -> outputs.Related:
        """Lets stages influence each other in `staged.stage_order`; the static tokens stay out."""
        embedding = staged.stage_embedding
        tokens, temporal, weights = embedding, None, None
        if staged.stage_order is not None:
            self.check_has("temporal_attention")
            allowed = stage_edges(staged.stage_order, len(STAGES))
            temporal, weights = self.temporal_causal_attn(
                jnp.mean(embedding, axis=2), allowed, train=train
            )
            # Parity: all tokens of a stage become its one vector.
            tokens = jnp.broadcast_to(temporal[:, :, None], embedding.shape)
        return outputs.Related(
            **vars(staged),
            temporal_feature=temporal,
            temporal_attention=weights,
            dynamic_feature=tokens,
        )

    def judge(self, related: outputs.Related, *, train: bool = False) -> Outputs:
        """Compares each video's tokens with the other's and regresses the difference.

        Half of it comes from the static tokens, which saw neither mask nor graph, half from motion.
        """
        # Parity: the first two stages share decoders.
        static = self._decode(related.static_feature, self.decoder1, self.decoder3)
        dynamic = self._decode(related.dynamic_feature, self.decoder2, self.decoder4)
        dynamic_delta = self._stage_delta(self.regressor_delta1, dynamic)  # [v, 3]
        static_delta = self._stage_delta(self.regressor_delta2, static)
        if self.paths == "static":
            dynamic_delta = jnp.zeros_like(dynamic_delta)
        elif self.paths == "dynamic":
            static_delta = jnp.zeros_like(static_delta)
        weights = jnp.array([STAGE_WEIGHTS], jnp.float32)
        delta = jnp.sum(0.5 * (dynamic_delta + static_delta) * weights, axis=1, keepdims=True)

        def flat(decoded: Array) -> Array:  # [v, s, k, 64] -> [v, s k, 64]
            return decoded.reshape(decoded.shape[0], -1, decoded.shape[-1])

        return Outputs(
            **vars(related),
            static_decoded=flat(static),
            dynamic_decoded=flat(dynamic),
            stage_delta_static=static_delta,
            stage_delta_dynamic=dynamic_delta,
            delta=delta,
        )

    def _decode(
        self, tokens: Float[Array, "v s k d"], first_two: PairDecoder, last: PairDecoder
    ) -> Float[Array, "v s k d"]:
        """Decodes both directions, each stage by itself; forward and twist share a decoder."""
        query, exemplar = jnp.split(tokens, 2)
        memory = jnp.concatenate([exemplar, query])
        # Both stages of one decoder at once: to call it twice would compile and run it twice.
        stages = [
            first_two(tokens[:, :2], memory[:, :2]),
            last(tokens[:, 2:], memory[:, 2:]),
        ]
        return jnp.concatenate(stages, axis=1).astype(jnp.float32)

    def _stage_delta(self, regressor: MLP, decoded: Float[Array, "v s k d"]) -> Float[Array, "v s"]:
        by_token = regressor(decoded)[..., 0]  # [v, s, k]
        return self.delta_scale * jnp.mean(by_token, axis=-1)
