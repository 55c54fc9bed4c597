"""Gradual unfreezing (Howard and Ruder 2018, section 3.3): training begins at the top, and every so many steps one
more layer joins.

What is trained at a step follows from the step alone, so a resumed run does as an uninterrupted one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctx_jax.encoders.base import Model
from ctx_jax.training.parameter_groups import depth_of, map_named
from ctx_jax.typing import Params


@dataclass(frozen=True)
class Unfreezing:
    """When the parameters of an encoder are first trained."""

    every: int
    """Steps after which one more layer is trained."""
    fresh_layers: int = 0
    """So many top layers begin random and are trained with the head, from the start."""


class Delayed(NamedTuple):
    """The state of a group of parameters."""

    step: jax.Array  # int32, steps of the run done
    inner: optax.OptState  # unchanged until the group's first step


def first_steps(params: Params, model: Model, unfreezing: Unfreezing) -> Any:
    """How many steps are done before each parameter is first trained, a tree of ints, of F fresh layers:

    heads, fresh layers         0
    last layer, final norm      every, 0 if F > 0
    layer i = L - 1 ... 1       every * (L - i - F)
    embeddings                  every * (L - F)
    """
    layers = model.num_layers

    def first(name: str, _: Any) -> int:
        if not name.startswith("encoder/"):
            return 0
        above = layers - min(depth_of(name, model), layers - 1)
        return unfreezing.every * max(above - unfreezing.fresh_layers, 0)

    return map_named(first, params)


def gradually(
    core: Callable[[optax.Schedule], optax.GradientTransformation],
    rate: optax.Schedule,
    model: Model,
    unfreezing: Unfreezing,
    clip: Sequence[optax.GradientTransformation] = (),
) -> optax.GradientTransformation:
    """`core(rate)` for each group of parameters from its first step on. Before it, a group has no update, no weight
    decay and no change of the optimizer's state, and its gradients are 0 for `clip`, what comes before the
    optimizer and sees all groups.

    A group's moments begin at its first step, with the bias correction of first steps; the rate is that of the run.
    """
    firsts = [unfreezing.every * layer for layer in range(model.num_layers - unfreezing.fresh_layers + 1)]
    groups = {_label(first): _delayed(core(partial(_shifted, rate, first)), first) for first in firsts}

    def labels(params: Params) -> Any:
        return jax.tree.map(_label, first_steps(params, model, unfreezing))

    return optax.chain(_open_gradients(model, unfreezing), *clip, optax.partition(groups, labels))


def _label(first: int) -> str:
    return f"from_{first}"


def _shifted(rate: optax.Schedule, first: int, count: Any) -> Any:
    """The rate of the run after `count` updates of a group."""
    return rate(count + first)


def _open_gradients(model: Model, unfreezing: Unfreezing) -> optax.GradientTransformation:
    """Gradients with zeros where a parameter is not trained yet."""

    def update(gradients: Params, step: jax.Array, params: Params | None = None) -> tuple[Params, jax.Array]:
        firsts = first_steps(gradients, model, unfreezing)
        return jax.tree.map(lambda array, first: jnp.where(step >= first, array, 0), gradients, firsts), step + 1

    return optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), update)


def _delayed(core: optax.GradientTransformation, first: int) -> optax.GradientTransformation:
    """`core` from step `first` on (0 for the first step of the run); no update and its initial state before."""

    def init(params: Params) -> Delayed:
        return Delayed(jnp.zeros((), jnp.int32), core.init(params))

    def update(gradients: Params, state: Delayed, params: Params | None = None) -> tuple[Params, Delayed]:
        updates, inner = core.update(gradients, state.inner, params)
        trained = state.step >= first
        updates = jax.tree.map(lambda array: jnp.where(trained, array, 0), updates)
        inner = jax.tree.map(lambda new, old: jnp.where(trained, new, old), inner, state.inner)
        return updates, Delayed(state.step + 1, inner)

    return optax.GradientTransformation(init, update)
