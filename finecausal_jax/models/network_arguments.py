"""What FineCausal is made from, and what its arguments and inputs must satisfy."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from finecausal_jax.models.causal_graph import GRAPHS, STAGE_ORDERS, MessageGraph, restrict
from finecausal_jax.models.i3d import feature_size
from finecausal_jax.models.initial_values import Layer
from finecausal_jax.runtime.errors import InputError

GATES = ("mask", "open")
PATHS = ("both", "static", "dynamic")


class NetworkArguments(Layer):
    """FineCausal's sizes and switches. Defaults are the published, full-size network.

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
      graph_intervention: whether a graph corrects the motion features (paper's ablation).
      graph: what the graph takes in and connects, a name of `causal_graph.GRAPHS`.
      graph_edges: which of its edges it keeps, rules for `causal_graph.restrict`; empty for all.
      without_graph: which motion features go on where there is no graph: "original", which the mask
        has no part in, or "fused", those weighted by the mask feature, as in FineParser.
      gate: "mask" weighs motion by the mask feature, as published; "open" lets all of it pass, so
        that fused features are the original ones.
      paths: which of the two halves the difference is added up from, "both" as published, or the
        "static" or "dynamic" one alone; what it would be without the other keeps its half.
      graph_scope: "pair" gives each pair its own graph; "batch" puts the whole batch in one graph,
        as the reference does when it trains, so that samples see each other.
      temporal_attention: whether stages attend to other stages (paper's ablation). Without graph
        and temporal attention, with "fused" features, this is FineParser's network.
      stage_order: which stages attend to which, a name of `causal_graph.STAGE_ORDERS`.
      graph_dropout, attention_dropout, dropout: rates in the graph, on temporal attention weights,
        and elsewhere in the temporal encoder.
      base_batch_norm: "running" keeps the base trunk's BatchNorm in evaluation mode while training,
        as the reference does with its Kinetics weights; "batch" trains it, as a trunk that starts
        from random values needs.
      delta_scale: points for one unit of the regressors' output; 1 is the reference's. A short
        training from random values gets to the spread of completeness sooner with that spread.
      target: what `Outputs.delta` is the difference of: "completeness" (score / difficulty), or
        "score", as in FineParser.
      loss_weighting: "learned" weighs the losses by parameters of the network, `awl`; "sum" adds
        them up as they are, as FineParser does, and has no such parameters.
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
    graph_intervention: bool = True
    graph: str = "complete"
    graph_edges: str = ""
    without_graph: str = "original"
    gate: str = "mask"
    paths: str = "both"
    graph_scope: str = "pair"
    temporal_attention: bool = True
    stage_order: str = "causal"
    graph_dropout: float = 0.1
    attention_dropout: float = 0.1
    dropout: float = 0.01
    base_batch_norm: str = "running"
    delta_scale: float = 1.0
    target: str = "completeness"
    loss_weighting: str = "learned"
    dtype: Any = jnp.float32
    remat: str = "none"

    def check(self) -> None:
        """Raises InputError where sizes do not fit each other or a name is unknown."""
        last = (self.windows - 1) * self.window_stride + self.window_frames
        if last > self.frames:
            raise InputError(
                f"FineCausal: {self.windows} windows of {self.window_frames} frames at stride "
                f"{self.window_stride} need {last} frames, but frames={self.frames}; lower "
                "windows, window_frames or window_stride"
            )
        if self.frames % 8 or self.window_frames % 4:
            raise InputError(
                f"FineCausal: frames={self.frames} must be a multiple of 8 and "
                f"window_frames={self.window_frames} one of 4"
            )
        if feature_size(self.width) % 16:
            raise InputError(
                f"FineCausal: width={self.width} gives {feature_size(self.width)} features a "
                "window, which the transition head must halve four times; use a multiple of 1/16"
            )
        static_width = round(512 * self.frame_width) // 8
        if self.embedding != static_width:
            raise InputError(
                f"FineCausal: embedding={self.embedding} but frame_width={self.frame_width} gives "
                f"static tokens of width {static_width}; set embedding={static_width}"
            )
        for name, value, known in (
            ("graph", self.graph, tuple(GRAPHS)),
            ("without_graph", self.without_graph, ("original", "fused")),
            ("gate", self.gate, GATES),
            ("paths", self.paths, PATHS),
            ("graph_scope", self.graph_scope, ("pair", "batch")),
            ("stage_order", self.stage_order, tuple(STAGE_ORDERS)),
            ("target", self.target, ("completeness", "score")),
            ("loss_weighting", self.loss_weighting, ("learned", "sum")),
            ("base_batch_norm", self.base_batch_norm, ("running", "batch")),
            ("remat", self.remat, ("none", "blocks")),
            ("dtype", jnp.dtype(self.dtype).name, ("float32", "bfloat16")),
        ):
            if value not in known:
                raise InputError(f"FineCausal: {name}={value!r} is none of {known}")
        self.message_graph()

    def message_graph(self) -> MessageGraph:
        """The graph with the edges that it keeps.

        Raises:
          InputError: `graph_edges` are no rules for it.
        """
        try:
            return restrict(GRAPHS[self.graph], self.graph_edges)
        except ValueError as error:
            raise InputError(f"FineCausal: graph_edges={self.graph_edges!r}: {error}") from error

    def check_videos(self, videos: Array) -> None:
        """Raises InputError where these are no videos that the network encodes."""
        if videos.ndim != 5 or videos.shape[1] != self.frames or videos.shape[-1] != 3:
            raise InputError(
                f"FineCausal: expected videos [v, {self.frames}, height, width, 3], channels "
                f"last, but found shape {videos.shape}"
            )
        if videos.shape[2] % 16 or videos.shape[3] % 16:
            raise InputError(
                "FineCausal: height and width must be multiples of 16, so that the mask comes out "
                f"at the size of the frames, but found {videos.shape[2]} x {videos.shape[3]}"
            )

    def check_has(self, part: str) -> None:
        """Raises InputError where a part is to be used that the network was made without."""
        if not getattr(self, part):
            raise InputError(
                f"FineCausal: this network was made with {part}=False and has no parameters for "
                "that; leave the graph or the order of stages at None, or use a network that has it"
            )
