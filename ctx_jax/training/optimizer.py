"""Optimizers: a frozen config each, and the optax chain made from it.

Every layer has its own arrays, whether layers are scanned or not, so that whatever acts on a whole array or by its name
(weight decay, trust ratios, Muon, learning rates by depth) acts on each layer separately.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib
from tyro.conf import Fixed

from ctx_jax.encoders.base import Model
from ctx_jax.io.errors import ConfigError, InputTypeError
from ctx_jax.training.parameter_groups import ParameterGroup, decayed, matrices_of_layers, rate_factors
from ctx_jax.training.unfreezing import Unfreezing, gradually
from ctx_jax.typing import Params

Schedule = Literal["constant", "linear", "cosine", "trapezoid", "slanted_triangular"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of every optimizer."""

    learning_rate: float = 1e-3
    """The peak learning rate of the run."""

    schedule: Schedule = "constant"
    """After the warm-up: `constant`; `linear` or `cosine` decay to `final` times the learning rate, reached one step
    after the last; `trapezoid`: constant, then linear decay over the last `cooldown` of the run. `slanted_triangular`
    (Howard and Ruder 2018, equation 3): a line from 1 / `ratio` of the learning rate up to it during the warm-up, and
    one back down over the rest."""

    warmup: int | float = 0
    """Steps of linear warm-up from zero; below 1: a share of all steps (`cut_frac` of a slanted triangle)."""

    final: float = 0.0
    """The learning rate at the end of the schedule, as a fraction of the peak."""

    cooldown: float = 0.2
    """`trapezoid`: the fraction of all steps in which the learning rate decays."""

    ratio: float = 32.0
    """`slanted_triangular`: the highest learning rate divided by the lowest."""

    clip_norm: float = 0.0
    """Maximum global norm of the gradient; 0: no clipping."""

    loss_scale: float = 1.0
    """Factor of the loss when its gradient is taken; reported losses are not scaled."""

    layer_decay: float = 1.0
    """Each layer's learning rate is that of the layer above times this; embeddings come lowest. 1: all equal."""

    average: float = 0.0
    """Decay of an exponential moving average of the parameters, about 0.999 (lower in the first steps); evaluation,
    `load` and `export` use the average. 0: none."""

    groups: Fixed[tuple[ParameterGroup, ...]] = ()
    """Learning-rate factor, weight decay or freezing of parameters by patterns of their names. The first group that
    matches a name counts; its factor multiplies that of the task, and what the task freezes stays frozen. Set in a
    configuration file."""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class _AdamConfig(OptimizerConfig):
    """What the optimizers with Adam's moments have."""

    warmup: int | float = 100
    clip_norm: float = 1.0
    beta1: float = 0.9
    """Decay of the moving mean of the gradient."""
    beta2: float = 0.999
    """Decay of the moving mean of the squared gradient."""
    epsilon: float = 1e-8
    """Added to the divisor of an update, so that it is never zero."""
    weight_decay: float = 0.01
    """Acts on arrays of two or more axes, not on biases, norms and other vectors."""


