"""Adam over sums of gradients, built from plain settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from finecausal_jax.runtime.errors import InputError
from finecausal_jax.training.schedule import Schedule, optax_schedules


@dataclasses.dataclass(frozen=True)
class OptimiserSettings:
    """Adam with the reference's rates; see `make_optimiser`.

    Attributes:
      schedule: learning rates by micro-batch.
      accumulate: micro-batches whose gradients one step adds up (sums, as the reference does).
      clip_norm: largest global norm of the summed gradient; 0 for no limit, as in the reference.

    Raises:
      InputError: `clip_norm` is negative.
    """

    schedule: Schedule
    accumulate: int = 2
    clip_norm: float = 0.0

    def __post_init__(self):
        if not self.clip_norm >= 0:
            raise InputError(
                f"optimiser: clip_norm is {self.clip_norm}, expected a norm, or 0 for no limit"
            )


class ParameterUpdate(NamedTuple):
    """An `optax.GradientTransformation` that gives new parameters instead of what to add to them.

    Attributes:
      init: params -> opt_state.
      apply: (gradients, opt_state, params) -> (params, opt_state).
    """

    init: Callable[[Any], Any]
    apply: Callable[[Any, Any, Any], tuple[Any, Any]]


def make_optimiser(settings: OptimiserSettings) -> ParameterUpdate:
    """Adam without weight decay, with one rate for `base_model` and one for all else.

    The state is optax's: that of a chain, inside `optax.MultiStepsState` where gradients are
    accumulated.

    Raises:
      InputError: `settings.accumulate` is less than 1.
    """
    schedules = optax_schedules(settings.schedule, settings.accumulate)

    def adam(rates: Mapping[str, Callable[[Any], Any]]) -> optax.GradientTransformation:
        scale = {group: optax.scale_by_learning_rate(rate) for group, rate in rates.items()}
        clip = settings.clip_norm
        return optax.chain(
            optax.clip_by_global_norm(clip) if clip else optax.identity(),
            optax.scale_by_adam(),  # `accumulate` below finds its state by this place
            optax.multi_transform(scale, _groups),
        )

    def step(
        gradients: Any, state: Any, params: Any, rates: Mapping[str, Callable[[Any], Any]]
    ) -> tuple[Any, Any]:
        updates, state = adam(rates).update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    if settings.accumulate == 1:
        return ParameterUpdate(
            adam(schedules).init,
            lambda gradients, state, params: step(gradients, state, params, schedules),
        )
    steps = optax.MultiSteps(adam(schedules), settings.accumulate, use_grad_mean=False)

    def accumulate(
        gradients: Any, state: optax.MultiStepsState, params: Any
    ) -> tuple[Any, optax.MultiStepsState]:
        """As `steps.update`, which computes Adam's step every time and then drops it or not.

        A loop of one round or none computes it where it is due, and in place: `lax.cond` would copy
        the parameters.
        """
        is_due = state.mini_step == settings.accumulate - 1
        # Here, since inside the loop XLA would compute a schedule once for each parameter array.
        done = state.inner_opt_state[1].count  # Adam's, which a converted checkpoint brings along
        now = {group: rate(done) for group, rate in schedules.items()}
        rates = {group: lambda _, value=value: value for group, value in now.items()}

        def due(_: Any, carry: Any) -> Any:
            params, inner, total = carry
            params, inner = step(total, inner, params, rates)
            return params, inner, jax.tree.map(jnp.zeros_like, total)

        total = jax.tree.map(jnp.add, state.acc_grads, gradients)
        carry = params, state.inner_opt_state, total
        params, inner, total = jax.lax.fori_loop(0, is_due.astype(jnp.int32), due, carry)
        after = state._replace(
            mini_step=(state.mini_step + 1) % settings.accumulate,
            gradient_step=state.gradient_step + is_due,
            inner_opt_state=inner,
            acc_grads=total,
        )
        return params, after

    return ParameterUpdate(steps.init, accumulate)


def _groups(params: Any) -> Any:
    return {
        module: jax.tree.map(
            lambda _, m=module: "base_model" if m == "base_model" else "rest", tree
        )
        for module, tree in params.items()
    }
