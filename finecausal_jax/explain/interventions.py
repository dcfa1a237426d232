"""What the score of a query would be if a part of the network said something else.

Attention shows where a network looks, not what that does to its score. Here a part is changed and
everything behind it computed again: the difference of the scores is the effect of that part in this
network, on these videos. It says nothing of why a real dive was good.

An intervention starts from what is known after one step of the network (`models.outputs`) and
changes it; earlier steps are not computed again. Constants and removals are applied to both videos
of every pair, as if the network had none of the part. Where the exemplar's replaces the query's,
the query alone is changed: of its own part nothing is left.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from finecausal_jax.models import outputs
from finecausal_jax.models.causal_graph import STAGE_ORDERS, EdgeSet, MessageGraph
from finecausal_jax.models.finecausal import STAGE_WEIGHTS, STAGES
from finecausal_jax.models.outputs import Features


@dataclasses.dataclass(frozen=True)
class Intervention:
    """A change of a part of the network.

    Attributes:
      name: for people.
      part: what is changed: "gate", "graph", "stage", "temporal order" or "path".
      after: the step whose outcome is changed.
      change: from what is known after that step of b pairs, queries first, to the same changed.
    """

    name: str
    part: str
    after: str
    change: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Effect:
    """What an intervention does to a score.

    Attributes:
      name, part: of the intervention.
      change: float64 [k], changed less unchanged difference to each exemplar, points of what the
        network regresses (completeness or score).
    """

    name: str
    part: str
    change: Float[np.ndarray, " k"]

    @property
    def mean(self) -> float:
        """Over the exemplars: by how much the predicted value changes."""
        return float(np.mean(self.change))

    @property
    def spread(self) -> float:
        """Standard deviation over the exemplars."""
        return float(np.std(self.change))


def network_interventions(model: Any) -> tuple[Intervention, ...]:
    """All interventions that a network has parts for, the one that changes nothing first.

    Args:
      model: a `FineCausal`.
    """
    found = [Intervention("nothing is changed", "none", "fuse", lambda state: state)]
    if model.gate == "mask":
        found += [
            Intervention(
                "gate: everything passes", "gate", "fuse", _gate(lambda gate: 1.0 + 0 * gate)
            ),
            Intervention("gate: nothing passes", "gate", "fuse", _gate(lambda gate: 0.0 * gate)),
            Intervention("gate: its mean", "gate", "fuse", _gate(_mean)),
            Intervention("gate: the exemplar's", "gate", "fuse", _gate(_exemplars)),
        ]
    if model.graph_intervention:
        graph = model.message_graph()
        cuts = {
            "from original features": _cut("original"),
            "from fused features": _cut("fused"),
            "within windows' time": _cut_time("within"),
            "across windows' time": _cut_time("across"),
            "between the videos": _cut_videos,
        }
        found += [
            Intervention(
                f"graph: no messages {name}", "graph", "fuse", functools.partial(_recut, cut)
            )
            for name, cut in cuts.items()
            if cut(graph) != graph
        ]
    for place, stage in enumerate(STAGES):
        found += [
            Intervention(f"{stage}: no tokens", "stage", "stage", _stage(place, _nothing)),
            Intervention(
                f"{stage}: the exemplar's tokens", "stage", "stage", _stage(place, _exemplars)
            ),
        ]
    if model.temporal_attention:
        found += [
            Intervention(f"temporal order: {order}", "temporal order", "stage", _order(order))
            for order in STAGE_ORDERS
            if order != model.stage_order
        ]
    for path in ("static", "dynamic") if model.paths == "both" else ():
        found += [
            Intervention(f"{path} path: left out", "path", "judge", _without_path(path)),
            Intervention(
                f"{path} path: the exemplar's tokens", "path", "relate", _path_of_exemplar(path)
            ),
        ]
    return tuple(found)


def effects_of(
    model: Any,
    variables: Any,
    query: Features,
    exemplars: Features,
    interventions: Sequence[Intervention],
    run: Callable[[Any, Any, Any, str], Any] | None = None,
) -> list[Effect]:
    """Computes interventions on one query.

    Args:
      model: a `FineCausal`; its graph has to be one a pair.
      variables: {"params": ..., "batch_stats": ...}.
      query: its features, without a leading axis.
      exemplars: those of k exemplars, leading axis k.
      interventions: what to change.
      run: makes one step, of (model, variables, state, step); None compiles each.

    Returns:
      The effects, in the order of the interventions.
    """
    run = run or run_step
    count = exemplars.video_feature.shape[0]
    repeated = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], count, axis=0), query)
    state = jax.tree.map(lambda q, e: jnp.concatenate([q, jnp.asarray(e)]), repeated, exemplars)
    states = {"": state}
    for step in outputs.STEPS:
        states[step] = run(model, variables, states[_before(step)], step)
    unchanged = np.asarray(states["judge"].delta[:count, 0], np.float64)
    effects = []
    for one in interventions:
        changed = one.change(states[one.after])
        for step in _behind(one.after):
            changed = run(model, variables, changed, step)
        delta = np.asarray(changed.delta[:count, 0], np.float64)
        effects.append(Effect(one.name, one.part, delta - unchanged))
    return effects


@functools.partial(jax.jit, static_argnames=("model", "step"))
def run_step(model: Any, variables: Any, state: Any, step: str) -> Any:
    """One step; its own program, so that an intervention compiles what it changes alone."""
    return model.apply(variables, state, to=step, method="go_on")


def _before(step: str) -> str:
    names = ["", *outputs.STEPS]
    return names[names.index(step) - 1]


def _behind(step: str) -> list[str]:
    names = list(outputs.STEPS)
    return names[names.index(step) + 1 :]


def _gate(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def changed(state: outputs.Fused) -> outputs.Fused:
        gate = change(jax.nn.sigmoid(state.mask_feature))
        return state.replace(fused_feature=state.video_feature * gate)

    return changed


def _mean(values: Any) -> Any:
    """Each video's mean, in place of its values."""
    axes = tuple(range(1, values.ndim))
    return jnp.broadcast_to(jnp.mean(values, axis=axes, keepdims=True), values.shape)


