"""The Transformer as a model value: its frozen configuration and the methods of `encoders.base.Model`.

Letters: V vocabulary, D width, F feed-forward width, P rows of the position table, H heads, T tokens of a row.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ctx_jax.encoders.base import Layers
from ctx_jax.encoders.transformer.checks import check
from ctx_jax.encoders.transformer.initial import init
from ctx_jax.encoders.transformer.inputs import SubwordInputs, checked_arrays, read_inputs
from ctx_jax.encoders.transformer.network import default_positions, embed_tokens, hidden_states
from ctx_jax.encoders.transformer.word_pooling import pool_to_words
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.ops.attention import Implementation
from ctx_jax.ops.dense import Activation, NormKind
from ctx_jax.ops.dropout import Dropout
from ctx_jax.ops.linear import Compute
from ctx_jax.ops.relative import Term
from ctx_jax.tokenizers.words import Rule
from ctx_jax.typing import Carry, Params


@dataclass(frozen=True)
class Transformer:
    """Shape and mathematics of a Transformer; hashable, so it can be a static argument of `jax.jit`.

    The defaults are BERT-base. All layers have the same parameters, except that `first_attention_norm=False` leaves out
    one norm of layer 0.
    """

    vocabulary: int = 30522
    """V, rows of the token table; 0 in a training config means the size of the run's tokenizer."""
    dim: int = 768
    """D, width of a token's vector in every layer."""
    depth: int = 12
    """Layers above the embeddings."""
    heads: int = 12
    """H, attention heads of each layer; they share D."""
    feed_forward: int = 3072
    """F, inner width of a layer's feed-forward part."""
    activation: Activation = "gelu"
    """Activation of the feed-forward part. `gelu` is exact (erf), `gelu_tanh` its tanh approximation."""
    gated: bool = False
    """GeGLU, SwiGLU: down(activation(gate(x)) * up(x)) instead of down(activation(up(x)))."""
    causal: bool = False
    """GPT: a token attends to itself and to earlier tokens only."""

    shared_layers: bool = False
    """ALBERT: all layers have the parameters of the first."""
    embedding_dim: int | None = None
    """Width of the embedding tables, which a matrix projects to D (ELECTRA's small one, ALBERT); None: D, no matrix."""
    scaled_embeddings: bool = False
    """Gemma: token vectors are multiplied by sqrt(D)."""

    norm: Literal["post", "pre", "both"] = "post"
    """Norms come after each residual sum (`post`: BERT), or before attention and feed-forward, with one more at the end
    (`pre`: GPT-2, ModernBERT), or before them and behind them (`both`: Gemma 3)."""
    norm_kind: NormKind = "layer"
    """`layer`: layer norm. `rms`: without mean and bias (T5, Qwen3)."""
    norm_epsilon: float = 1e-12
    """Added to the variance in every norm."""
    norm_bias: bool = True
    """Layer norms have a bias as well as a scale."""
    embedding_norm: bool = True
    """A norm after the sum of the embeddings."""
    first_attention_norm: bool = True
    """If False (ModernBERT), layer 0 has no norm before its attention; needs `pre` norms."""
    attention_bias: bool = True
    """Query, key, value and attention output have biases."""
    feed_forward_bias: bool = True
    """The feed-forward part's matrices have biases."""
    down_bias: bool | None = None
    """Its last matrix has one; None: as `feed_forward_bias` says."""
    kv_heads: int | None = None
    """G, heads of keys and values, each for H / G heads of queries (grouped queries); None: H."""
    head_dim: int | None = None
    """E, width of a head; None: D / H."""
    head_norms: bool = False
    """Qwen3, Gemma 3: a norm over each head of queries and keys."""
    attention_scale: float | None = None
    """Multiplies the scores, products of queries and keys; None: 1 / sqrt(E), or with `disentangled` 1 / sqrt(E (1 +
    the number of `relative_terms`))."""

    positions: Literal["learned", "rotary", "none"] = "learned"
    """`learned`: a table whose rows are added to the embeddings. `rotary`: queries and keys are rotated by position.
    `none`: those of `relative` alone (T5)."""
    max_positions: int = 512
    """P, rows of the position table; without one the longest sequence. RoBERTa's table has pad_id + 1
    rows that no token uses."""
    positions_after_padding: bool = False
    """RoBERTa: the first position is pad_id + 1, and padding has position pad_id."""
    pad_id: int | None = 0
    """Id of the padding token, by which `positions_after_padding` recognises padding; None: no such token."""
    token_types: int = 2
    """Rows of the segment embedding; 0: none."""
    rotary_theta: float = 160_000.0
    """Base of the rotary positions' wavelengths, theta; the longest wavelength grows with it."""
    local_rotary_theta: float = 10_000.0
    """Theta of the `local_layers`."""
    rotary_factor: float = 1.0
    """Rotary positions are divided by it, for rows longer than those that theta was chosen for (linear scaling)."""
    relative: Literal["none", "bias", "disentangled"] = "none"
    """`bias`: a number for each head and bucket of distances is added to the scores, the same in all layers (T5,
    MPNet). `disentangled`: products with vectors of distances are (DeBERTa)."""
    relative_buckets: int = 32
    """R, buckets of distances; with `disentangled` as many again for keys behind the query."""
    relative_distance: int = 128
    """The distance from which on all fall into the last bucket."""
    relative_terms: tuple[Term, ...] = ("c2p", "p2c")
    """The products of `disentangled`: contents with positions, and positions with contents."""
    local_layers: tuple[int, ...] = ()
    """Layers, counted from 0, whose tokens attend only to tokens at most `window` away; the others attend to all."""
    window: int = 64
    """How far the tokens of `local_layers` attend to either side."""

    embedding_dropout: float = 0.1
    """Dropout rate, in training, of the embedding output."""
    attention_dropout: float = 0.1
    """Dropout rate of the attention probabilities; above 0 the fused attention is not used."""
    attention_output_dropout: float = 0.1
    """Dropout rate of the attention's output, before the residual sum."""
    feed_forward_inner_dropout: float = 0.0
    """Dropout rate inside the feed-forward part, before its last matrix (ModernBERT)."""
    feed_forward_dropout: float = 0.1
    """Dropout rate of the feed-forward part's output, before the residual sum."""

    initial_scale: float = 0.02
    """Standard deviation of the truncated normal that initial kernels and tables are drawn from."""
    depth_scaled: bool = False
    """Output projections start smaller by sqrt(2 depth) (GPT-2, ModernBERT)."""

    compute: Compute = "float32"
    """`float32`: exact products on every device. `bfloat16`: bf16 operands, all else in float32; faster."""
    attention: Implementation = "auto"
    """`plain`: matrix products and a softmax, supports everything. `fused`: cuDNN's flash attention, for NVIDIA GPUs,
    in bfloat16, without attention dropout; elsewhere plain, with a warning. `auto`: fused where possible, else plain.
    `xla`: the fused call with XLA's own kernels, for comparison."""
    scan: bool = False
    """One compiled layer, looped: faster to compile, a little slower to run."""
    remat: bool = False
    """Recompute each layer in the backward pass: less memory, more arithmetic."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def longest(self) -> int:
        """The longest sequence that the positions hold: P, less RoBERTa's unused rows."""
        return self.max_positions - self.first_position

    @property
    def first_position(self) -> int:
        """The position of a row's first token: 0, or with `positions_after_padding` pad_id + 1."""
        return 1 + (self.pad_id or 0) if self.positions_after_padding else 0

    @property
    def head_width(self) -> int:
        """E, width of a head."""
        return self.dim // self.heads if self.head_dim is None else self.head_dim

    @property
    def attention_widths(self) -> tuple[int, int]:
        """H E and G E: the widths of queries and of keys."""
        return self.heads * self.head_width, (self.kv_heads or self.heads) * self.head_width

    @property
    def score_scale(self) -> float:
        """What the scores of attention are multiplied by; disentangled ones are sums of so many products."""
        if self.attention_scale is not None:
            return self.attention_scale
        terms = 1 + len(self.relative_terms) if self.relative == "disentangled" else 1
        return float((self.head_width * terms) ** -0.5)

    @property
    def residual_scale(self) -> float:
        """Initial scale of the kernels that `depth_scaled` makes smaller, a vocabulary head's dense layer included."""
        return self.initial_scale / (2 * self.depth) ** 0.5 if self.depth_scaled and self.depth else self.initial_scale

    @property
    def without_dropout(self) -> "Transformer":
        """The same with every dropout rate 0."""
        rates: dict[str, Any] = {field.name: 0.0 for field in fields(self) if field.name.endswith("_dropout")}
        return replace(self, **rates)

    @property
    def num_layers(self) -> int:
        """L: the embedding output and `depth` layers."""
        return self.depth + 1

    @property
    def width(self) -> int:
        """D."""
        return self.dim

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Initial parameters; `encoders/transformer/network.py` lists them."""
        return init(self, key)

    def layers(
        self, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None, dropout: Dropout | None = None
    ) -> Layers:
        """Hidden states of the inputs that `SubwordInputs` makes: one vector a word, the mean over its tokens, or one
        vector a token if "token_ids" and "token_mask" are the only inputs.

        "token_types" int [B, S] may be added. Raises InputError for inputs of other names or shapes, InputTypeError
        for other types and for a carry.
        """
        if carry is not None:
            raise InputTypeError("a Transformer has no recurrent state: leave carry out")
        arrays = checked_arrays(self, inputs)
        ids, mask = arrays["token_ids"], arrays["token_mask"]
        if ids.size == 0:
            words = arrays.get("word_mask", mask)
            return Layers(jnp.zeros((self.num_layers, *words.shape, self.width), jnp.float32), jnp.zeros_like(words))
        types = arrays.get("token_types")
        key, rows = dropout or (None, None)
        states = hidden_states(self, params, ids, mask=mask, token_types=types, key=key, rows=rows)
        return pool_to_words(states, arrays)

    def token_layer(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        """Layer 0 alone, [B, T, D]: the embedding output, position and token type included."""
        arrays = checked_arrays(self, inputs)
        ids = arrays["token_ids"]
        positions = default_positions(self, ids)
        values = embed_tokens(self, params["embeddings"], ids, positions, arrays.get("token_types"), None)
        return pool_to_words(values[None], arrays).values[0]

    def inputs(self, folder: Path | None = None, *, rule: Rule = "whitespace") -> SubwordInputs:
        """The input processor with the tokenizer of `folder`, a run's directory or a Hugging Face folder.

        Raises MissingFileError where there is no tokenizer, InputError where it does not fit the model.
        """
        if folder is None:
            raise InputTypeError("a Transformer's inputs need the folder of its tokenizer: give folder")
        return read_inputs(self, Path(folder), rule)

    def default_head(self) -> VocabularyHead:
        """The vocabulary head that fits: the decoder alone for a causal model (GPT), else BERT's with this model's
        activation and norms."""
        if self.causal:
            return VocabularyHead(transform=False, decoder_bias=False)
        return VocabularyHead(
            activation="gelu" if self.positions_after_padding else self.activation,  # RoBERTa's is always gelu
            bias=self.feed_forward_bias,
            norm_epsilon=self.norm_epsilon,
            norm_bias=self.norm_bias,
        )

    def depth_of(self, name: str) -> int:
        """0 for the embeddings and distances, i + 1 for "layer_i", depth + 1 for "final_norm"; else InputError. A layer
        that is shared by all depths counts as the top one."""
        first = name.split("/", 1)[0]
        layer = re.fullmatch(r"layer_(\d+)", first)
        if layer and int(layer[1]) < self.depth:
            return self.depth if self.shared_layers else int(layer[1]) + 1
        if first == "embeddings" or (first == "relative" and self.relative != "none"):
            return 0
        if first == "final_norm" and self.norm != "post":
            return self.depth + 1
        raise InputError(f"a Transformer of depth {self.depth} has no parameter {name}")

    def flops_per_token(self, length: int) -> float:
        """2 for each matrix weight, and 4 T D per layer for attention to a whole row of T = `length` tokens."""
        of_queries, of_keys = self.attention_widths
        layer = 2 * self.dim * (of_queries + of_keys) + (3 if self.gated else 2) * self.dim * self.feed_forward
        return float(self.depth * (2 * layer + 4 * length * of_queries) + 2 * (self.embedding_dim or 0) * self.dim)
