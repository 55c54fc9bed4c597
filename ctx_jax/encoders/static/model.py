"""`StaticTable`: a table of word vectors as an encoder of one layer (see `encoders.base.Model`).

Parameters: words/embedding [V + 1, D] float32. The last row is the vector of every word that the table does not have.

Letters: B rows, T words, D width, V words of the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.base import Layers
from ctx_jax.encoders.static.inputs import StaticInputs, UnknownWords
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError
from ctx_jax.ops.dropout import Dropout
from ctx_jax.ops.linear import Compute, lookup
from ctx_jax.tokenizers.words import Rule
from ctx_jax.typing import Carry, Params


@dataclass(frozen=True)
class StaticTable:
    """A word's vector, whatever its sentence; hashable, so it can be a static argument of `jax.jit`.

    encoder = ctx_jax.load("glove.6B.300d.txt", lowercase=True)
    encoder.model                                           # StaticTable(vocabulary=400000, dim=300, lowercase=True)
    """

    vocabulary: int
    """V, words of the table; a further row is for all other words."""
    dim: int
    """D, width of the vectors."""
    lowercase: bool = False
    """Words of a text are lower-cased before they are looked up. The words of the table stay as they are."""
    unknown: UnknownWords = "zero"
    """The vector of words outside the table: `zero`; `mean`, that of the table's rows. Training changes it like the
    others. `error`: such a word is an InputError."""
    words: str = ""
    """SHA-256 of `words.txt`, the table's word list; "": any list of V words fits."""
    compute: Compute = "float32"
    """Without effect: a look-up has no matrix product."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "dim"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")

    @property
    def num_layers(self) -> int:
        """1: the vectors of the table."""
        return 1

    @property
    def width(self) -> int:
        """D."""
        return self.dim

    def init(self, key: jax.Array) -> Params:
        """A fresh table, drawn from U(-0.5, 0.5) / D as word2vec's; the vector of unknown words as `unknown` says."""
        table = jax.random.uniform(key, (self.vocabulary, self.dim), jnp.float32, -0.5, 0.5) / self.dim
        mean = jnp.mean(table, axis=0, keepdims=True)
        last = mean if self.unknown == "mean" else jnp.zeros_like(mean)
        return {"words": {"embedding": jnp.concatenate([table, last])}}

    def layers(
        self, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None, dropout: Dropout | None = None
    ) -> Layers:
        """The table's vectors [1, B, T, D] for {"token_ids": int32 [B, T]}, -1 at padding.

        `dropout` has no effect: the table has none. An id outside the table gives NaN. InputTypeError for a
        `carry`.
        """
        if carry is not None:
            raise InputTypeError("a table of word vectors has no state: leave carry out")
        ids = _checked(inputs)
        return Layers(self._vectors(params, ids)[None], ids != -1)

    def token_layer(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        """The only layer, [B, T, D]."""
        return self._vectors(params, _checked(inputs))

    def inputs(self, folder: Path | None = None, *, rule: Rule = "whitespace") -> StaticInputs:
        """The processor with the word list of `folder`, its `words.txt`.

        MissingFileError without it; InputError if it is not the list of this table.
        """
        if folder is None:
            raise InputError("a table's inputs need its word list: give the folder that holds words.txt")
        return StaticInputs.read(
            Path(folder),
            size=self.vocabulary,
            digest=self.words,
            rule=rule,
            lowercase=self.lowercase,
            unknown=self.unknown,
        )

    def depth_of(self, name: str) -> int:
        """0: there is nothing below or above the table. InputError for a name that the model does not have."""
        if name != "words/embedding":
            raise InputError(f"a table of word vectors has the parameter words/embedding alone, not {name}")
        return 0

    def flops_per_token(self, length: int) -> float:
        """0: no matrix product."""
        return 0.0

    def _vectors(self, params: Params, ids: jax.Array) -> jax.Array:
        vectors = lookup(params["words"]["embedding"], ids)  # [B, T, D]
        return jnp.where((ids != -1)[..., None], vectors, 0.0)


def _checked(inputs: Mapping[str, Any]) -> jax.Array:
    """The ids as int32 [B, T]."""
    names = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
    if names != ["token_ids"]:
        raise InputError(f"a table of word vectors reads inputs token_ids, got {names}: use encoder.tokenize")
    ids = jnp.asarray(inputs["token_ids"])
    if ids.ndim != 2:
        raise InputError(f"token_ids must be [B, T], got shape {ids.shape}: use encoder.tokenize")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputTypeError(f"token_ids must be integers, got {ids.dtype}")
    return ids.astype(jnp.int32)
