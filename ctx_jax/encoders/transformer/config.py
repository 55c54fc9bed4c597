"""The frozen configuration of every Transformer, and the shapes it implies.

Letters: V vocabulary, D width, F feed-forward width, P rows of the position table, H heads.
"""

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from ctx_jax.io.errors import InputError
from ctx_jax.io.flags import field_with_flag
from ctx_jax.ops.attention import Implementation
from ctx_jax.ops.dense import Activation
from ctx_jax.ops.linear import Compute

_flag = partial(field_with_flag, section="model")


@dataclass(frozen=True)
class Transformer:
    """Shape and mathematics of a Transformer; hashable, so it can be a static argument of `jax.jit`.

    The defaults are BERT-base with its masked-LM head. Differences between layers (local or global attention, an
    absent first norm) are fields here: every layer has the same parameters but for that norm.
    """

    vocabulary: int = 30522
    """V, rows of the token table; 0, in a training config: as many as the run's tokenizer has."""
    dim: int = 768
    """D, width of a token's vector in every layer."""
    layers: int = 12
    """Layers behind the embeddings."""
    heads: int = 12
    """H, heads of each layer's attention; they share D."""
    feed_forward: int = 3072
    """F, width inside a layer's feed-forward part."""
    activation: Activation = "gelu"
    """Of the feed-forward part. `gelu` is the exact one (erf), `gelu_tanh` its approximation."""
    gated: bool = False
    """GeGLU: down(activation(gate(x)) * up(x)) instead of down(activation(up(x)))."""
    causal: bool = False
    """GPT: a token sees those before it and itself, and no later one."""

    norm: Literal["post", "pre"] = "post"
    """Layer norms `post`, behind each sum (BERT), or `pre`, before each part, with a final norm (GPT-2, ModernBERT)."""
    norm_epsilon: float = 1e-12
    """What every layer norm adds to the variance before its root."""
    norm_bias: bool = True
    """Layer norms have a bias beside their scale."""
    embedding_norm: bool = True
    """A layer norm stands behind the sum of the embeddings."""
    first_attention_norm: bool = True
    """Without it (ModernBERT) layer 0 has no norm before its attention; `pre` norms only."""
    attention_bias: bool = True
    """The products of query, key, value and attention output have biases."""
    feed_forward_bias: bool = True
    """The feed-forward part's products have biases."""

    positions: Literal["learned", "rotary"] = "learned"
    """`learned`: a table, whose rows are added to the embeddings. `rotary`: queries and keys turn with their place."""
    max_positions: int = 512
    """P, rows of the position table, or rotary's longest text; RoBERTa's table counts pad_id + 1 rows that no token
    uses."""
    positions_after_padding: bool = False
    """RoBERTa: the first position is pad_id + 1, and padding stands at pad_id."""
    pad_id: int | None = 0
    """Id of the padding token, by which `positions_after_padding` tells padding; None: there is none."""
    token_types: int = 2
    """Rows of the segment embedding; 0: none."""
    rotary_theta: float = 160_000.0
    """Base of the rotary positions' wavelengths: the greater, the longer the longest."""
    local_rotary_theta: float = 10_000.0
    """The same for `local_layers`."""
    local_layers: tuple[int, ...] = ()
    """Layers, counted from 0, whose tokens see only those at most `window` away; the others see all."""
    window: int = 64
    """How far the tokens of `local_layers` see to either side."""

    head: Literal["none", "transform", "direct"] = "transform"
    """From the last layer to the vocabulary: `transform` (BERT: dense, activation, norm, decoder), `direct` (GPT: the
    decoder alone) or `none`."""
    head_activation: Activation = "gelu"
    """Of the head `transform`."""
    head_bias: bool = True
    """The dense layer of the head `transform` has a bias."""
    decoder_bias: bool = True
    """The decoder has a bias for each entry of the vocabulary."""
    tied: bool = True
    """The decoder is the token table; without it a matrix of its own."""
    pooler: bool = False
    """tanh(dense(first token)), of the last layer: a vector of the whole row."""
    next_sentence: bool = False
    """Two logits on the pooler's vector, whether the second text of a pair is the real one; needs `pooler`."""

    embedding_dropout: float = 0.1
    """Rate, in training, of what the embeddings give to the first layer."""
    attention_dropout: float = 0.1
    """Rate of the attention's probabilities; with any the fused attention is not used."""
    attention_output_dropout: float = 0.1
    """Rate of what attention adds to a layer's input."""
    feed_forward_inner_dropout: float = 0.0
    """Rate inside the feed-forward part, before its last product (ModernBERT)."""
    feed_forward_dropout: float = 0.1
    """Rate of what the feed-forward part adds."""

    initial_scale: float = 0.02
    """Standard deviation of the truncated normal that fresh kernels and tables are drawn from."""
    depth_scaled: bool = False
    """Output projections start smaller by sqrt(2 layers) (GPT-2, ModernBERT)."""

    compute: Compute = "float32"
    """`float32`: exact products on every device. `bfloat16`: bf16 operands, all else in float32, the fast mode."""
    attention: Implementation = "auto"
    """`plain`: matrix products and a softmax, does everything. `fused`: cuDNN's flash attention, for NVIDIA GPUs, in
    bfloat16, without dropout of the probabilities; where it cannot, plain, with a warning. `auto`: fused where it can,
    else plain. `xla`: fused's call by XLA's own kernels, to compare with."""
    scan: bool = False
    """One compiled layer, looped: faster to compile, a little slower to run."""
    remat: bool = False
    """Recompute each layer in the backward pass: less memory, more arithmetic."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if (wrong := fault(field.name, value)) is not None:
                raise InputError(f"{_flag(field.name)} {wrong}, got {value}")
        if self.dim % self.heads:
            raise InputError(f"{_flag('dim')} must be a multiple of {_flag('heads')}, got {self.dim} and {self.heads}")
        if self.positions == "rotary" and (self.dim // self.heads) % 2:
            size = self.dim // self.heads
            raise InputError(f"rotary positions need an even head size, {_flag('dim')} / {_flag('heads')}, got {size}")
        if self.positions_after_padding and (self.pad_id is None or self.positions != "learned"):
            raise InputError(
                f"{_flag('positions_after_padding')} needs {_flag('pad_id')} and learned {_flag('positions')}: set both"
            )
        if self.longest < 1:
            raise InputError(
                f"{_flag('max_positions')} must be above the {1 + (self.pad_id or 0)} rows up to {_flag('pad_id')} "
                f"that positions_after_padding leaves unused, got {self.max_positions}"
            )
        if self.next_sentence and not self.pooler:
            raise InputError(f"{_flag('next_sentence')} reads the pooler's vector: set pooler=True (--model.pooler)")
        wrong_layers = [layer for layer in self.local_layers if not 0 <= layer < self.layers]
        if wrong_layers:
            raise InputError(f"{_flag('local_layers')} must lie in 0..{self.layers - 1}, got {wrong_layers}")
        if not self.first_attention_norm and self.norm == "post":
            raise InputError(
                "first_attention_norm=False (--model.no-first-attention-norm) is for norm='pre' (--model.norm pre): "
                "set one of them"
            )

    @property
    def longest(self) -> int:
        """The longest sequence its positions hold: P, less RoBERTa's unused rows."""
        return self.max_positions - self.first_position

    @property
    def first_position(self) -> int:
        """What positions count from: RoBERTa's from the row behind that of the padding's id."""
        return 1 + (self.pad_id or 0) if self.positions_after_padding else 0


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
