"""Scaled dot-product attention: the one function every Transformer layer calls.

Letters: B rows, T tokens, H heads, E width of a head.

plain   matrix products, masked softmax in float32; does everything
fused   cuDNN's flash attention through `jax.nn.dot_product_attention`: no [T, T] array per head is ever held
xla     the very call of the fused path, with XLA's own kernels instead of cuDNN's: a reference for it on any machine
auto    fused where the machine and the call allow it, else plain
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp

from ctx_jax.ops.hardware import device, platform
from ctx_jax.ops.linear import Compute, contract

Implementation = Literal["auto", "plain", "fused", "xla"]


@partial(jax.tree_util.register_dataclass, data_fields=["allowed", "lengths"], meta_fields=["causal"])
@dataclass(frozen=True)
class Visible:
    """Who sees whom, in the forms that the fused kernel tells apart: it skips what `lengths` and `causal` hide, and
    reads every pair of `allowed`. Never both `allowed` and `lengths`.

    allowed  bool [B or 1, 1, T, T], None for all
    lengths  int32 [B]: keys from there on are padding; None for no padding
    causal   no token sees a later one
    """

    allowed: jax.Array | None
    lengths: jax.Array | None
    causal: bool

    def dense(self, length: int) -> "Visible":
        """The same among T = `length` tokens with an array `allowed`, all True where there is no limit."""
        if self.allowed is not None:
            return self
        inside = jnp.ones((1, length), bool) if self.lengths is None else _inside(self.lengths, length)
        return Visible(_pairs(inside[:, None, None, :], length), None, self.causal)


def _inside(lengths: jax.Array, length: int) -> jax.Array:
    """bool [B, T]: the first `lengths` of T = `length` places of each row."""
    return jnp.arange(length)[None, :] < lengths[:, None]


def _pairs(allowed: jax.Array, length: int) -> jax.Array:
    return jnp.broadcast_to(allowed, (allowed.shape[0], 1, length, length))


def visible(
    length: int,
    *,
    mask: jax.Array | None = None,
    lengths: jax.Array | None = None,
    segments: jax.Array | None = None,
    window: int | None = None,
    causal: bool = False,
) -> Visible:
    """Combine what limits attention among T = `length` tokens.

    mask      bool [B, T]: False keys get no attention
    lengths   int [B]: the mask of rows whose padding stands at their end, which costs the fused kernel nothing
    segments  int [B, T]: tokens see only tokens with their own number (packed examples)
    window    tokens see |i - j| <= window
    causal    tokens see j <= i

    segments  1 1 2 2        query 0 sees  * * . .
    mask      T T T F        query 2 sees  . . * .
    """
    parts = []
    if lengths is not None:
        if mask is None and segments is None and window is None:
            return Visible(None, lengths.astype(jnp.int32), causal)
        parts.append(_inside(lengths, length)[:, None, None, :])
    if mask is not None:
        parts.append(mask[:, None, None, :])
    if segments is not None:
        parts.append(segments[:, None, :, None] == segments[:, None, None, :])
    if window is not None:
        index = jnp.arange(length)
        parts.append((jnp.abs(index[:, None] - index[None, :]) <= window)[None, None])
    if not parts:
        return Visible(None, None, causal)
    allowed = parts[0]
    for part in parts[1:]:
        allowed = allowed & part
    return Visible(_pairs(allowed, length), None, causal)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    seen: Visible,
    *,
    compute: Compute,
    path: Implementation = "auto",
    kept: jax.Array | None = None,
    rate: float = 0.0,
    maps: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """softmax(query key^T / sqrt(E)) value over the keys that `seen` lets through: float32 [B, T, H, E].

    query, key, value are float32 [B, T, H, E]. A token that sees nothing gets zeros. `kept`, bool [B, H, T, T],
    is dropout at `rate`: the probabilities it lets live grow by 1 / (1 - rate). With `maps` the probabilities come
    back as well, float32 [B, H, T, T], before dropout; else None.
    """
    if path in ("auto", "fused", "xla") and _fusible(query.shape, seen, compute, path, kept is not None, maps):
        return _fused(query, key, value, seen, "xla" if path == "xla" else "cudnn"), None
    return _plain(query, key, value, seen, compute, kept, rate, maps)


def _plain(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    seen: Visible,
    compute: Compute,
    kept: jax.Array | None,
    rate: float,
    maps: bool,
) -> tuple[jax.Array, jax.Array | None]:
    # bf16 products of this shape fail at run time on CPUs when differentiated, so there they stay float32.
    low = compute == "bfloat16" and platform() != "cpu"
    kind: Compute | None = "bfloat16" if low else "float32" if compute == "float32" else None
    logits = contract("bthe,bshe->bhts", query, key, kind) * query.shape[-1] ** -0.5
    allowed = seen.allowed if seen.lengths is None else seen.dense(query.shape[1]).allowed
    if seen.causal:
        index = jnp.arange(query.shape[1])
        earlier = (index[None, :] <= index[:, None])[None, None]
        allowed = earlier if allowed is None else allowed & earlier
    if allowed is not None:
        logits = jnp.where(allowed, logits, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(logits, axis=-1)
    if allowed is not None:
        # Without this a query that sees no key would average all of them.
        probabilities = jnp.where(allowed, probabilities, 0.0)
    weights = probabilities if kept is None else jnp.where(kept, probabilities / (1.0 - rate), 0.0)
    return contract("bhts,bshe->bthe", weights, value, kind), probabilities if maps else None


def _fused(
    query: jax.Array, key: jax.Array, value: jax.Array, seen: Visible, implementation: Literal["cudnn", "xla"]
) -> jax.Array:
    low = (part.astype(jnp.bfloat16) for part in (query, key, value))
    sees = None
    if seen.allowed is not None:
        allowed = seen.allowed[:, 0]
        sees = (jnp.tril(allowed) if seen.causal else allowed).any(-1)  # [B or 1, T]
    elif seen.lengths is not None:
        # The kernel is never asked for a row without keys. Every query sees key 0 where there is one.
        sees = (seen.lengths > 0)[:, None]
        seen = replace(seen, lengths=jnp.maximum(seen.lengths, 1))
    mixed = _kernel(*low, seen, implementation).astype(jnp.float32)
    return mixed if sees is None else jnp.where(sees[:, :, None, None], mixed, 0.0)


def _call(
    seen: Visible, implementation: Literal["cudnn", "xla"], query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
    # Lengths of the keys alone: padded queries see what the others see, as on the plain path.
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=seen.allowed,
        is_causal=seen.causal,
        key_value_seq_lengths=seen.lengths,
        implementation=implementation,
    )


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _kernel(
    query: jax.Array, key: jax.Array, value: jax.Array, seen: Visible, implementation: Literal["cudnn", "xla"]
) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):
        return _call(seen, implementation, query, key, value)


def _kernel_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, seen: Visible, implementation: Literal["cudnn", "xla"]
) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array, ...]]]:
    with jax.numpy_dtype_promotion("standard"):
        return jax.vjp(partial(_call, seen, implementation), query, key, value)


def _kernel_backward(
    implementation: Literal["cudnn", "xla"],
    pullback: Callable[[jax.Array], tuple[jax.Array, ...]],
    cotangent: jax.Array,
) -> tuple[jax.Array | None, ...]:
    with jax.numpy_dtype_promotion("standard"):
        return (*pullback(cotangent), None)


# jax's own code mixes types, which strict promotion refuses. A derivative of our own traces both passes under the
# standard rules and never asks for the limits' gradient. XLA's kernels mix them once more when they are lowered, so
# that the caller of a gradient through "xla" sets the rule for the whole call.
_kernel.defvjp(_kernel_forward, _kernel_backward)


def _fusible(
    shape: tuple[int, ...], seen: Visible, compute: Compute, path: Implementation, dropped: bool, maps: bool
) -> bool:
    """Whether the fused kernel can do this call; says once why not where it was asked for or could be expected."""
    _, length, _, width = shape
    machine = path == "xla" or _cuda()
    capability = None if path == "xla" or not machine else _capability()
    reason = None
    if not machine:
        reason = f"the machine is a {platform()}, the kernel is for NVIDIA GPUs"
    elif capability is not None and capability < 8:
        reason = f"it needs a GPU of compute capability 8.0 or more (an A100, say), this one has {capability}"
    elif compute != "bfloat16":
        reason = "it computes in bfloat16 and compute is float32"
    elif maps:
        reason = "it never holds the attention maps that are asked for"
    elif dropped:
        reason = "its dropout takes one seed for all steps; set attention_dropout=0 to use it"
    elif capability is not None and (width % 8 or width > _widest(capability)):
        reason = f"its heads are a multiple of 8 and at most {_widest(capability)} wide, these are {width}"
    elif seen.allowed is not None and length % 2:
        reason = f"with a mask it needs an even length, this is {length}"
    if reason is None:
        return True
    # Nobody expects the fused kernel of "auto" on a CPU or in float32.
    if path != "auto" or (machine and compute == "bfloat16"):
        _say(f"attention takes the plain path instead of the fused one: {reason}")
    return False


def _cuda() -> bool:
    # AMD's devices call themselves gpu too.
    return "cuda" in str(device().client.platform_version).lower()


def _capability() -> float:
    """9.0 for an H100."""
    return float(getattr(device(), "compute_capability", 0.0))


def _widest(capability: float) -> int:
    return 256 if capability >= 9 else 128


@cache
def _say(message: str) -> None:
    warnings.warn(message, stacklevel=2)
