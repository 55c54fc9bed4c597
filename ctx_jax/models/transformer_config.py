"""The frozen configuration of every Transformer, and the shapes it implies.

Letters: V vocabulary, D width, F feed-forward width, P rows of the position table, H heads.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from ctx_jax.models.attention import Implementation
from ctx_jax.models.flags import said
from ctx_jax.numerics.linear import Compute

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True)
class Transformer:
    """Shape and mathematics of a Transformer; hashable, so it can be a static argument of `jax.jit`.

    The defaults are BERT-base with its masked-LM head. Differences between layers (local or global attention, an
    absent first norm) are fields here: every layer has the same parameters but for that norm.
    """

    vocabulary: int = 30522  # V; 0, in a training config: as many as the run's tokenizer has
    dim: int = 768  # D
    layers: int = 12
    heads: int = 12  # H
    feed_forward: int = 3072  # F
    activation: Activation = "gelu"  # gelu is the exact one (erf), gelu_tanh its approximation
    gated: bool = False  # GeGLU: down(activation(gate(x)) * up(x))
    causal: bool = False  # GPT: a token sees those before it and itself

    norm: Literal["post", "pre"] = "post"  # pre: a final norm closes the stack
    norm_epsilon: float = 1e-12
    norm_bias: bool = True
    embedding_norm: bool = True
    first_attention_norm: bool = True  # False: layer_0 has no norm before its attention (ModernBERT)
    attention_bias: bool = True
    feed_forward_bias: bool = True

    positions: Literal["learned", "rotary"] = "learned"
    max_positions: int = 512  # P, or rotary's longest text; RoBERTa's table counts pad_id + 1 rows that no token uses
    positions_after_padding: bool = False  # RoBERTa: the first position is pad_id + 1, pads stand at pad_id
    pad_id: int | None = 0
    token_types: int = 2  # rows of the segment embedding; 0: none
    rotary_theta: float = 160_000.0
    local_rotary_theta: float = 10_000.0
    local_layers: tuple[int, ...] = ()  # layers whose tokens see |i - j| <= window
    window: int = 64

    head: Literal["none", "transform", "direct"] = "transform"  # dense, activation, norm, decoder; or the decoder alone
    head_activation: Activation = "gelu"
    head_bias: bool = True  # of the transform's dense layer
    decoder_bias: bool = True
    tied: bool = True  # the decoder is the token embedding
    pooler: bool = False
    next_sentence: bool = False  # needs the pooler

    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1  # on the attention's probabilities
    attention_output_dropout: float = 0.1
    feed_forward_inner_dropout: float = 0.0  # before the down projection (ModernBERT)
    feed_forward_dropout: float = 0.1

    initial_scale: float = 0.02  # standard deviation of the truncated normal
    depth_scaled: bool = False  # output projections start smaller by sqrt(2 layers): GPT-2, ModernBERT

    compute: Compute = "float32"
    attention: Implementation = "auto"
    scan: bool = False  # one compiled layer, looped: faster to compile, a little slower to run
    remat: bool = False  # recompute each layer in the backward pass: less memory, more arithmetic

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if (wrong := fault(field.name, value)) is not None:
                raise ValueError(f"{said(field.name)} {wrong}, got {value}")
        if self.dim % self.heads:
            raise ValueError(f"{said('dim')} must be a multiple of {said('heads')}, got {self.dim} and {self.heads}")
        if self.positions == "rotary" and (self.dim // self.heads) % 2:
            size = self.dim // self.heads
            raise ValueError(f"rotary positions need an even head size, {said('dim')} / {said('heads')}, got {size}")
        if self.positions_after_padding and (self.pad_id is None or self.positions != "learned"):
            raise ValueError(
                f"{said('positions_after_padding')} needs {said('pad_id')} and learned {said('positions')}: set both"
            )
        if self.longest < 1:
            raise ValueError(
                f"{said('max_positions')} must be above the {1 + (self.pad_id or 0)} rows up to {said('pad_id')} that "
                f"positions_after_padding leaves unused, got {self.max_positions}"
            )
        if self.next_sentence and not self.pooler:
            raise ValueError(f"{said('next_sentence')} reads the pooler's vector: set pooler=True (--model.pooler)")
        wrong_layers = [layer for layer in self.local_layers if not 0 <= layer < self.layers]
        if wrong_layers:
            raise ValueError(f"{said('local_layers')} must lie in 0..{self.layers - 1}, got {wrong_layers}")
        if not self.first_attention_norm and self.norm == "post":
            raise ValueError(
                "first_attention_norm=False (--model.no-first-attention-norm) is for norm='pre' (--model.norm pre): "
                "set one of them"
            )

    @property
    def longest(self) -> int:
        """The longest sequence its positions hold: P, less RoBERTa's unused rows."""
        return self.max_positions - (1 + (self.pad_id or 0) if self.positions_after_padding else 0)


_COUNTS = ("dim", "heads", "feed_forward", "max_positions")
_FROM_ZERO = ("layers", "vocabulary", "token_types", "window", "pad_id", "norm_epsilon", "initial_scale")
_THETAS = ("rotary_theta", "local_rotary_theta")


def fault(field: str, value: Any) -> str | None:
    """What is wrong with the number of one field, "must be at least 1" say; None where it may have that value."""
    if value is None:
        return None
    if field in _COUNTS and not value >= 1:
        return "must be at least 1"
    if field in _FROM_ZERO and not 0 <= value < math.inf:
        return "must be at least 0"
    if field in _THETAS and not 0 < value < math.inf:
        return "must be above 0"
    if field.endswith("_dropout") and not 0 <= value < 1:
        return "must be in [0, 1)"
    return None
