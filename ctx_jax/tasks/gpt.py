"""Fine-tuning as the first GPT's authors did it (Radford et al. 2018, sections 3.2 and 3.3).

New start, delimiter and extract tokens are put around a text or pair, the extract token's vector in the last layer is
scored, and the language model's loss on the same rows is an auxiliary term. Where a pair has no order both orders are
read, and the two vectors added. Letters: B rows, S tokens of a row, V vocabulary, D width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.labelled_pairs import FIRST
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.pooling import pool
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.gpt_inputs import NEW_TOKENS
from ctx_jax.io.errors import ConfigError
from ctx_jax.losses.language_model import next_token_loss
from ctx_jax.ops.dense import truncated_normal
from ctx_jax.ops.dropout import Dropout
from ctx_jax.tasks.label_network import LabelNetwork
from ctx_jax.tasks.label_task import LabelTask
from ctx_jax.tasks.pair_network import both_texts
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.typing import Carry, Mask, Params, Terms

LM_TERM = "next_token"
_TABLE = "encoder/embeddings/tokens"
_NEW_ROWS = 2**32 - 3
"""Folded into the seed for the new tokens' embeddings; larger than any step number."""


class Read(NamedTuple):
    """What the encoder makes of rows."""

    ids: jax.Array  # [B, S], of both orders [2 B, S]
    mask: Mask
    hidden: jax.Array  # float32 [B or 2 B, S, D], the last layer


@dataclass(frozen=True)
class GPTNetwork(LabelNetwork):
    """`LabelNetwork` of the inputs of `GPTInputs`; of `both_orders` {"first": ..., "second": ...}, one each."""

    both_orders: bool = False

    def read(self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None) -> Read:
        """The last layer of every token."""
        tokens: Any = inputs
        if FIRST in inputs:
            tokens, dropout = both_texts(inputs, dropout)
        found = self.model.layers(params["encoder"], tokens, dropout=dropout if self.encoder_dropout else None)
        return Read(tokens["token_ids"], found.mask, found.values[-1])

    def extracted(self, read: Read) -> tuple[jax.Array, Mask]:
        """The extract tokens' vectors [B, D], those of both orders added."""
        vectors = pool(read.hidden, read.mask, "last")
        if self.both_orders:
            first, second = jnp.split(vectors, 2)
            vectors = first + second
        return vectors, jnp.ones(len(vectors), bool)

    def vectors(
        self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None
    ) -> tuple[jax.Array, Mask]:
        """`extracted` of the inputs."""
        return self.extracted(self.read(params, inputs, dropout))


@dataclass(frozen=True, eq=False)
class GPTTask(LabelTask):
    """`LabelTask` with the language model's loss beside that of the labels."""

    @property
    def coefficients(self) -> Mapping[str, float]:
        weight = self.config.tuning.lm_weight
        return {**super().coefficients, **({LM_TERM: weight} if weight else {})}

    def initial(self, params: Params) -> Params:
        """With new rows in the token table."""
        found = dict(super().initial(params))
        return found | {"encoder": with_new_tokens(found["encoder"], self.model, self.seed)}

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """`label_terms`, and the nats of each next token of the rows, the extract token included."""
        network: Any = self.network
        dropout = None if key is None else Dropout(key, batch.rows)
        read = network.read(params, batch.inputs, dropout)
        terms = self.label_terms(network.scores(params, *network.extracted(read), dropout), batch)
        if LM_TERM in self.coefficients:
            terms[LM_TERM] = next_token_loss(self.model, params, read.hidden, read.ids, read.mask)
        return terms, carry

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """With the language model's loss."""
        return super().metrics(means) | ({LM_TERM: means[LM_TERM]} if LM_TERM in means else {})


def check_gpt(config: Any) -> None:
    """ConfigError for settings of a `LabelConfig` that are not GPT's."""
    if config.text_pooling is None:
        raise ConfigError("gpt", "is for classify and pairs: a tagger has no extract token")
    if config.frozen:
        raise ConfigError(
            "gpt", "has new tokens, whose vectors a frozen encoder would not learn: leave one of them out"
        )
    _check_new_tokens_learn(config.tuning)
    if config.head != "linear":
        raise ConfigError("head", f"is {config.head}, and gpt has a linear one: leave one of them out")
    for name, needed in (("layers", "last"), ("pooling", "last")):
        if getattr(config, name) != needed:
            raise ConfigError(
                name, f"is {getattr(config, name)}, and gpt takes the extract token in the last layer: set {needed}"
            )
    if getattr(config, "style", "cross") != "cross":
        raise ConfigError("style", f"is {config.style}, and gpt reads both texts in one row: set cross")


def _check_new_tokens_learn(tuning: TuningOptions) -> None:
    """ConfigError for `TuningOptions` that keep the token table, whose new rows are random, from being trained."""
    if tuning.unfreeze_every:
        raise ConfigError(
            "unfreeze_every",
            "trains the embeddings last, and gpt has new tokens whose random vectors are to be trained from the first "
            "step: leave one of them out",
        )
    for pattern in tuning.freeze:
        if re.search(pattern, _TABLE):
            raise ConfigError(
                "freeze",
                f"has {pattern!r}, which matches {_TABLE}, and gpt has new tokens there whose random vectors are to be "
                "trained: give patterns of other parameters, or leave gpt out",
            )


def with_new_vocabulary(encoder: Encoder, lm_weight: float) -> Encoder:
    """A pretrained encoder whose model has room for the new tokens; its parameters are as they were.

    ConfigError for another model than a causal Transformer, and for one whose scores of the next token are not its
    token table's.
    """
    model = encoder.model
    if not isinstance(model, Transformer) or not model.causal:
        raise ConfigError(
            "gpt", f"is for causal Transformers (GPT, GPT-2), and the encoder is a {type(model).__name__}"
        )
    head = encoder.heads.get("causal_lm")
    if lm_weight and head is not None and head.module.has_params:
        raise ConfigError("lm_weight", "needs a decoder tied to the token table, and the encoder has its own: set 0")
    return replace(encoder, model=replace(model, vocabulary=model.vocabulary + NEW_TOKENS))


def with_new_tokens(params: Params, model: Any, seed: int) -> Params:
    """The encoder's parameters with random rows of `NEW_TOKENS` at the end of the token table."""
    key = jax.random.fold_in(jax.random.key(seed), _NEW_ROWS)
    tables = params["embeddings"]
    new = np.asarray(truncated_normal(key, (NEW_TOKENS, model.dim), model.initial_scale))
    return {**params, "embeddings": {**tables, "tokens": np.concatenate([np.asarray(tables["tokens"]), new])}}
