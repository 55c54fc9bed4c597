"""The training step: one function for any objective, device mode and number of micro-batches.

Its only collectives are the functions of `Collectives`. Letters: B rows of a batch on one device, M micro-batches.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctx_jax.checkpoints.frozen import merge_params
from ctx_jax.training.micro_batches import Arrays, compared_gradients, divided, joined, weighted_sum
from ctx_jax.training.optimizer import OptimizerConfig, apply_gradients, averaged, optimizer
from ctx_jax.training.parameter_groups import named, split_frozen
from ctx_jax.training.task import ComparesRows, Task, UnfreezesGradually
from ctx_jax.training.unfreezing import first_steps
from ctx_jax.typing import Carry, Params, Terms

INIT = 2**32 - 1
"""Folded into the seed for the initial parameters; larger than any step number."""


class Totals(NamedTuple):
    """Sums since the last line of metrics.jsonl, kept on the device so that no step waits for them."""

    terms: Terms
    gradient_norm: jax.Array  # of the last step, before clipping
    bad: jax.Array  # int32, the first step whose loss or gradient was not finite; -1: none


class State(NamedTuple):
    """All that a step updates, and what a checkpoint holds. Frozen parameters are kept separately."""

    step: jax.Array  # int32, steps done
    params: Params  # the trainable ones
    average: Params | tuple[()]  # of the parameters over time; () where the optimizer keeps none
    optimizer: optax.OptState
    carry: Carry  # [B, ...], the only part with rows
    totals: Totals


class GradientOutput(NamedTuple):
    """Gradients, loss sums and weights over all devices, and the new carry of this device's rows."""

    gradients: Any  # a tree like the trainable parameters
    sums: Arrays  # {term: sum}
    weights: Arrays  # {term: weight}
    carry: Carry


def identity(tree: Any) -> Any:
    """The same tree. A named function, so that `jit` finds what it compiled before."""
    return tree


class Collectives(NamedTuple):
    """What the step calls to communicate between devices; the defaults are for a single device."""

    psum: Callable[[Any], Any] = identity
    """The sum of a tree over the devices."""
    view: Callable[[Params, Params], Params] = merge_params
    """(trainable, frozen) parameters as stored on a device -> the parameters that the model reads."""
    sum_gradients: Callable[[Any], Any] | None = None
    """The sum over the devices of a gradient with respect to a device's shards; None: `psum`."""
    gather: Callable[[Any], Any] = identity
    """A tree of arrays [B, ...] of one device -> of the rows of all devices."""


def params_to_measure(state: State, frozen: Params) -> Params:
    """The parameters that evaluators get: the average if there is one, else the current ones, and the frozen ones."""
    return merge_params(state.average or state.params, frozen)


