"""Optimizers: one frozen dataclass a recipe, and the optax chain it stands for."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

Params = dict
"""A nested dict of float32 arrays."""


@dataclass(frozen=True)
class Recipe:
    """What every optimizer has: a learning rate, its course, clipping."""

    learning_rate: float = 1e-3
    """The highest learning rate of the run."""

    schedule: Literal["constant", "cosine"] = "constant"
    """`constant`, or `cosine`: down to `final` times the learning rate at the last step."""

    warmup: int = 0
    """Steps in which the learning rate rises from zero, in a straight line."""

    final: float = 0.0
    """Where the cosine ends, as a share of the learning rate."""

    clip_norm: float = 0.0
    """The gradient's global norm is scaled down to this; 0: no clipping."""

    loss_scale: float = 1.0
    """What the loss is multiplied with before its gradient is taken; reported losses are not."""


@dataclass(frozen=True)
class AdamW(Recipe):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), with warm-up and cosine."""

    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = 100
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """Acts on arrays of two or more axes; biases and other vectors are left alone."""


@dataclass(frozen=True)
class Adagrad(Recipe):
    """Adagrad (Duchi et al. 2011) as TensorFlow 1 has it: no epsilon beside the accumulator.

    The biLM's published recipe is learning rate 0.2, accumulator 1.0, clip norm 10 and the loss times the unrolled
    steps (`loss_scale=20`).
    """

    learning_rate: float = 0.2
    clip_norm: float = 10.0
    accumulator: float = 1.0
    """The sum of squares each parameter begins with."""


def schedule(recipe: Recipe, steps: int) -> optax.Schedule:
    """step (0 for the first) -> learning rate, for a run of `steps` steps."""
    peak = recipe.learning_rate
    match recipe.schedule:
        case "constant":
            course: optax.Schedule = optax.constant_schedule(peak)
        case "cosine":
            course = optax.cosine_decay_schedule(peak, max(steps - recipe.warmup, 1), alpha=recipe.final)
    if recipe.warmup == 0:
        return course
    # From peak / warmup, not from zero: the first step is to do something.
    rise = optax.linear_schedule(peak / recipe.warmup, peak, max(recipe.warmup - 1, 1))
    return optax.join_schedules([rise, course], [recipe.warmup])


def decayed(params: Params) -> Params:
    """Which parameters weight decay acts on: True at arrays of two or more axes."""
    return jax.tree.map(lambda array: jnp.ndim(array) >= 2, params)


def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """The optax chain of a recipe: clipping first, then the optimizer with its schedule."""
    rate = schedule(recipe, steps)
    match recipe:
        case Adagrad():
            # optax adds eps to the accumulator; zero makes its formula TensorFlow's.
            core = optax.adagrad(rate, initial_accumulator_value=recipe.accumulator, eps=0.0)
        case AdamW():
            core = optax.adamw(
                rate, recipe.beta1, recipe.beta2, recipe.epsilon, weight_decay=recipe.weight_decay, mask=decayed
            )
        case _:
            raise TypeError(f"no optimizer for {type(recipe).__name__}: give AdamW or Adagrad")
    return optax.chain(optax.clip_by_global_norm(recipe.clip_norm), core) if recipe.clip_norm else core


def apply_gradients(
    chain: optax.GradientTransformation, gradients: Params, state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """One update: (new params, new state).

    optax's Adam family mixes Python-made float32 and weak types in a way that strict promotion refuses, so its calls
    run under the standard one, here and nowhere else.
    """
    with jax.numpy_dtype_promotion("standard"):
        updates, state = chain.update(gradients, state, params)
        return optax.apply_updates(params, updates), state
