"""A smaller language model that is trained beside an encoder and reads the encoder's embedding tables: ELECTRA's
generator (Clark et al. 2020).

Letters: V vocabulary, E width of the tables.
"""

from dataclasses import dataclass
from typing import Any

import jax

from ctx_jax.heads.vocabulary import VocabularyHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.typing import Params

SHARED = ("tokens", "positions", "types", "norm")
"""What of an encoder's "embeddings" the generator reads; the projection to its own width is not among them."""


@dataclass(frozen=True)
class Generator:
    """A masked language model without embedding tables of its own.

    Parameters {encoder: {embeddings: {projection} if its width is not E, layer_0 ...}, masked_lm: {...}}: its layers
    and its vocabulary head, whose decoder is the shared token table [V, E].
    """

    model: Any
    """Its shape, a model value of the kind of the encoder's."""
    head: VocabularyHead
    """Its vocabulary head."""

    def __post_init__(self) -> None:
        if not hasattr(self.model, "embedding_dim"):
            raise ConfigError("generator.model", f"must be a Transformer, got {type(self.model).__name__}")

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, without the shared tables."""
        of_layers, of_head = jax.random.split(key)
        model = self.model
        layers = dict(model.init(of_layers))
        tables = layers.pop("embeddings")
        own = {name: table for name, table in tables.items() if name not in SHARED}
        head = self.head.init(
            of_head,
            width=model.width,
            vocabulary=model.vocabulary,
            decoder_width=model.embedding_dim,
            scale=model.initial_scale,
            dense_scale=model.residual_scale,
        )
        return {"encoder": {**layers, **({"embeddings": own} if own else {})}, "masked_lm": head}

    def complete(self, own: Params, embeddings: Params) -> dict[str, Any]:
        """{"encoder", "head": {"masked_lm"}}, the parameters of a masked language model, from those of `init` and the
        tree "embeddings" of the encoder that it shares."""
        layers = {name: own["encoder"][name] for name in own["encoder"] if name != "embeddings"}
        tables = {name: embeddings[name] for name in embeddings if name in SHARED}
        if "embeddings" in own["encoder"]:
            projection = own["encoder"]["embeddings"]
            tables |= {name: projection[name] for name in projection}
        return {"encoder": {**layers, "embeddings": tables}, "head": {"masked_lm": own["masked_lm"]}}