class TrainingStep:
    """The step of a task under an optimizer: gradients of a device's rows, then the update."""

    def __init__(self, task: Task, config: OptimizerConfig, steps: int, seed: int, micro_batches: int = 1) -> None:
        """`steps`: of the whole run, which the learning rate schedule depends on."""
        self.task, self.steps, self.seed, self.micro_batches = task, steps, seed, micro_batches
        self.config = config
        self.unfreezing = task.unfreezing if isinstance(task, UnfreezesGradually) else None
        self.chain = optimizer(config, steps, model=task.model, task_groups=task.groups, unfreezing=self.unfreezing)

    @cached_property
    def all_trained_from(self) -> int:
        """Steps done before the parameters that are unfrozen last are first trained; 0 where all are from the start."""
        if self.unfreezing is None:
            return 0
        params = jax.eval_shape(self.initial)[0].params
        return int(max(named(first_steps(params, self.task.model, self.unfreezing)).values()))

    def zero_totals(self) -> Totals:
        """The totals of no steps."""
        return Totals(
            {name: (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)) for name in self.task.coefficients},
            gradient_norm=jnp.zeros((), jnp.float32),
            bad=jnp.full((), -1, jnp.int32),
        )

    def initial(self) -> tuple[State, Params]:
        """The state before the first step, with fresh parameters, and the frozen parameters."""
        params, frozen = self._split(self.task.init(jax.random.fold_in(jax.random.key(self.seed), INIT)))
        state = State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            average=jax.tree.map(jnp.copy, params) if self.config.average else (),
            optimizer=self.chain.init(params),
            carry=self.task.zero_carry(self.task.batch_size),
            totals=self.zero_totals(),
        )
        return state, frozen

    def with_params(self, state: State, params: Params) -> tuple[State, Params]:
        """An initial state and frozen parameters with the values of `params`."""
        params, frozen = self._split(params)
        # A copy: the step donates its state, and a buffer can be donated only once.
        average = jax.tree.map(jnp.copy, params) if state.average else ()
        return state._replace(params=params, average=average), frozen

    def _split(self, params: Params) -> tuple[Params, Params]:
        """(trainable, frozen) parameters."""
        return split_frozen(params, self.config.groups, self.task.groups)

    def key(self, state: State) -> jax.Array:
        """The key of the step that `state` is about to take."""
        return jax.random.fold_in(jax.random.key(self.seed), state.step)

    def gradient_output(
        self, params: Params, frozen: Params, batch: Any, carry: Carry, key: jax.Array, collectives: Collectives
    ) -> GradientOutput:
        """Gradients and sums of this device's rows; `params` and `frozen` as stored on the device."""
        if isinstance(self.task, ComparesRows):
            return self._compared(params, frozen, batch, carry, key, collectives)
        # Only the weights of this first loss are used; XLA removes the rest of the computation.
        terms, _ = self.task.loss(collectives.view(params, frozen), batch, carry, key)
        weights, scales = self._scales(terms, collectives)

        def scaled(params: Params, batch: Any, carry: Carry) -> tuple[jax.Array, tuple[Arrays, Carry]]:
            terms, carry = self.task.loss(collectives.view(params, frozen), batch, carry, key)
            return weighted_sum(terms, scales), ({name: terms[name][0] for name in scales}, carry)

        gradients, sums, carry = _accumulated(
            jax.grad(scaled, has_aux=True), params, batch, carry, list(scales), self.micro_batches
        )
        return _over_devices(gradients, sums, weights, carry, collectives)

    def _scales(self, terms: Terms, collectives: Collectives) -> tuple[Arrays, Arrays]:
        """The weights of the terms over all devices, and what each sum is multiplied by in the total loss."""
        coefficients = self.task.coefficients
        weights = collectives.psum({name: terms[name][1] for name in coefficients})
        return weights, {
            # A term without targets counts as 0, not 0 / 0.
            name: self.config.loss_scale * factor / jnp.where(weights[name] > 0, weights[name], 1.0)
            for name, factor in coefficients.items()
        }

    def _compared(
        self, params: Params, frozen: Params, batch: Any, carry: Carry, key: jax.Array, collectives: Collectives
    ) -> GradientOutput:
        """`gradient_output` of a task that compares rows."""
        task: Any = self.task

        def vectors(params: Params, batch: Any) -> Any:
            return task.row_vectors(collectives.view(params, frozen), batch, key)

        def compare(vectors: Any) -> Terms:
            return task.compare(vectors, batch, collectives.gather)

        def scales(terms: Terms) -> tuple[Arrays, Arrays]:
            return self._scales(terms, collectives)

        gradients, sums, weights = compared_gradients(vectors, compare, scales, params, batch, self.micro_batches)
        return _over_devices(gradients, sums, weights, carry, collectives)

    def update(self, state: State, output: GradientOutput) -> State:
        """The state after the step."""
        params, moments = apply_gradients(self.chain, output.gradients, state.optimizer, state.params)
        average = averaged(self.config, state.average, params, state.step) if state.average else ()
        norm = optax.tree.norm(output.gradients)
        finite = jnp.isfinite(norm)
        for value in output.sums.values():
            finite &= jnp.isfinite(value)
        bad = jnp.where((state.totals.bad < 0) & ~finite, state.step + 1, state.totals.bad)
        before = state.totals.terms
        terms = {
            name: (before[name][0] + output.sums[name], before[name][1] + output.weights[name]) for name in output.sums
        }
        return State(state.step + 1, params, average, moments, output.carry, Totals(terms, norm, bad))

    def __call__(self, state: State, frozen: Params, batch: Any, collectives: Collectives = Collectives()) -> State:  # noqa: B008
        """One step over this device's rows."""
        output = self.gradient_output(state.params, frozen, batch, state.carry, self.key(state), collectives)
        return self.update(state, output)


def _over_devices(
    gradients: Any, sums: Arrays, weights: Arrays, carry: Carry, collectives: Collectives
) -> GradientOutput:
    """With gradients and sums over all devices."""
    if collectives.sum_gradients is None:
        gradients, sums = collectives.psum((gradients, sums))
    else:
        gradients, sums = collectives.sum_gradients(gradients), collectives.psum(sums)
    return GradientOutput(gradients, sums, weights, carry)


def _accumulated(
    gradient: Callable[..., Any], params: Params, batch: Any, carry: Carry, terms: list[str], micro_batches: int
) -> tuple[Any, Arrays, Carry]:
    """(gradient, {term: sum}, new carry) of B rows, summed over M micro-batches."""
    if micro_batches == 1:
        gradients, (sums, carry) = gradient(params, batch, carry)
        return gradients, sums, carry

    def add(totals: tuple[Any, Arrays], part: tuple[Any, Carry]) -> tuple[tuple[Any, Arrays], Carry]:
        gradients, (sums, carry) = gradient(params, *part)
        return jax.tree.map(jnp.add, totals, (gradients, sums)), carry

    zeros = (jax.tree.map(jnp.zeros_like, params), {name: jnp.zeros((), jnp.float32) for name in terms})
    (gradients, sums), carry = jax.lax.scan(add, zeros, divided((batch, carry), micro_batches))
    return gradients, sums, joined(carry)
