"""FineCausal: scores a query dive against an exemplar dive of the same dive number.

Han et al., FineCausal, CVPR Workshops 2025; built on FineParser, TSA and CoRe.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from finecausal_jax.models.decoders import PairDecoder
from finecausal_jax.models.graph_attention import BatchedIntervention, complete_graph
from finecausal_jax.models.i3d import I3D, feature_size
from finecausal_jax.models.initial_values import Layer
from finecausal_jax.models.layers import MLP
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
MASK_MAPS = 5  # four side outputs, then the fused map
WINDOW_TOKENS = 4  # to how many steps a stage's windows are resampled


@flax.struct.dataclass
class Features:
    """What the encoders know of each video by itself; v videos, n windows, t frames.

    Attributes:
      video_feature: [v, n, 1024] motion features of the base trunk.
      mask_feature: [v, n, 1024] pooled output of the segmenter's trunk.
      frame_feature: [v, t, 512] ResNet-34 features of single frames.
      mask_logits: five maps [v, n, 16, h, w] (four side outputs, then the fused one), or None.
    """

    video_feature: Any
    mask_feature: Any
    frame_feature: Any
    mask_logits: Any = None


@flax.struct.dataclass
class Outputs:
    """Every named tensor of the comparison; b pairs, v = 2b videos (queries, then exemplars).

    Attributes:
      delta: [v, 1] differences in completeness (points / difficulty); the first b rows are query
        minus exemplar, the others exemplar minus query.
      transitions: int32 [v, 2] predicted frames of the two transitions.
      transition_probability: [v, t, 2].
      stage_delta_dynamic: [v, 3] difference by stage, from motion.
      stage_delta_static: [v, 3] difference by stage, from single frames.
      temporal_attention: [v, layer, head, stage, stage]; None without temporal attention.
      spatial_attention_layer1: [head, target, source] weights between the nodes of all graphs, zero
        where there is no edge; nodes by kind (`graph_attention.NODE_KINDS`), sample and window.
        None without the graph.
      spatial_attention_layer2: the same for the second layer.
      video_feature, mask_feature, mask_logits: as in `Features`.
      fused_feature: [v, n, 1024] motion features weighted by the mask features.
      causal_feature: [v, n, 1024] motion features corrected by the graph.
      static_feature: [v, 3, 4, 64].
      stage_feature: [v, 12, 1024].
      stage_embedding: [v, 3, 12, 64].
      temporal_feature: [v, 3, 64]; None without temporal attention.
      static_decoded: [v, 12, 64].
      dynamic_decoded: [v, 36, 64].
    """

    delta: Any
    transitions: Any
    transition_probability: Any
    stage_delta_dynamic: Any
    stage_delta_static: Any
    temporal_attention: Any
    spatial_attention_layer1: Any
    spatial_attention_layer2: Any
    video_feature: Any
    mask_feature: Any
    mask_logits: Any
    fused_feature: Any
    causal_feature: Any
    static_feature: Any
    stage_feature: Any
    stage_embedding: Any
    temporal_feature: Any
    static_decoded: Any
    dynamic_decoded: Any


class FineCausal(Layer):
    """The whole scorer. Defaults are the published, full-size network.

    Attributes:
      frames: frames a video.
      windows: windows a video, from frame 0 on.
      window_frames: frames a window; a multiple of 4.
      window_stride: frames from one window to the next.
      width: multiplies the channels of both I3D trunks.
      frame_width: multiplies the channels of ResNet-34.
      embedding: width of stage tokens; `512 * frame_width / 8`, so that both kinds of token agree.
      stage_frames: to how many frames each stage is resampled for the static encoder.
      stage_margin: frames by which the static encoder's stages overlap each transition.
      graph_scope: "pair" gives each pair its own graph; "batch" puts the whole batch in one graph,
        as the reference does when it trains, so that samples see each other.
      graph_intervention: whether the graph corrects the features (paper's ablation).
      temporal_attention: whether stages attend to earlier ones (paper's ablation). With both off
        this is FineParser's model.
      graph_dropout, attention_dropout, dropout: rates in the graph, on temporal attention weights,
        and elsewhere in the temporal encoder.
      base_batch_norm: "running" keeps the base trunk's BatchNorm in evaluation mode while training,
        as the reference does with its Kinetics weights; "batch" trains it, as a trunk that starts
        from random values needs.
      delta_scale: points for one unit of the regressors' output; 1 is the reference's. A short
        training from random values gets to the spread of completeness sooner with that spread.
      dtype: compute dtype, float32 or bfloat16. Parameters, statistics, softmax, regression and
        outputs are float32.
      remat: "blocks" keeps only the inputs of the encoders' blocks for the backward pass, which
        computes them again: less memory for one more forward pass of the encoders. On a CPU it
        gains nothing, since XLA keeps them all the same. "none" keeps everything.
    """

    frames: int = 96
    windows: int = 9
    window_frames: int = 16
    window_stride: int = 10
    width: float = 1.0
    frame_width: float = 1.0
    embedding: int = 64
    stage_frames: tuple[int, int, int] = (36, 60, 48)
    stage_margin: int = 5
    graph_scope: str = "pair"
    graph_intervention: bool = True
    temporal_attention: bool = True
    graph_dropout: float = 0.1
    attention_dropout: float = 0.1
    dropout: float = 0.01
    base_batch_norm: str = "running"
    delta_scale: float = 1.0
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        self._check()
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
        # The learned weights of the three losses live with the parameters they train beside.
        self.awl = self.param("awl", nn.initializers.ones, (3,))

    def __call__(
        self,
        query: Float[Array, "b t h w 3"],
        exemplar: Float[Array, "b t h w 3"],
        *,
        train: bool = False,
        transitions: Int[Array, "v 2"] | None = None,
        static_from_prediction: Bool[Array, ""] | None = None,
    ) -> Outputs:
        """Compares query dives with exemplar dives: `encode`, then `compare`.

        Args:
          query: normalised frames [b, 96, 112, 112, 3].
          exemplar: the same of the dives to compare with.
          train: batch statistics and dropout (keys from the collection "dropout").
          transitions: as in `compare`.
          static_from_prediction: as in `compare`.

        Returns:
          All named tensors, see `Outputs`.
        """
        features = self.encode(jnp.concatenate([query, exemplar]), train=train, runs=2)
        # As they are: taken apart and put together again, XLA would copy them.
        return self._compare(features, train, transitions, static_from_prediction)

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
        self._check_videos(videos)
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

    def compare(
        self,
        query: Features,
        exemplar: Features,
        *,
        train: bool = False,
        transitions: Int[Array, "v 2"] | None = None,
        static_from_prediction: Bool[Array, ""] | None = None,
    ) -> Outputs:
        """Everything after the encoders.

        Args:
          query: features of b query videos.
          exemplar: features of b exemplar videos.
          train: batch statistics and dropout.
          transitions: frames (s, e) at which each of the 2b videos is cut into stages, queries
            first: the labels, in training. None: the predicted ones.
          static_from_prediction: a boolean that makes the static encoder use the predicted
            transitions in spite of `transitions`. None: no.

        Returns:
          All named tensors, see `Outputs`.
        """
        both = jax.tree.map(lambda q, e: jnp.concatenate([q, e]), query, exemplar)
        return self._compare(both, train, transitions, static_from_prediction)

    def _compare(
        self,
        both: Features,
        train: bool,
        transitions: Int[Array, "v 2"] | None,
        static_from_prediction: Bool[Array, ""] | None,
    ) -> Outputs:
        """`compare` for the features of v = 2b videos, queries first."""
        mode = {"train": train, "runs": 2}
        fused = both.video_feature * nn.sigmoid(both.mask_feature)  # [v, 9, 1024]
        causal, spatial1, spatial2 = self._intervene(both.video_feature, fused, train)

        probability = self.psnet_model(causal, **mode)  # [v, 96, 2]
        predicted = predict_transitions(probability)
        used = predicted if transitions is None else transitions.astype(jnp.int32)
        static_used = used
        if static_from_prediction is not None:
            static_used = jnp.where(static_from_prediction, predicted, used)

        static = self.video_encoder.reduce(both.frame_feature, static_used, **mode)  # [v, 3, 4, 64]
        boundaries = pair_boundaries(used, self.window_stride)
        stage_feature = pool_windows(causal, boundaries, WINDOW_TOKENS)  # [v, 12, 1024]
        reducers = (self.dim_reducer3, self.dim_reducer1, self.dim_reducer2)
        pieces = jnp.split(stage_feature, len(STAGES), axis=1)
        embedding = jnp.stack(
            [reduce(piece, **mode) for reduce, piece in zip(reducers, pieces, strict=True)], axis=1
        )  # [v, 3, 12, 64]

        tokens, temporal, temporal_weights = embedding, None, None
        if self.temporal_attention:
            temporal, temporal_weights = self.temporal_causal_attn(
                jnp.mean(embedding, axis=2), train=train
            )
            # Parity: all tokens of a stage become its one vector.
            tokens = jnp.broadcast_to(temporal[:, :, None], embedding.shape)

        # Parity: the first two stages share decoders.
        static_decoded = self._decode(static, (self.decoder1, self.decoder1, self.decoder3))
        dynamic_decoded = self._decode(tokens, (self.decoder2, self.decoder2, self.decoder4))
        dynamic_delta = self._stage_delta(self.regressor_delta1, dynamic_decoded)  # [v, 3]
        static_delta = self._stage_delta(self.regressor_delta2, static_decoded)
        weights = jnp.array([STAGE_WEIGHTS], jnp.float32)
        delta = jnp.sum(0.5 * (dynamic_delta + static_delta) * weights, axis=1, keepdims=True)

        def flat(decoded: Array) -> Array:  # [v, s, k, 64] -> [v, s k, 64]
            return decoded.reshape(decoded.shape[0], -1, decoded.shape[-1])

        return Outputs(
            delta=delta,
            transitions=predicted,
            transition_probability=probability,
            stage_delta_dynamic=dynamic_delta,
            stage_delta_static=static_delta,
            temporal_attention=temporal_weights,
            spatial_attention_layer1=spatial1,
            spatial_attention_layer2=spatial2,
            video_feature=both.video_feature,
            mask_feature=both.mask_feature,
            mask_logits=both.mask_logits,
            fused_feature=fused,
            causal_feature=causal,
            static_feature=static,
            stage_feature=stage_feature,
            stage_embedding=embedding,
            temporal_feature=temporal,
            static_decoded=flat(static_decoded),
            dynamic_decoded=flat(dynamic_decoded),
        )

    def _intervene(
        self, original: Float[Array, "v n d"], fused: Float[Array, "v n d"], train: bool
    ) -> tuple[Array, Array | None, Array | None]:
        """Corrects the window features by graph attention, pair by pair or over the batch."""
        if not self.graph_intervention:
            return original, None, None
        v, n, d = original.shape
        graphs = v // 2 if self.graph_scope == "pair" else 1
        samples = v // 2 // graphs
        # Node order inside a graph: kind (query or exemplar, original or fused), sample, window.
        nodes = jnp.stack([original, fused]).reshape(4, graphs, samples * n, d)
        nodes = nodes.swapaxes(0, 1).reshape(graphs, 4 * samples * n, d)
        graph = complete_graph(4 * samples * n)._replace(nodes=nodes)
        out, *weights = self.causal_intervention(graph, train)
        out = out.reshape(graphs, 4, samples * n, d)[:, :2].swapaxes(0, 1)
        layer1, layer2 = (_over_all_nodes(w, samples * n) for w in weights)
        return out.reshape(v, n, d), layer1, layer2

    def _decode(
        self, tokens: Float[Array, "v s k d"], decoders: tuple[PairDecoder, ...]
    ) -> Float[Array, "v s k d"]:
        """Decodes both directions, each stage by itself with its decoder."""
        query, exemplar = jnp.split(tokens, 2)
        memory = jnp.concatenate([exemplar, query])
        stages = [decode(tokens[:, s], memory[:, s]) for s, decode in enumerate(decoders)]
        return jnp.stack(stages, axis=1).astype(jnp.float32)

    def _stage_delta(self, regressor: MLP, decoded: Float[Array, "v s k d"]) -> Float[Array, "v s"]:
        by_token = regressor(decoded)[..., 0]  # [v, s, k]
        return self.delta_scale * jnp.mean(by_token, axis=-1)

    def _check(self) -> None:
        last = (self.windows - 1) * self.window_stride + self.window_frames
        if last > self.frames:
            raise ValueError(
                f"FineCausal: {self.windows} windows of {self.window_frames} frames at stride "
                f"{self.window_stride} need {last} frames, but frames={self.frames}; lower "
                "windows, window_frames or window_stride"
            )
        if self.frames % 8 or self.window_frames % 4:
            raise ValueError(
                f"FineCausal: frames={self.frames} must be a multiple of 8 and "
                f"window_frames={self.window_frames} one of 4"
            )
        if feature_size(self.width) % 16:
            raise ValueError(
                f"FineCausal: width={self.width} gives {feature_size(self.width)} features a "
                "window, which the transition head must halve four times; use a multiple of 1/16"
            )
        static_width = round(512 * self.frame_width) // 8
        if self.embedding != static_width:
            raise ValueError(
                f"FineCausal: embedding={self.embedding} but frame_width={self.frame_width} gives "
                f"static tokens of width {static_width}; set embedding={static_width}"
            )
        for name, value, known in (
            ("graph_scope", self.graph_scope, ("pair", "batch")),
            ("base_batch_norm", self.base_batch_norm, ("running", "batch")),
            ("remat", self.remat, ("none", "blocks")),
            ("dtype", jnp.dtype(self.dtype).name, ("float32", "bfloat16")),
        ):
            if value not in known:
                raise ValueError(f"FineCausal: {name}={value!r} is none of {known}")

    def _check_videos(self, videos: Array) -> None:
        if videos.ndim != 5 or videos.shape[1] != self.frames or videos.shape[-1] != 3:
            raise ValueError(
                f"FineCausal: expected videos [v, {self.frames}, height, width, 3], channels "
                f"last, but found shape {videos.shape}"
            )
        if videos.shape[2] % 16 or videos.shape[3] % 16:
            raise ValueError(
                "FineCausal: height and width must be multiples of 16, so that the mask comes out "
                f"at the size of the frames, but found {videos.shape[2]} x {videos.shape[3]}"
            )


def _over_all_nodes(
    weights: Float[Array, "g head n n"], kind_size: int
) -> Float[Array, "head m m"]:
    """Weights within each graph as one matrix over the nodes of all graphs, ordered by kind."""
    graphs, heads, n, _ = weights.shape
    if graphs == 1:
        return weights[0]
    split = weights.reshape(graphs, heads, 4, kind_size, 4, kind_size)
    apart = jnp.einsum("ghkxly,gf->hkgxlfy", split, jnp.eye(graphs))
    return apart.reshape(heads, graphs * n, graphs * n)
