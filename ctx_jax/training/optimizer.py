"""Optimizers: one frozen dataclass a recipe, and the optax chain it stands for.

Parameters have one layout, a layer's by the layer's name, so that what acts on a whole array or by its name (decay
masks, trust ratios, Muon, rates by depth) acts on each layer, scanned or not.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from ctx_jax.io.errors import InputError, InputTypeError

Params = dict
"""A nested dict of float32 arrays."""

Schedule = Literal["constant", "linear", "cosine", "trapezoid"]


@dataclass(frozen=True)
class Recipe:
    """What every optimizer has: a learning rate, its course, clipping, an average of what it finds."""

    learning_rate: float = 1e-3
    """The highest learning rate of the run."""

    schedule: Schedule = "constant"
    """After the warm-up: `constant`; `linear` or `cosine`, down to `final` times the learning rate where the run ends
    (the step after the last would have it); `trapezoid`, constant and then down in a straight line over the last
    `cooldown` of the run."""

    warmup: int = 0
    """Steps in which the learning rate rises from zero, in a straight line."""

    final: float = 0.0
    """Where the course ends, as a share of the learning rate."""

    cooldown: float = 0.2
    """`trapezoid`: the share of all steps in which the learning rate falls."""

    clip_norm: float = 0.0
    """The gradient's global norm is scaled down to this; 0: no clipping."""

    loss_scale: float = 1.0
    """What the loss is multiplied with before its gradient is taken; reported losses are not."""

    layer_decay: float = 1.0
    """Each layer learns at this share of the rate of the one above it, the embeddings at the least. 1: all alike."""

    average: float = 0.0
    """Keep a moving average of the parameters that holds on to this share of itself at each step, 0.999 or so, less in
    the first steps; evaluation, `load` and `export` use it. 0: none."""


@dataclass(frozen=True)
class AdamW(Recipe):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), with warm-up and cosine."""

    schedule: Schedule = "cosine"
    warmup: int = 100
    clip_norm: float = 1.0
    beta1: float = 0.9
    """How much of the gradient's moving mean each step keeps."""
    beta2: float = 0.999
    """How much of the moving mean of the gradient's squares each step keeps."""
    epsilon: float = 1e-8
    """What is added to the root of those squares, by which the mean is divided."""
    weight_decay: float = 0.01
    """Acts on arrays of two or more axes; biases, norms and other vectors are left alone."""


@dataclass(frozen=True)
class Lamb(Recipe):
    """LAMB (You et al. 2020): Adam whose step on an array is as long as the array, for very large batches."""

    learning_rate: float = 2e-3
    schedule: Schedule = "linear"
    warmup: int = 100
    clip_norm: float = 1.0
    beta1: float = 0.9
    """How much of the gradient's moving mean each step keeps."""
    beta2: float = 0.999
    """How much of the moving mean of the gradient's squares each step keeps."""
    epsilon: float = 1e-6
    """What is added to the root of those squares, by which the mean is divided."""
    weight_decay: float = 0.01
    """Acts on arrays of two or more axes; biases, norms and other vectors are left alone."""


@dataclass(frozen=True)
class Muon(Recipe):
    """Muon (Jordan 2024) on the layers' matrices: momentum made orthogonal; AdamW on all else.

    The momentum is optax's: Nesterov's with Adam's correction of the first steps, which Jordan's own code has not.
    Steps are scaled to the size of AdamW's (Liu et al. 2025, 0.2 sqrt(max(inputs, outputs))), so that one learning rate
    and one weight decay serve both.
    """

    schedule: Schedule = "trapezoid"
    warmup: int = 100
    clip_norm: float = 1.0
    momentum: float = 0.95
    """How much of the matrices' moving gradient each step keeps."""
    beta1: float = 0.9
    """How much of the gradient's moving mean each step keeps."""
    beta2: float = 0.95
    """How much of the moving mean of the gradient's squares each step keeps."""
    epsilon: float = 1e-8
    """What is added to divisors, so that none is zero."""
    weight_decay: float = 0.1
    """Acts on arrays of two or more axes; biases, norms and other vectors are left alone."""


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


_FROM_ZERO = ("learning_rate", "warmup", "final", "clip_norm", "weight_decay", "accumulator")
_ABOVE_ZERO = ("loss_scale", "epsilon")
_SHARES = ("layer_decay", "average", "cooldown")
_MEMORIES = ("beta1", "beta2", "momentum")  # 1: nothing new ever enters, and Adam's correction divides by zero


def check_recipe(recipe: Recipe) -> None:
    """ValueError, naming the flag, for numbers outside their range."""
    for field in fields(recipe):
        name, value = field.name, getattr(recipe, field.name)
        wrong = ""
        if name in _FROM_ZERO and not 0 <= value < math.inf:
            wrong = "at least 0"
        elif name in _ABOVE_ZERO and not 0 < value < math.inf:
            wrong = "above 0"
        elif name in _SHARES and not 0 <= value <= 1:
            wrong = "between 0 and 1"
        elif name in _MEMORIES and not 0 <= value < 1:
            wrong = "at least 0 and below 1"
        if wrong:
            raise InputError(f"--optimizer.{name.replace('_', '-')} must be {wrong}, not {value}")