@dataclass(frozen=True)
class AdamW(_AdamConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    schedule: Schedule = "cosine"


@dataclass(frozen=True)
class Lamb(_AdamConfig):
    """LAMB (You et al. 2020), for very large batches: Adam whose update of each array is scaled to the array's norm."""

    learning_rate: float = 2e-3
    schedule: Schedule = "linear"
    epsilon: float = 1e-6


@dataclass(frozen=True)
class Muon(_AdamConfig):
    """Muon (Jordan 2024) on the layers' matrices: orthogonalised momentum; AdamW on all other parameters.

    optax's momentum is Nesterov's with Adam's bias correction, which Jordan's own code lacks. Updates are scaled to the
    size of AdamW's (Liu et al. 2025, 0.2 sqrt(max(inputs, outputs))), so that both use one learning rate and one weight
    decay.
    """

    schedule: Schedule = "trapezoid"
    momentum: float = 0.95
    """Decay of the moving mean of a matrix's gradient."""
    beta2: float = 0.95
    weight_decay: float = 0.1


@dataclass(frozen=True)
class Adagrad(OptimizerConfig):
    """Adagrad (Duchi et al. 2011) as in TensorFlow 1: no epsilon besides the accumulator.

    The published biLM used learning rate 0.2, accumulator 1.0, clip norm 10, and multiplied the loss by the number of
    unrolled steps (`loss_scale=20`).
    """

    learning_rate: float = 0.2
    clip_norm: float = 10.0
    accumulator: float = 1.0
    """Initial sum of squares of each parameter."""


_FROM_ZERO = ("learning_rate", "warmup", "final", "clip_norm", "weight_decay", "accumulator")
_ABOVE_ZERO = ("loss_scale", "epsilon")
_FROM_ONE = ("ratio",)
_SHARES = ("layer_decay", "average", "cooldown")
_MEMORIES = ("beta1", "beta2", "momentum")  # at 1 Adam's bias correction would divide by zero


def _check(config: OptimizerConfig) -> None:
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        wrong = ""
        if name in _FROM_ZERO and not 0 <= value < math.inf:
            wrong = "at least 0"
        elif name in _ABOVE_ZERO and not 0 < value < math.inf:
            wrong = "above 0"
        elif name in _FROM_ONE and not 1 <= value < math.inf:
            wrong = "at least 1"
        elif name in _SHARES and not 0 <= value <= 1:
            wrong = "between 0 and 1"
        elif name in _MEMORIES and not 0 <= value < 1:
            wrong = "at least 0 and below 1"
        if wrong:
            raise ConfigError(f"optimizer.{name}", f"must be {wrong}, got {value}")
    if config.schedule == "slanted_triangular":
        if not config.warmup:
            raise ConfigError("optimizer.warmup", "is 0, and a slanted triangle rises first: set 0.1, for example")
        if config.final:
            raise ConfigError("optimizer.final", "is for other schedules; a slanted triangle ends by `ratio`")


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """step (0 for the first) -> learning rate, for a run of `steps` steps."""
    warmup = round(config.warmup * steps) if config.warmup < 1 else int(config.warmup)
    peak, rest = config.learning_rate, max(steps - warmup, 1)
    match config.schedule:
        case "slanted_triangular":
            return _slanted_triangle(config, steps)
        case "constant":
            after_warmup: optax.Schedule = optax.constant_schedule(peak)
        case "linear":
            after_warmup = optax.linear_schedule(peak, peak * config.final, rest)
        case "cosine":
            after_warmup = optax.cosine_decay_schedule(peak, rest, alpha=config.final)
        case "trapezoid":
            falling = min(max(round(config.cooldown * steps), 1), rest)
            after_warmup = optax.linear_schedule(peak, peak * config.final, falling, transition_begin=rest - falling)
    if warmup == 0:
        return after_warmup
    # From peak / warmup, not from zero, so that the first step changes the parameters.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after_warmup], [warmup])


def _slanted_triangle(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Howard and Ruder 2018, equation 3; of a warm-up in steps these are `cut`. Where T * cut_frac is no whole number
    their line ends below the lowest rate in the last steps; here it stays there."""
    if config.warmup < 1:
        share = Fraction(str(config.warmup))  # in floats 0.29 * 100 is below 29
        cut = max(math.floor(share * steps), 1)
        falling = float(cut * (1 / share - 1))
    else:
        cut = max(min(int(config.warmup), steps), 1)
        falling = float(steps - cut)
    falling = max(falling, 1.0)

    def rate(step: Any) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        p = jnp.where(t < cut, t / cut, jnp.maximum(1.0 - (t - cut) / falling, 0.0))
        return config.learning_rate * (1.0 + p * (config.ratio - 1.0)) / config.ratio

    return rate


def optimizer(
    config: OptimizerConfig,
    steps: int,
    *,
    model: Model | None = None,
    task_groups: Sequence[ParameterGroup] = (),
    unfreezing: Unfreezing | None = None,
) -> optax.GradientTransformation:
    """The optax chain of a config: clipping first, then the optimizer with its schedule, then the rate factors.

    `layer_decay`, Muon and `unfreezing` (None: all is trained from the start) need the layers of `model`. The groups of
    the config and of the task count together, see `parameter_groups.group_of`. The chain is for trainable parameters
    only, see `parameter_groups.split_frozen`.
    """
    rate = learning_rate_schedule(config, steps)
    clip = [clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    mask = partial(decayed, groups=config.groups, task_groups=task_groups)
    core: Callable[[optax.Schedule], optax.GradientTransformation] = partial(_core, config, model, mask)
    if unfreezing is not None:
        if model is None:
            raise ConfigError("unfreeze_every", "needs the number of layers: give model=")
        parts = [gradually(core, rate, model, unfreezing, clip)]
    else:
        parts = [*clip, core(rate)]
    groups = (*config.groups, *task_groups)
    if config.layer_decay != 1.0 or any(group.learning_rate_factor != 1.0 for group in groups):

        def scaled(updates: Params, _: Params | None) -> Params:
            factors = rate_factors(updates, config.groups, config.layer_decay, model, task_groups)
            return jax.tree.map(lambda update, factor: update * factor, updates, factors)

        parts.append(optax.stateless(scaled))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _core(
    config: OptimizerConfig, model: Model | None, mask: Callable[[Params], Any], rate: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer alone; `mask` says which parameters weight decay acts on."""
    match config:
        case Adagrad():
            # optax adds eps to the accumulator; zero makes its formula TensorFlow's.
            return optax.adagrad(rate, initial_accumulator_value=config.accumulator, eps=0.0)
        case AdamW() | Lamb():
            make = optax.adamw if isinstance(config, AdamW) else optax.lamb
            return make(rate, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay, mask=mask)
        case Muon():
            return _muon(config, rate, mask, model)
        case _:
            raise InputTypeError(f"no optimizer for {type(config).__name__}: give AdamW, Lamb, Muon or Adagrad")


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Gradients times min(1, `largest` / their global norm).

    optax's divides by the norm before it multiplies, and XLA keeps that quotient of every gradient in memory: on a CPU
    all of AdamW took 2.7 times as long.
    """

    def scaled(gradients: Params, _: Params | None) -> Params:
        factor = largest / jnp.maximum(optax.tree.norm(gradients), largest)
        return jax.tree.map(lambda gradient: gradient * factor.astype(gradient.dtype), gradients)

    return optax.stateless(scaled)


def _muon(
    config: Muon, rate: optax.Schedule, mask: Callable[[Params], Any], model: Model | None
) -> optax.GradientTransformation:
    if model is None:
        raise ConfigError("optimizer", "Muon acts on the matrices of a model's layers: give model=")
    matrices = contrib.muon(
        rate,
        beta=config.momentum,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        weight_decay_mask=mask,
        consistent_rms=0.2,
    )
    # The AdamW built into contrib.muon has no mask for its weight decay.
    rest = optax.adamw(rate, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay, mask=mask)

    def labels(params: Params) -> Any:
        return jax.tree.map(lambda flag: "muon" if flag else "adamw", matrices_of_layers(params, model))

    return optax.partition({"muon": matrices, "adamw": rest}, labels)


def apply_gradients(
    chain: optax.GradientTransformation, gradients: Params, moments: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """One update of the parameters and of the optimizer's state: (new params, new moments).

    optax's Adam mixes float32 and weak types in a way that strict promotion refuses, so the call runs under standard
    promotion.
    """
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = chain.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments


def averaged(config: OptimizerConfig, average: Params, params: Params, step: jax.Array) -> Params:
    """The moving average after step `step` (0 for the first): decay * average + (1 - decay) * params.

    The decay rises as (1 + step) / (10 + step) up to `config.average`, so that the initial parameters soon lose weight.
    """
    count = step.astype(jnp.float32)
    decay = jnp.minimum(config.average, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, average, params)
