"""A device's rows in micro-batches, and the gradient of a loss that compares rows of different ones.

Letters: B rows of a batch on one device, M micro-batches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.io.errors import ConfigError
from ctx_jax.typing import Params, Terms

Arrays = dict[str, jax.Array]


def divided(tree: Any, micro_batches: int) -> Any:
    """Arrays [B, ...] as [M, B / M, ...]; ConfigError if M does not divide B."""

    def divide(array: jax.Array) -> jax.Array:
        if array.shape[0] % micro_batches:
            raise ConfigError(
                "devices.micro_batches",
                f"is {micro_batches}, which does not divide the {array.shape[0]} rows of a device: set batch_size to a "
                "multiple of devices x micro_batches",
            )
        return array.reshape(micro_batches, array.shape[0] // micro_batches, *array.shape[1:])

    return jax.tree.map(divide, tree)


def joined(tree: Any) -> Any:
    """The inverse of `divided`."""
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), tree)


def weighted_sum(terms: Terms, scales: Arrays) -> jax.Array:
    """The total loss: each term's sum times its scale."""
    return sum((scales[name] * terms[name][0] for name in scales), start=jnp.zeros((), jnp.float32))


def compared_gradients(
    vectors: Callable[[Params, Any], Any],
    compare: Callable[[Any], Terms],
    scales: Callable[[Terms], tuple[Arrays, Arrays]],
    params: Params,
    batch: Any,
    micro_batches: int,
) -> tuple[Any, Arrays, Arrays]:
    """(gradient, {term: sum}, {term: weight}) of `compare(vectors(params, batch))`, whose rows depend on each other.

    `scales` gives the terms' weights over all devices, and their factors in the total loss. With several micro-batches
    the vectors are computed twice, so that a device holds the activations of one at a time (GradCache, Gao et al.
    2021): first all vectors, with the gradient of the loss with respect to them, then, part by part, the gradient of
    the parameters.
    """

    def total(found: Any) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        terms = compare(found)
        weights, factors = scales(terms)
        return weighted_sum(terms, factors), ({name: terms[name][0] for name in factors}, weights)

    if micro_batches == 1:
        gradients, (sums, weights) = jax.grad(lambda params: total(vectors(params, batch)), has_aux=True)(params)
        return gradients, sums, weights
    parts = divided(batch, micro_batches)
    _, found = jax.lax.scan(lambda _, part: (None, vectors(params, part)), None, parts)
    of_vectors, (sums, weights) = jax.grad(total, has_aux=True)(joined(found))

    def add(gradients: Any, given: tuple[Any, Any]) -> tuple[Any, None]:
        part, of_part = given
        _, back = jax.vjp(lambda params: vectors(params, part), params)
        return jax.tree.map(jnp.add, gradients, back(of_part)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, _ = jax.lax.scan(add, zeros, (parts, divided(of_vectors, micro_batches)))
    return gradients, sums, weights
