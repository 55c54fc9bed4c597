"""Matrix products in two precisions, and table lookups.

float32   full float32 products (`Precision.HIGHEST`) on every backend: TF32 and TPU bf16 passes would break parity
          silently
bfloat16  bf16 operands, float32 accumulation and result; the cotangent is cast to bf16 too. Fast on GPUs, TPUs and
          CPUs with bf16 instructions; on other CPUs it is slower than float32, and `hardware` logs a warning once
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.hardware import warn_of_slow_bf16

Compute = Literal["float32", "bfloat16"]


def operand(values: jax.Array, compute: Compute) -> jax.Array:
    """`values` cast to the dtype of a product's operands. Cast a loop's constants before the loop."""
    if compute == "bfloat16":
        warn_of_slow_bf16()
        return values.astype(jnp.bfloat16)
    return values.astype(jnp.float32)


def product(left: jax.Array, right: jax.Array, contracting: tuple[int, int], compute: Compute) -> jax.Array:
    """Contract axis `contracting[0]` of `left` with axis `contracting[1]` of `right`; float32 out.

    Differentiate `linear` instead: the gradient of this one in bf16 has slow products of mixed dtypes."""
    return lax.dot_general(
        operand(left, compute),
        operand(right, compute),
        (((contracting[0],), (contracting[1],)), ((), ())),
        precision=lax.Precision.HIGHEST if compute == "float32" else None,
        preferred_element_type=jnp.float32,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(inputs: jax.Array, kernel: jax.Array, compute: Compute) -> jax.Array:
    """inputs [..., I] @ kernel [I, O]: float32 [..., O]."""
    return product(inputs, kernel, (inputs.ndim - 1, 0), compute)


def _linear_forward(
    inputs: jax.Array, kernel: jax.Array, compute: Compute
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    # An empty array carries the input's dtype to the backward pass.
    return linear(inputs, kernel, compute), (operand(inputs, compute), kernel, jnp.zeros((0,), inputs.dtype))


def _linear_backward(
    compute: Compute, saved: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel, like = saved
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    to_inputs = product(rows, kernel, (1, 1), compute).reshape(inputs.shape)
    to_kernel = product(inputs.reshape(-1, inputs.shape[-1]), rows, (0, 0), compute)
    return to_inputs.astype(like.dtype), to_kernel.astype(kernel.dtype)


linear.defvjp(_linear_forward, _linear_backward)


def contract(equation: str, left: jax.Array, right: jax.Array, compute: Compute | None) -> jax.Array:
    """`jnp.einsum(equation, left, right)` of two float32 arrays, float32 out. Every letter of an operand must occur in
    the other operand or in the result. `compute` None: float32 operands in the backend's default precision."""
    if compute == "bfloat16":
        return _low_contract(equation, left, right)
    precision = lax.Precision.HIGHEST if compute == "float32" else None
    return jnp.einsum(equation, left, right, precision=precision)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _low_contract(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    low = (operand(values, "bfloat16") for values in (left, right))
    return jnp.einsum(equation, *low, preferred_element_type=jnp.float32)


def _low_contract_forward(
    equation: str, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    left, right = operand(left, "bfloat16"), operand(right, "bfloat16")
    return _low_contract(equation, left, right), (left, right)


def _low_contract_backward(
    equation: str, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = saved
    inputs, result = equation.split("->")
    left_axes, right_axes = inputs.split(",")
    to_left = _low_contract(f"{result},{right_axes}->{left_axes}", cotangent, right)
    return to_left, _low_contract(f"{result},{left_axes}->{right_axes}", cotangent, left)


_low_contract.defvjp(_low_contract_forward, _low_contract_backward)


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of `table` [V, D] for ids [...]: [..., D]. Ids outside 0..V-1, negative ones included, give NaN, so that a
    wrong id is noticed instead of reading another row."""
    return jnp.asarray(table).at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
