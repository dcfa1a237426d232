"""The state that a run starts from: a fresh one, a checkpoint's, or a converted file's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from finecausal_jax.interop.conversion import load_trunks, merged
from finecausal_jax.models.finecausal import FineCausal
from finecausal_jax.models.initial_values import init_variables
from finecausal_jax.runtime.checkpoints import (
    ADAM,
    OPTIMISER,
    PIPELINE,
    VARIABLES,
    CheckpointStore,
)
from finecausal_jax.runtime.layout import Layout
from finecausal_jax.training.optimiser import ParameterUpdate
from finecausal_jax.training.state import TrainState, init_state


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """How a run begins.

    Attributes:
      optimiser: makes the first state of the optimiser.
      layout: where the state lies.
      variables: gives the initial parameters and statistics; may read pretrained weights.
      shapes: gives their shapes and dtypes alone.
      accumulate: micro-batches whose gradients one optimiser step adds up.
    """

    optimiser: ParameterUpdate
    layout: Layout
    variables: Callable[[], Any]
    shapes: Callable[[], Any]
    accumulate: int = 1

    def fresh(self, variables: Any) -> TrainState:
        """The state before the first step; `variables` as `self.variables` gives them."""
        return self.layout.place(init_state(variables, self.optimiser))

    def saved(self, store: CheckpointStore, batches: Any, which: str = "latest") -> TrainState:
        """The state of a checkpoint; moves the batches to its place.

        Args:
          store: of the run, with a checkpoint.
          batches: of training, see `pipeline.training_batches`.
          which: of its checkpoints; see `CheckpointStore.find`.

        Raises:
          InputError: the checkpoint does not fit the network.
        """
        step = store.find(which)
        abstract = self.layout.shapes(
            jax.eval_shape(lambda variables: init_state(variables, self.optimiser), self.shapes())
        )
        if OPTIMISER not in store.items(step):
            return self._converted(store, step, abstract, batches)
        optimiser_item = {"step": abstract.step, "opt_state": abstract.opt_state}
        wanted = {VARIABLES: abstract.variables, OPTIMISER: optimiser_item, PIPELINE: None}
        items = store.load(step, wanted)
        batches.set_state(items[PIPELINE])
        logging.info("going on after step %d", step)
        return TrainState(**items[OPTIMISER], **items[VARIABLES])

    def _converted(
        self, store: CheckpointStore, step: int, abstract: TrainState, batches: Any
    ) -> TrainState:
        """The state of a converted checkpoint: its network and, where it has them, Adam's moments.

        With moments the run goes on where they are from: schedules, epochs and the order of the
        data count the micro-batches that Adam's steps took. Without, it begins.
        """
        wanted: dict[str, Any] = {VARIABLES: abstract.variables}
        if ADAM in store.items(step):
            moments = {"mu": abstract.params, "nu": abstract.params}
            count = jax.ShapeDtypeStruct((), np.int32, sharding=self.layout.whole)
            wanted[ADAM] = {**moments, "count": count}
        items = store.load(step, wanted)
        state = init_state(items[VARIABLES], self.optimiser)
        if ADAM in items:
            done = int(items[ADAM]["count"]) * self.accumulate
            opt_state = _with_moments(state.opt_state, items[ADAM])
            state = state.replace(step=jnp.asarray(done, jnp.int32), opt_state=opt_state)
            batches.set_state(batches.get_state() | {"next_batch": done})
        return self.layout.place(state)


def initial_variables(
    model: FineCausal,
    frame_size: int,
    key: jax.Array,
    *,
    kinetics: str,
    resnet: str,
    draw: Callable[..., Any] = init_variables,
) -> Any:
    """Initial values, the trunks and ResNet-34 from files of pretrained weights.

    Args:
      model: the network.
      frame_size: height and width of its frames, pixels.
      key: fixes every random value.
      kinetics: file for both I3D trunks (`config.train.kinetics_i3d`); empty leaves them random.
      resnet: file for the static encoder (`config.train.imagenet_resnet34`); likewise.
      draw: gives random values of (model, frame_size, key).

    Raises:
      InputError: a file does not fit.
    """
    # First: drawing takes longer than refusing.
    pretrained = load_trunks(kinetics=kinetics, resnet=resnet, model=model)
    for file, name, trunk in (
        (kinetics, "kinetics_i3d", "base_model and the segmenter's trunk"),
        (resnet, "imagenet_resnet34", "the static encoder's ResNet-34"),
    ):
        if not file:
            logging.warning(
                "untrained, from random values: %s (config.train.%s names no file)", trunk, name
            )
    return merged(draw(model, frame_size, key), pretrained)


def _with_moments(opt_state: Any, adam: dict[str, Any]) -> Any:
    """An optimiser's state with Adam's moments; their count is that of the schedules too."""
    kinds = (optax.ScaleByAdamState, optax.ScaleByScheduleState)

    def replace(node: Any) -> Any:
        fields = {name: adam[name] for name in node._fields}
        # Several nodes hold the count, and a buffer can be donated once only.
        return node._replace(**{**fields, "count": jnp.copy(fields["count"])})

    return jax.tree.map(
        lambda node: replace(node) if isinstance(node, kinds) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, kinds),
    )