def _exemplars(values: Any) -> Any:
    """The exemplar's values in place of the query's."""
    exemplar = values[values.shape[0] // 2 :]
    return jnp.concatenate([exemplar, exemplar])


def _nothing(values: Any) -> Any:
    return jnp.zeros_like(values)


def _recut(cut: Callable[[MessageGraph], MessageGraph], state: outputs.Fused) -> outputs.Fused:
    return state.replace(graph=cut(state.graph))


def _cut(feature: str) -> Callable[[MessageGraph], MessageGraph]:
    """Cuts what nodes of one feature say."""
    return lambda graph: _keep(graph, lambda edge: not edge.source.endswith(feature))


def _cut_time(time: str) -> Callable[[MessageGraph], MessageGraph]:
    return lambda graph: _keep(graph, lambda edge: (edge.time == "within") != (time == "within"))


def _cut_videos(graph: MessageGraph) -> MessageGraph:
    return _keep(graph, lambda edge: edge.source.split()[0] == edge.target.split()[0])


def _keep(graph: MessageGraph, kept: Callable[[EdgeSet], bool]) -> MessageGraph:
    return dataclasses.replace(graph, edges=tuple(edge for edge in graph.edges if kept(edge)))


def _stage(place: int, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Changes the tokens of one stage, of both kinds."""

    def changed(state: outputs.Staged) -> outputs.Staged:
        def of(tokens: Any) -> Any:
            return tokens.at[:, place].set(change(tokens[:, place]))

        return state.replace(
            static_feature=of(state.static_feature), stage_embedding=of(state.stage_embedding)
        )

    return changed


def _order(order: str) -> Callable[[Any], Any]:
    return lambda state: state.replace(stage_order=order)


def _without_path(path: str) -> Callable[[Any], Any]:
    """What is left of the difference without one of its two halves."""
    weights = 0.5 * np.array([STAGE_WEIGHTS], np.float32)

    def changed(state: outputs.Outputs) -> outputs.Outputs:
        other = state.stage_delta_dynamic if path == "static" else state.stage_delta_static
        return state.replace(delta=jnp.sum(other * weights, axis=1, keepdims=True))

    return changed


def _path_of_exemplar(path: str) -> Callable[[Any], Any]:
    field = f"{path}_feature"
    return lambda state: state.replace(**{field: _exemplars(getattr(state, field))})
