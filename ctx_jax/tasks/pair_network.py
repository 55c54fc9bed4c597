"""Two texts read apart by one encoder, and compared: features into a linear head, or the cosine of their vectors.

Letters: B pairs, T tokens, D width, K labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.labelled_pairs import FIRST, SECOND
from ctx_jax.embedding.pooling import How
from ctx_jax.flax import plain_params
from ctx_jax.heads import CosineHead, SentenceModules
from ctx_jax.heads.sentence import PoolingMode
from ctx_jax.ops.dropout import Dropout
from ctx_jax.tasks.label_network import CONCAT, LABELS, LabelNetwork, Scored
from ctx_jax.tasks.label_rows import Rows
from ctx_jax.typing import Params

Comparison = Literal["features", "cosine"]
_MODES: dict[How, PoolingMode] = {"mean": "mean", "max": "max", "first": "cls", "last": "lasttoken"}


class PairRows(NamedTuple):
    """Rows of pairs whose texts are read apart: the inputs of `SiameseNetwork`."""

    first: Rows
    second: Rows

    @property
    def sizes(self) -> np.ndarray:
        """The length of the longer text of each pair."""
        return np.maximum(self.first.sizes, self.second.sizes)

    @property
    def tokens(self) -> np.ndarray:
        """Those of both texts."""
        return self.first.tokens + self.second.tokens

    @property
    def stored(self) -> bool:
        """Whether they are vectors already."""
        return self.first.stored

    def batch(self, numbers: Sequence[int], rows: int, length: int) -> dict[str, Any]:
        """{"first": inputs, "second": inputs}, each of B = `rows`, T = `length`."""
        return {FIRST: self.first.batch(numbers, rows, length), SECOND: self.second.batch(numbers, rows, length)}


def both_texts(inputs: Mapping[str, Any], dropout: Dropout | None) -> tuple[dict[str, jax.Array], Dropout | None]:
    """The inputs {"first": ..., "second": ...} as one batch of 2 B rows, all first ones first, with its dropout."""
    first, second = inputs[FIRST], inputs[SECOND]
    both = {name: jnp.concatenate([first[name], second[name]]) for name in first}
    if dropout is not None:
        rows = jnp.arange(len(next(iter(first.values())))) if dropout.rows is None else dropout.rows
        dropout = dropout._replace(rows=jnp.concatenate([2 * rows, 2 * rows + 1]))
    return both, dropout


@dataclass(frozen=True)
class SiameseNetwork(LabelNetwork):
    """`LabelNetwork` of inputs {"first": ..., "second": ...}, each those of B texts."""

    compare: Comparison = "features"
    """`features`: a linear head on (u, v, |u - v|, u * v); `cosine`: a number by a `CosineHead`."""

    @property
    def heads(self) -> dict[str, Any]:
        """The heads' modules by name."""
        own = super().heads
        if self.compare == "cosine":
            own[LABELS] = CosineHead()
        return own

    @property
    def width(self) -> int:
        """The width of the features."""
        return 4 * super().width

    def init_heads(self, key: jax.Array) -> dict[str, Params]:
        """Fresh parameters of the heads."""
        own = super().init_heads(key)
        if self.compare == "cosine":
            own[LABELS] = {"scale": jnp.ones((), jnp.float32), "bias": jnp.zeros((), jnp.float32)}
        return own

    def first_scores(self, numbers: np.ndarray) -> Params:
        """The cosines 0 and 1 start as the least and the greatest of the numbers."""
        if self.compare == "features":
            return super().first_scores(numbers)
        least, greatest = np.float32(numbers.min()), np.float32(numbers.max())
        return {"scale": np.asarray(greatest - least), "bias": np.asarray(least)}

    def sentence(self, length: int | None) -> SentenceModules:
        """How `Encoder.encode` makes the vectors of `texts`, cut to `length` tokens (None: where the encoder cuts)."""
        unsupported = {"pooling attention": self.pooling == "attention", "mix_norm": self.mix_norm}
        layer, pooled = self.layer, CONCAT if self.pooling == "concat" else (self.pooling,)
        return SentenceModules(
            pooling=tuple(_MODES[how] for how in pooled if how in _MODES),
            length=length,
            layers="mix" if layer is None else "last" if layer == self.model.num_layers - 1 else layer,
            empty=False,
            unsupported=tuple(name for name, used in unsupported.items() if used),
        )

    def texts(
        self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The vectors [B, D] of the first and of the second texts, which the encoder reads in one batch."""
        both, dropout = both_texts(inputs, dropout)
        vectors, _ = self.vectors(params, both, dropout)
        first, second = jnp.split(vectors, 2)
        return first, second

    def scored(self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None) -> Scored:
        """The scores [B, K] of pairs."""
        first, second = self.texts(params, inputs, dropout)
        mask = jnp.ones(len(first), bool)
        if self.compare == "cosine":
            head = {"params": plain_params(params["head"][LABELS])}
            number: Any = CosineHead().apply(head, first, second)
            return Scored(jnp.asarray(number)[:, None], mask)
        features = jnp.concatenate([first, second, jnp.abs(first - second), first * second], axis=-1)
        return self.scores(params, features, mask, dropout)
