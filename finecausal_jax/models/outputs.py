"""What is known after each step of the network: one struct a step, each the last one and more.

v = 2b videos (the queries of b pairs, then their exemplars), n windows, t frames, s = 3 stages.
Arrays are float32 unless said otherwise. To intervene, run to a step, change what it added with
`replace` and go on: later steps read the changed field, and fields of earlier steps stay as they
were, for the record. `FineCausal.go_on` has an example.
"""

from typing import Any

import flax.struct


def _static() -> Any:
    """A field that is no array: it is part of what is compiled."""
    return flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Features:
    """Encoded: what is known of each video by itself.

    Attributes:
      video_feature: [v, n, 1024] motion features of the base trunk.
      mask_feature: [v, n, 1024] pooled output of the segmenter's trunk: all that the score sees of
        the predicted mask.
      frame_feature: [v, t, 512] ResNet-34 features of single frames.
      mask_logits: five maps [v, n, 16, h, w] (four side outputs, then the fused one), or None. They
        are for the loss and for people; no later step reads them.
    """

    video_feature: Any
    mask_feature: Any
    frame_feature: Any
    mask_logits: Any = None


@flax.struct.dataclass(kw_only=True)
class Fused(Features):
    """And the motion features with the mask's say in them.

    Attributes:
      fused_feature: [v, n, 1024] motion features weighted by the mask features.
      graph: the `MessageGraph` that the next step passes messages along; None: no graph. Static.
    """

    fused_feature: Any
    graph: Any = _static()


@flax.struct.dataclass(kw_only=True)
class Intervened(Fused):
    """And the motion features as the graph corrects them.

    Attributes:
      causal_feature: [v, n, 1024]; all that later steps see of motion and of the mask.
      spatial_attention_layer1: [g, head, e] weight of each edge of `graph.connect(n, b // g)` in g
        graphs, one a pair or one for the batch; None without a graph. The weights of the edges to
        one node add up to 1.
      spatial_attention_layer2: the same for the second layer.
    """

    causal_feature: Any
    spatial_attention_layer1: Any
    spatial_attention_layer2: Any


@flax.struct.dataclass(kw_only=True)
class Located(Intervened):
    """And where each dive passes from stage to stage.

    Attributes:
      transition_probability: [v, t, 2].
      transitions: int32 [v, 2] predicted frames of the two transitions.
      window_cuts: int32 [v, 2] the transitions, frames, at which the next step cuts the windows of
        both videos of a pair (at their mean): predicted ones or, in training, labels.
      frame_cuts: int32 [v, 2] those at which it cuts each video's frames.
    """

    transition_probability: Any
    transitions: Any
    window_cuts: Any
    frame_cuts: Any


@flax.struct.dataclass(kw_only=True)
class Staged(Located):
    """And the tokens of each stage, from single frames and from motion.

    Attributes:
      static_feature: [v, 3, 4, 64] tokens from single frames. Neither mask nor graph has a say in
        them, but for the transitions that they are cut at.
      stage_feature: [v, 12, 1024] `causal_feature` of each stage, resampled to 4 steps.
      stage_embedding: [v, 3, 12, 64] tokens from motion.
      stage_order: which stages the next step lets influence which, a name of
        `causal_graph.STAGE_ORDERS`; None leaves temporal attention out. Static.
    """

    static_feature: Any
    stage_feature: Any
    stage_embedding: Any
    stage_order: Any = _static()


@flax.struct.dataclass(kw_only=True)
class Related(Staged):
    """And the motion tokens as other stages influence them.

    Attributes:
      temporal_feature: [v, 3, 64]; None without temporal attention.
      temporal_attention: [v, layer, head, to, from]; None without temporal attention.
      dynamic_feature: [v, 3, 12, 64] the motion tokens that are compared: `temporal_feature` over
        and over, or `stage_embedding` without temporal attention.
    """

    temporal_feature: Any
    temporal_attention: Any
    dynamic_feature: Any


@flax.struct.dataclass(kw_only=True)
class Outputs(Related):
    """And the judgement: every named tensor of the comparison.

    Attributes:
      static_decoded: [v, 12, 64] each video's static tokens, compared with the other's.
      dynamic_decoded: [v, 36, 64] the same of the motion tokens.
      stage_delta_static: [v, 3] difference by stage, from single frames.
      stage_delta_dynamic: [v, 3] difference by stage, from motion.
      delta: [v, 1] differences in what the network regresses (`FineCausal.target`): completeness
        (points / difficulty) or the score (points); the first b rows are query minus exemplar, the
        others exemplar minus query. Half of it comes from single frames, half from motion.
    """

    static_decoded: Any
    dynamic_decoded: Any
    stage_delta_static: Any
    stage_delta_dynamic: Any
    delta: Any


# The steps of a comparison in their order, each with the struct that it starts from.
STEPS = {
    "fuse": Features,
    "intervene": Fused,
    "locate": Intervened,
    "stage": Located,
    "relate": Staged,
    "judge": Related,
}


def steps_after(state: Any, to: str) -> list[str]:
    """Names of the steps that lead from `state` to what is known after the step `to`.

    Raises:
      ValueError: `to` is none of the steps that are left.
    """
    starts = list(STEPS.values())
    left = list(STEPS)[starts.index(type(state)) :] if type(state) in starts else []
    if to not in left:
        raise ValueError(
            f"to={to!r} is none of the steps that follow {type(state).__name__}: "
            f"{', '.join(left) or 'there are none'}"
        )
    return left[: left.index(to) + 1]
