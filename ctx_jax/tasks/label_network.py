"""An encoder with a mix of its layers and a linear head: from inputs to the scores of labels, for texts and for words.

Letters: L layers, B rows, T words or tokens, D width, K labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.embedding.mixing import init_mix, mix, softmax_weights
from ctx_jax.embedding.pooling import How, pool
from ctx_jax.flax import plain_params
from ctx_jax.heads import LabelHead, LayerMix
from ctx_jax.io.errors import ConfigError
from ctx_jax.ops.dropout import Dropout, fold_seeds, row_seeds
from ctx_jax.ops.dropout import dropout as drop_out
from ctx_jax.typing import Params

LayerChoice = Literal["mix", "last"] | int
MIX, LABELS = "mix", "labels"  # names of the heads


@dataclass(frozen=True)
class LabelNetwork:
    """Pure functions of inputs and parameters; hashable."""

    model: Any
    labels: tuple[str, ...]
    layers: LayerChoice = "mix"
    pooling: How | None = None
    """How a text's vectors become one; None: every word has its own label."""
    dropout: float = 0.0
    encoder_dropout: bool = True
    """With `dropout` the encoder drops out at its own rates too."""

    @property
    def layer(self) -> int | None:
        """The number of the layer that alone is used; None for a mix."""
        match self.layers:
            case "mix":
                return None
            case "last":
                return int(self.model.num_layers) - 1
            case number if 0 <= number < self.model.num_layers:
                return number
        raise ConfigError("layers", f"must be mix, last or 0..{self.model.num_layers - 1}, got {self.layers}")

    @property
    def heads(self) -> dict[str, Any]:
        """The heads' modules by name."""
        own = {MIX: LayerMix(self.model.num_layers)} if self.layer is None else {}
        return {LABELS: LabelHead(self.labels)} | own

    def init_heads(self, key: jax.Array) -> dict[str, Params]:
        """Fresh parameters of the heads: a plain mean of the layers, and small random scores."""
        vectors = jnp.zeros((1, self.model.width), jnp.float32)
        own: dict[str, Any] = {MIX: dict(init_mix(self.model.num_layers))} if self.layer is None else {}
        return {LABELS: LabelHead(self.labels).init(key, vectors)["params"]} | own

    def logits(self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None) -> jax.Array:
        """Scores [B, K] of texts, [B, T, K] of words. `inputs` are the encoder's or those of `StoredVectors.batch`."""
        if "vectors" in inputs:  # of the chosen layer alone, if there is one
            values, mask = jnp.moveaxis(inputs["vectors"], 1, 0), inputs["mask"]
        else:
            found = self.model.layers(params["encoder"], inputs, dropout=dropout if self.encoder_dropout else None)
            values, mask = found.values if self.layer is None else found.values[self.layer][None], found.mask
        heads = params["head"]
        vectors = mix(values, plain_params(heads[MIX])) if self.layer is None else values[0]  # type: ignore[arg-type]
        if self.pooling is not None:
            vectors = pool(vectors, mask, self.pooling)
        if dropout is not None:
            rows = jnp.arange(len(vectors)) if dropout.rows is None else dropout.rows
            vectors = drop_out(fold_seeds(row_seeds(dropout.key, rows), 1), 0, self.dropout, vectors)
        scores: Any = LabelHead(self.labels).apply({"params": plain_params(heads[LABELS])}, vectors)
        return jnp.asarray(scores)


def mix_metrics(params: Params) -> dict[str, float]:
    """{"mix_0": weight of layer 0, ..., "gamma": gamma} of a learned mix; {} without one."""
    if MIX not in params["head"]:
        return {}
    mixing = params["head"][MIX]
    weights = np.asarray(softmax_weights(mixing))
    return {f"mix_{layer}": float(weight) for layer, weight in enumerate(weights)} | {"gamma": float(mixing["gamma"])}
