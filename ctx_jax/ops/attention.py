"""Scaled dot-product attention: the one function every Transformer layer calls.

Letters: B rows, T tokens, H heads, G heads of keys and values (H is a multiple), E width of a head.

plain   matrix products and a masked softmax in float32; supports every argument
fused   cuDNN's flash attention through `jax.nn.dot_product_attention`: no [T, T] array per head in memory
xla     the same call as `fused` with XLA's kernels instead of cuDNN's: a reference that runs on any machine
auto    `fused` where the device and the arguments allow it, else `plain`
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.hardware import device, platform
from ctx_jax.ops.linear import Compute, contract

Implementation = Literal["auto", "plain", "fused", "xla"]
_Backend = Literal["cudnn", "xla"]


@partial(jax.tree_util.register_dataclass, data_fields=["pairs", "lengths"], meta_fields=["causal"])
@dataclass(frozen=True)
class AttentionMask:
    """Which queries attend to which keys, in the forms that the fused kernel distinguishes: it skips keys excluded by
    `lengths` and `causal`, but reads every entry of `pairs`. `pairs` and `lengths` are never both set.

    pairs    bool [B or 1, 1, T, T], True where the query may attend to the key; None: True everywhere
    lengths  int32 [B]: keys from this index on are padding; None: no padding
    causal   no query attends to a later key
    """

    pairs: jax.Array | None
    lengths: jax.Array | None
    causal: bool

    def dense(self, length: int) -> "AttentionMask":
        """The same mask for T = `length` tokens with `pairs` as an array instead of `lengths`."""
        if self.pairs is not None:
            return self
        mask = jnp.ones((1, length), bool) if self.lengths is None else mask_of_lengths(self.lengths, length)
        return attention_mask(length, mask=mask, causal=self.causal)


def mask_of_lengths(lengths: jax.Array, length: int) -> jax.Array:
    """bool [B, T]: True at the first `lengths` of T = `length` tokens of each row."""
    return jnp.arange(length)[None, :] < lengths[:, None]


def attention_mask(
    length: int,
    *,
    mask: jax.Array | None = None,
    lengths: jax.Array | None = None,
    segments: jax.Array | None = None,
    window: int | None = None,
    causal: bool = False,
) -> AttentionMask:
    """Combine all limits on attention among T = `length` tokens.

    mask      bool [B, T]: keys that are False get no attention
    lengths   int [B]: as a mask of padding at the rows' ends; alone, it costs the fused kernel nothing
    segments  int [B, T]: tokens attend only to tokens of their own segment (packed examples)
    window    query i attends only to keys j with |i - j| <= window
    causal    query i attends only to keys j <= i

    segments  1 1 2 2        query 0 attends to  * * . .
    mask      T T T F        query 2 attends to  . . * .
    """
    parts = []
    if lengths is not None:
        if mask is None and segments is None and window is None:
            return AttentionMask(None, lengths.astype(jnp.int32), causal)
        parts.append(mask_of_lengths(lengths, length)[:, None, None, :])
    if mask is not None:
        parts.append(mask[:, None, None, :])
    if segments is not None:
        parts.append(segments[:, None, :, None] == segments[:, None, None, :])
    if window is not None:
        index = jnp.arange(length)
        parts.append((jnp.abs(index[:, None] - index[None, :]) <= window)[None, None])
    if not parts:
        return AttentionMask(None, None, causal)
    pairs = reduce(jnp.logical_and, parts)
    return AttentionMask(jnp.broadcast_to(pairs, (pairs.shape[0], 1, length, length)), None, causal)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    compute: Compute,
    implementation: Implementation = "auto",
    scale: float | None = None,
    bias: jax.Array | None = None,
    dropout_mask: jax.Array | None = None,
    dropout_rate: float = 0.0,
    maps: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """softmax(scale query key^T + bias) value over the keys that `mask` allows: float32 [B, T, H, E].

    query is float32 [B, T, H, E], key and value [B, T, G, E]; H / G neighbouring heads of queries share a head of keys
    (grouped queries, Ainslie et al. 2023). `scale` None: 1 / sqrt(E). `bias`, float32 [B or 1, H, T, T], is added to
    the scores. A query without any key gives 0. `dropout_mask`, bool [B, H, T, T], is True at the probabilities that
    dropout keeps; they are divided by 1 - `dropout_rate`. With `maps`, the second result is the probabilities before
    dropout, float32 [B, H, T, T]; else None.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    plain_only = {
        "it does not return attention maps": maps,
        "it does not support dropout by row; set attention_dropout=0 to use it": dropout_mask is not None,
        "it adds no bias to the scores, as relative positions need": bias is not None,
    }
    missing = next((reason for reason, asked in plain_only.items() if asked), None)
    if implementation != "plain" and _fusible(query.shape, mask, compute, implementation, missing):
        return _fused(query, key, value, mask, scale, "xla" if implementation == "xla" else "cudnn"), None

    precision = score_precision(compute)
    # Heads first: both products then contract whole matrices, without a transposed copy of their operands.
    query, key, value = (part.transpose(0, 2, 1, 3) for part in (query, key, value))  # [B, H or G, T, E]
    if key.shape[1] != query.shape[1]:
        key, value = (jnp.repeat(part, query.shape[1] // part.shape[1], axis=1) for part in (key, value))
    logits = contract("bhte,bhse->bhts", query * scale, key, precision)
    if bias is not None:
        logits = logits + bias
    pairs = _pairs(mask, query.shape[2])
    if pairs is not None:
        logits = jnp.where(pairs, logits, _EXCLUDED)
    # The softmax divides after the product with the values, [T, E] numbers instead of [T, T]. The shift is above
    # `_EXCLUDED`, so that a query without any key has a total of 0; any other has at least 1.
    shift = jnp.maximum(lax.stop_gradient(logits).max(-1, keepdims=True), _EXCLUDED / 2)
    weights = jnp.exp(logits - shift)
    total = jnp.maximum(weights.sum(-1, keepdims=True), 0.5)
    probabilities = weights / total if maps else None
    if dropout_mask is not None:
        weights = jnp.where(dropout_mask, weights / (1.0 - dropout_rate), 0.0)
    mixed = contract("bhts,bhse->bhte", weights, value, precision) / total
    return mixed.transpose(0, 2, 1, 3), probabilities


def score_precision(compute: Compute) -> Compute | None:
    """How `contract` computes the products of queries, keys and values."""
    # On CPUs the gradient of bf16 products of this shape fails at run time, so they are computed in float32 there.
    if compute == "bfloat16" and platform() == "cpu":
        return None
    return compute


_EXCLUDED = float(jnp.finfo(jnp.float32).min)  # the logit of a key that a query does not attend to


def _pairs(mask: AttentionMask, length: int) -> jax.Array | None:
    """bool [B or 1, 1, T, T], all limits of `mask` in one; None: there are none."""
    pairs = mask.pairs if mask.lengths is None else mask.dense(length).pairs
    if not mask.causal:
        return pairs
    index = jnp.arange(length)
    earlier = (index[None, :] <= index[:, None])[None, None]
    return earlier if pairs is None else pairs & earlier


def _fused(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, scale: float, backend: _Backend
) -> jax.Array:
    low = (part.astype(jnp.bfloat16) for part in (query, key, value))
    has_key = None
    if mask.pairs is not None:
        pairs = mask.pairs[:, 0]
        has_key = (jnp.tril(pairs) if mask.causal else pairs).any(-1)  # [B or 1, T]
    elif mask.lengths is not None:
        # The kernel needs at least one key a row. In a row with keys, every query attends to key 0.
        has_key = (mask.lengths > 0)[:, None]
        mask = replace(mask, lengths=jnp.maximum(mask.lengths, 1))
    mixed = _kernel(*low, mask, scale, backend).astype(jnp.float32)
    return mixed if has_key is None else jnp.where(has_key[:, :, None, None], mixed, 0.0)


_Pullback = Callable[[jax.Array], tuple[jax.Array, ...]]


def _bound(
    mask: AttentionMask, scale: float, backend: _Backend
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """jax's attention with everything set but query, key and value."""
    # Queries have no lengths: padded queries attend to the same keys as the others, as in the plain implementation.
    return partial(
        jax.nn.dot_product_attention,
        mask=mask.pairs,
        scale=scale,
        is_causal=mask.causal,
        key_value_seq_lengths=mask.lengths,
        implementation=backend,
    )


# jax's own code mixes dtypes, which strict promotion refuses. This custom derivative traces both passes under standard
# promotion and takes no gradient of the mask. XLA's kernels mix dtypes again when they are lowered, so a caller that
# takes a gradient through "xla" must set standard promotion for the whole call.
@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _kernel(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, scale: float, backend: _Backend
) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):
        return _bound(mask, scale, backend)(query, key, value)


def _kernel_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, scale: float, backend: _Backend
) -> tuple[jax.Array, _Pullback]:
    with jax.numpy_dtype_promotion("standard"):
        return jax.vjp(_bound(mask, scale, backend), query, key, value)


def _kernel_backward(
    scale: float, backend: _Backend, pullback: _Pullback, cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
    with jax.numpy_dtype_promotion("standard"):
        return (*pullback(cotangent), None)


_kernel.defvjp(_kernel_forward, _kernel_backward)


def _fusible(
    shape: tuple[int, ...],
    mask: AttentionMask,
    compute: Compute,
    implementation: Implementation,
    missing: str | None,
) -> bool:
    """Whether the fused kernel supports this call; if not, warns once with the reason where a user may expect it.
    `missing` is what the call asks for that no fused kernel does."""
    _, length, _, width = shape
    supported = implementation == "xla" or _cuda()
    capability = None if implementation == "xla" or not supported else _capability()
    widest = 256 if capability is None or capability >= 9 else 128
    reason = None
    if not supported:
        reason = f"it needs an NVIDIA GPU, this machine has a {platform()}"
    elif capability is not None and capability < 8:
        reason = f"it needs a GPU of compute capability 8.0 or more (such as an A100), this one has {capability}"
    elif compute != "bfloat16":
        reason = "it computes in bfloat16 and compute is float32"
    elif missing is not None:
        reason = missing
    elif capability is not None and (width % 8 or width > widest):
        reason = f"its head width must be a multiple of 8 up to {widest}, got {width}"
    elif mask.pairs is not None and length % 2:
        reason = f"with a mask it needs an even length, got {length}"
    if reason is None:
        return True
    # On a CPU or in float32, a user of "auto" expects no fused kernel.
    if implementation != "auto" or (supported and compute == "bfloat16"):
        _warn_once(f"attention uses the plain implementation instead of the fused one: {reason}")
    return False


def _cuda() -> bool:
    # AMD's devices have the platform "gpu" too.
    return "cuda" in str(device().client.platform_version).lower()


def _capability() -> float:
    """CUDA compute capability: 9.0 for an H100."""
    return float(getattr(device(), "compute_capability", 0.0))


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
