"""The training step: one body, free of collectives, for any objective, device mode and number of micro-batches.

Letters: B rows of a device's share of the batch, M micro-batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctx_jax.io.errors import InputError
from ctx_jax.training.optimizer import Recipe, apply_gradients, averaged, optimizer
from ctx_jax.training.task import Carry, Objective, Params, Terms

Arrays = dict[str, jax.Array]

INIT = 2**32 - 1
"""What the seed is folded with for the initial parameters: a number no step reaches."""


class Totals(NamedTuple):
    """What a line of metrics.jsonl is made of: sums since the line before, kept on the device so that no step waits."""

    terms: Terms
    gradient_norm: jax.Array  # of the last step, before clipping
    bad: jax.Array  # int32, the first step whose loss or gradient was not finite; -1: none


class State(NamedTuple):
    """All that a step reads and writes; a checkpoint holds exactly this, whole and once."""

    step: jax.Array  # int32, steps done
    params: Params
    average: Params | tuple[()]  # of the parameters over time; () where the recipe keeps none
    optimizer: optax.OptState
    carry: Carry  # [B, ...], the only part of rows
    totals: Totals


class Found(NamedTuple):
    """What rows say of the parameters."""

    slopes: Any  # the gradient of what is minimised, a tree like the parameters
    sums: Arrays  # of each term
    weights: Arrays  # of each term
    carry: Carry


Share = Callable[[Any, Arrays, Carry, jax.Array], Found]
"""(params, batch, carry, the step's key) -> what the rows of all devices found, and the new carry of those given."""


def _as_it_is(share: Share) -> Share:
    return share


def params_to_measure(state: State) -> Params:
    """The parameters that evaluation and reports see: the average where there is one."""
    return state.average or state.params


def zero_totals(objective: Objective) -> Totals:
    """Of no steps."""
    return Totals(
        {name: (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)) for name in objective.coefficients},
        gradient_norm=jnp.zeros((), jnp.float32),
        bad=jnp.full((), -1, jnp.int32),
    )


def initial_state(objective: Objective, recipe: Recipe, steps: int, seed: int, rows: int) -> State:
    """The state before the first step, for B = `rows` rows in all."""
    params = objective.init(jax.random.fold_in(jax.random.key(seed), INIT))
    chain = optimizer(recipe, steps)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        average=jax.tree.map(jnp.copy, params) if recipe.average else (),
        optimizer=chain.init(params),
        carry=objective.zero_carry(rows),
        totals=zero_totals(objective),
    )


def begun_from(state: State, params: Params) -> State:
    """A first state with these parameters."""
    # A copy: the step donates its state, and no buffer can be given away twice.
    return state._replace(params=params, average=jax.tree.map(jnp.copy, params) if state.average else ())


def gradients(
    objective: Objective, params: Params, batch: Arrays, carry: Carry, key: jax.Array, scales: Arrays, parts: int = 1
) -> tuple[Params, Arrays, Carry]:
    """(gradient of sum over terms scale * sum, {term: sum}, new carry) of B rows, taken in `parts` micro-batches.

    The scales hold the denominators of the *whole* batch, so that the parts' gradients simply add up. Raises
    ValueError where the rows cannot be divided.
    """

    def scaled(params: Params, batch: Arrays, carry: Carry) -> tuple[jax.Array, tuple[Arrays, Carry]]:
        terms, carry = objective.loss(params, batch, carry, key)
        total = sum((scales[name] * terms[name][0] for name in scales), start=jnp.zeros((), jnp.float32))
        return total, ({name: terms[name][0] for name in scales}, carry)

    gradient = jax.grad(scaled, has_aux=True)
    if parts == 1:
        slopes, (sums, carry) = gradient(params, batch, carry)
        return slopes, sums, carry

    def divide(array: jax.Array) -> jax.Array:
        if array.shape[0] % parts:
            raise InputError(
                f"{array.shape[0]} rows a device do not divide into {parts} micro-batches: "
                "choose --data.lanes, of a Transformer --sequences.rows, as a multiple of devices x "
                "--devices.micro-batches"
            )
        return array.reshape(parts, array.shape[0] // parts, *array.shape[1:])  # [M, B / M, ...]

    def one(so_far: tuple[Params, Arrays], part: tuple[Arrays, Carry]) -> tuple[tuple[Params, Arrays], Carry]:
        slopes, (sums, carry) = gradient(params, *part)
        return jax.tree.map(jnp.add, so_far, (slopes, sums)), carry

    zeros = (jax.tree.map(jnp.zeros_like, params), {name: jnp.zeros((), jnp.float32) for name in scales})
    (slopes, sums), carry = jax.lax.scan(one, zeros, jax.tree.map(divide, (batch, carry)))
    return slopes, sums, jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), carry)


def make_step(objective: Objective, recipe: Recipe, steps: int, seed: int, parts: int = 1) -> Callable[..., State]:
    """The step: (state, batch, total, over) -> state, where B is this device's share of the rows.

    `total` adds a tree of arrays up over the devices (`devices.py` gives it; the identity on one device), and is
    called twice: for the denominators, then for gradients and sums together. Where only losses and gradients are
    computed device by device, and the update on arrays of all of them, `over` makes a function of all rows of the one
    of a device's share.
    """
    chain = optimizer(recipe, steps)

    def step(
        state: State, batch: Arrays, total: Callable[[Any], Any], over: Callable[[Share], Share] = _as_it_is
    ) -> State:
        def share(params: Params, batch: Arrays, carry: Carry, key: jax.Array) -> Found:
            # Only the weights of this loss are used; XLA drops the rest of its work.
            terms, _ = objective.loss(params, batch, carry, key)
            weights = total({name: terms[name][1] for name in objective.coefficients})
            scales = {
                # A term without a single target is 0, not 0 / 0.
                name: recipe.loss_scale * share / jnp.where(weights[name] > 0, weights[name], 1.0)
                for name, share in objective.coefficients.items()
            }
            own_slopes, own_sums, carry = gradients(objective, params, batch, carry, key, scales, parts)
            slopes, sums = total((own_slopes, own_sums))
            return Found(slopes, sums, weights, carry)

        key = jax.random.fold_in(jax.random.key(seed), state.step)
        slopes, sums, weights, carry = over(share)(state.params, batch, state.carry, key)
        params, moments = apply_gradients(chain, slopes, state.optimizer, state.params)
        average = averaged(recipe, state.average, params, state.step) if state.average else ()
        norm = optax.tree.norm(slopes)
        finite = jnp.isfinite(norm)
        for value in sums.values():
            finite &= jnp.isfinite(value)
        bad = jnp.where((state.totals.bad < 0) & ~finite, state.step + 1, state.totals.bad)
        before = state.totals.terms
        means = {name: (before[name][0] + sums[name], before[name][1] + weights[name]) for name in sums}
        return State(state.step + 1, params, average, moments, carry, Totals(means, norm, bad))

    return step