def schedule(recipe: Recipe, steps: int) -> optax.Schedule:
    """step (0 for the first) -> learning rate, for a run of `steps` steps."""
    peak, rest = recipe.learning_rate, max(steps - recipe.warmup, 1)
    match recipe.schedule:
        case "constant":
            course: optax.Schedule = optax.constant_schedule(peak)
        case "linear":
            course = optax.linear_schedule(peak, peak * recipe.final, rest)
        case "cosine":
            course = optax.cosine_decay_schedule(peak, rest, alpha=recipe.final)
        case "trapezoid":
            falling = min(max(round(recipe.cooldown * steps), 1), rest)
            course = optax.linear_schedule(peak, peak * recipe.final, falling, transition_begin=rest - falling)
    if recipe.warmup == 0:
        return course
    # From peak / warmup, not from zero: the first step is to do something.
    rise = optax.linear_schedule(peak / recipe.warmup, peak, max(recipe.warmup - 1, 1))
    return optax.join_schedules([rise, course], [recipe.warmup])


_UNDECAYED = re.compile(r"(^|/)(bias|gate_bias|(\w+_)?norm(/\w+)?)$")
_LAYER = re.compile(r"^(layer|forward|backward)_(\d+)(/|$)")
_BELOW = re.compile(r"^(embeddings|characters|words|convolution_\d+|highway_\d+|projection)(/|$)")
_MATRIX = re.compile(r"^(layer|forward|backward)_\d+/(\w+/)?(kernel|projection)$")


def named(params: Params) -> dict[str, Any]:
    """ "layer_0/query/kernel" -> array, and so on, in the tree's order."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(step.key) for step in path)


def decayed(params: Params) -> Params:
    """Which parameters weight decay acts on: True at arrays of two or more axes that are no bias and of no norm."""
    return jax.tree_util.tree_map_with_path(
        lambda path, array: jnp.ndim(array) >= 2 and not _UNDECAYED.search(_name(path)), params
    )


def depth_rates(params: Params, layer_decay: float) -> Params:
    """The share of the learning rate for each array, by its depth, a Python float:

    embeddings             layer_decay ** (L + 1)         of L layers
    layer_0 ... layer_L-1  layer_decay ** L ... layer_decay ** 1
    heads, final norm      1
    """
    numbers = [int(found[2]) for name in named(params) if (found := _LAYER.match(name))]
    layers = 1 + max(numbers, default=-1)

    def rate(path: tuple[Any, ...], _: Any) -> float:
        name = _name(path)
        if found := _LAYER.match(name):
            return float(layer_decay ** (layers - int(found[2])))
        return float(layer_decay ** (layers + 1)) if _BELOW.match(name) else 1.0

    return jax.tree_util.tree_map_with_path(rate, params)


def orthogonalized(params: Params) -> Params:
    """Which optimizer moves which array under `Muon`: "muon" the matrices of the layers, "adamw" all else."""
    return jax.tree_util.tree_map_with_path(
        lambda path, array: "muon" if jnp.ndim(array) == 2 and _MATRIX.match(_name(path)) else "adamw", params
    )


def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """The optax chain of a recipe: clipping first, then the optimizer with its schedule, then rates by depth."""
    rate = schedule(recipe, steps)
    match recipe:
        case Adagrad():
            # optax adds eps to the accumulator; zero makes its formula TensorFlow's.
            core = optax.adagrad(rate, initial_accumulator_value=recipe.accumulator, eps=0.0)
        case AdamW():
            core = optax.adamw(
                rate, recipe.beta1, recipe.beta2, recipe.epsilon, weight_decay=recipe.weight_decay, mask=decayed
            )
        case Lamb():
            core = optax.lamb(
                rate, recipe.beta1, recipe.beta2, recipe.epsilon, weight_decay=recipe.weight_decay, mask=decayed
            )
        case Muon():
            core = _muon(recipe, rate)
        case _:
            raise InputTypeError(f"no optimizer for {type(recipe).__name__}: give AdamW, Lamb, Muon or Adagrad")
    parts = [optax.clip_by_global_norm(recipe.clip_norm)] if recipe.clip_norm else []
    parts.append(core)
    if recipe.layer_decay != 1.0:
        parts.append(optax.stateless(lambda updates, _: _scaled(updates, recipe.layer_decay)))
    return optax.chain(*parts) if len(parts) > 1 else core


def _muon(recipe: Muon, rate: optax.Schedule) -> optax.GradientTransformation:
    matrices = contrib.muon(
        rate, beta=recipe.momentum, eps=recipe.epsilon, weight_decay=recipe.weight_decay, consistent_rms=0.2
    )
    # contrib.muon's own AdamW for the rest has no mask for its weight decay.
    rest = optax.adamw(rate, recipe.beta1, recipe.beta2, recipe.epsilon, weight_decay=recipe.weight_decay, mask=decayed)
    return optax.partition({"muon": matrices, "adamw": rest}, orthogonalized)


def _scaled(updates: Params, layer_decay: float) -> Params:
    return jax.tree.map(lambda update, share: update * share, updates, depth_rates(updates, layer_decay))


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


def averaged(recipe: Recipe, average: Params, params: Params, step: jax.Array) -> Params:
    """The moving average after step `step` (0 for the first): decay * average + (1 - decay) * params.

    The decay rises as (1 + step) / (10 + step) up to `recipe.average`, so that the first parameters are soon forgotten.
    """
    count = step.astype(jnp.float32)
    decay = jnp.minimum(recipe.average, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, average, params)
