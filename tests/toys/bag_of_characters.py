"""A toy family: a word is the mean of its bytes' vectors; layer 1 adds the mean of the sentence.

Letters: B sentences, T words, C bytes of a word, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.base import Family, Layers, padded_shape
from ctx_jax.encoders.whole_words import WholeWordInputs
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.ops.dense import init_dense
from ctx_jax.ops.dropout import Dropout
from ctx_jax.ops.linear import Compute, linear, lookup
from ctx_jax.tokenizers.words import Rule
from ctx_jax.typing import Carry, Params

BYTES = 16  # C


@dataclass(frozen=True)
class ByteInputs(WholeWordInputs):
    """Words to their first bytes, plus 1; 0 where there is none."""

    rule: Rule = "whitespace"
    digest = "the bytes of words"

    def pad(self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None) -> dict[str, np.ndarray]:
        height, width = padded_shape(self.sizes(sentences), rows, length, "words")
        ids, mask = np.zeros((height, width, BYTES), np.int32), np.zeros((height, width), bool)
        for row, sentence in enumerate(sentences):
            for place, word in enumerate(sentence):
                found = word.encode()[:BYTES]
                ids[row, place, : len(found)] = np.frombuffer(found, np.uint8).astype(np.int32) + 1
                mask[row, place] = True
        return {"bytes": ids, "word_mask": mask}


@dataclass(frozen=True)
class BagOfCharacters:
    """Two layers: bytes, and the sentence."""

    dim: int = 16
    compute: Compute = "float32"

    @property
    def num_layers(self) -> int:
        return 2

    @property
    def width(self) -> int:
        return self.dim

    def init(self, key: jax.Array) -> Params:
        table, layer = jax.random.split(key)
        return {
            "bytes": {"embedding": jax.random.normal(table, (257, self.dim), jnp.float32)},
            "layer_0": init_dense(layer, self.dim, self.dim, bias=True, scale=0.3),
        }

    def token_layer(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        ids, mask = jnp.asarray(inputs["bytes"]), jnp.asarray(inputs["word_mask"])
        real = (ids > 0).astype(jnp.float32)[..., None]  # [B, T, C, 1]
        vectors = lookup(params["bytes"]["embedding"], ids) * real
        means = jnp.sum(vectors, axis=2) / jnp.maximum(jnp.sum(real, axis=2), 1.0)
        return jnp.where(mask[..., None], means, 0.0)

    def layers(
        self, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None, dropout: Dropout | None = None
    ) -> Layers:
        if carry is not None:
            raise InputTypeError("this encoder has no state to carry")
        mask = jnp.asarray(inputs["word_mask"])
        words = self.token_layer(params, inputs)
        count = jnp.maximum(jnp.sum(mask, axis=1), 1).astype(jnp.float32)
        layer = params["layer_0"]
        sentence = linear(jnp.sum(words, axis=1) / count[:, None], layer["kernel"], self.compute)
        top = words + sentence[:, None, :] + layer["bias"][None, None, :]
        return Layers(jnp.stack([words, jnp.where(mask[..., None], top, 0.0)]), mask)

    def inputs(self, folder: Path | None = None, *, rule: Rule = "whitespace") -> ByteInputs:
        return ByteInputs(rule)

    def depth_of(self, name: str) -> int:
        depths = {"bytes": 0, "layer_0": 1}
        if (depth := depths.get(name.partition("/")[0])) is None:
            raise InputError(f"no parameter {name!r} in a BagOfCharacters")
        return depth

    def flops_per_token(self, length: int) -> float:
        return 2.0 * self.dim**2 / length


FAMILY = Family(BagOfCharacters, "nothing: it has no files but our runs", lambda folder: None)
