"""An encoder with a mix of its layers and a head: from inputs to the scores of labels, for texts and for words.

Letters: L layers, B rows, T words or tokens, D width, K labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.span_labels import legal_steps
from ctx_jax.embedding.mixing import init_mix, mix, softmax_weights
from ctx_jax.embedding.pooling import How, pool
from ctx_jax.flax import plain_params
from ctx_jax.heads import LabelHead, LayerMix, TaggerHead
from ctx_jax.heads.crf import Transitions, sequence_nats, viterbi
from ctx_jax.io.errors import ConfigError
from ctx_jax.ops.dropout import Dropout, fold_seeds, row_seeds
from ctx_jax.ops.dropout import dropout as drop_out
from ctx_jax.typing import Mask, Params

LayerChoice = Literal["mix", "last"] | int
MIX, LABELS = "mix", "labels"  # names of the heads
CHARACTERS = "word_characters"  # char_ids [B, T, C] among the inputs


class Scored(NamedTuple):
    """What the head says of the labels of texts or words."""

    logits: jax.Array  # [B, K] of texts, [B, T, K] of words
    mask: Mask  # bool [B, T], True at real words or tokens
    transitions: Transitions | None = None  # of a CRF, to which the logits of a sentence's words belong together


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
    head: Any = None
    """A `TaggerHead` or `LabelHead` of these labels; None: a `LabelHead`."""

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
        return {LABELS: LabelHead(self.labels) if self.head is None else self.head} | own

    def init_heads(self, key: jax.Array) -> dict[str, Params]:
        """Fresh parameters of the heads: a plain mean of the layers, and small random scores."""
        vectors = jnp.zeros((1, 1, self.model.width), jnp.float32)
        inputs: list[Any] = [vectors]
        if isinstance(self.head, TaggerHead):
            inputs += [jnp.ones((1, 1), bool), jnp.ones((1, 1, self.head.char_length), jnp.int32)]
        own: dict[str, Any] = {MIX: dict(init_mix(self.model.num_layers))} if self.layer is None else {}
        return {LABELS: self.heads[LABELS].init(key, *inputs)["params"]} | own

    def logits(self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None) -> jax.Array:
        """`Scored.logits` of the same arguments."""
        return self.scored(params, inputs, dropout).logits

    def scored(self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None) -> Scored:
        """The scores of labels. `inputs` are the encoder's or those of `StoredVectors.batch`; for a head that reads
        characters with `CHARACTERS` among them."""
        characters = inputs.get(CHARACTERS)
        inputs = {name: array for name, array in inputs.items() if name != CHARACTERS}
        if "vectors" in inputs:  # of the chosen layer alone, if there is one
            values, mask = jnp.moveaxis(inputs["vectors"], 1, 0), inputs["mask"]
        else:
            found = self.model.layers(params["encoder"], inputs, dropout=dropout if self.encoder_dropout else None)
            values, mask = found.values if self.layer is None else found.values[self.layer][None], found.mask
        heads = params["head"]
        vectors = mix(values, plain_params(heads[MIX])) if self.layer is None else values[0]  # type: ignore[arg-type]
        if self.pooling is not None:
            vectors = pool(vectors, mask, self.pooling)
        seeds = None
        if dropout is not None:
            rows = jnp.arange(len(vectors)) if dropout.rows is None else dropout.rows
            seeds = fold_seeds(row_seeds(dropout.key, rows), 1)
            vectors = drop_out(seeds, 0, self.dropout, vectors)
        own, head = {"params": plain_params(heads[LABELS])}, self.heads[LABELS]
        if isinstance(head, TaggerHead):
            tags: Any = head.apply(own, vectors, mask, characters, seeds)
            return Scored(tags.logits, mask, tags.transitions)
        return Scored(jnp.asarray(head.apply(own, vectors)), mask)

    def best(self, scored: Scored) -> jax.Array:
        """The numbers of the best labels, int32 [B] of texts, [B, T] of words: with a CRF the best sequence."""
        if scored.transitions is None:
            return jnp.argmax(scored.logits, axis=-1).astype(jnp.int32)
        legal = legal_steps(self.labels) if self.head.constrained else None
        transitions = (
            scored.transitions
            if legal is None
            else scored.transitions.restricted(Transitions(*map(jnp.asarray, legal)))
        )
        return viterbi(scored.logits, scored.mask, transitions)

    def nats(self, scored: Scored, labels: jax.Array, weights: jax.Array) -> jax.Array:
        """-log p of the labels int [B] or [B, T] whose weights are not 0, summed over each row: [B]."""
        if scored.transitions is not None:
            return sequence_nats(scored.logits, scored.mask, scored.transitions, labels, weights > 0)
        nats = -jnp.take_along_axis(jax.nn.log_softmax(scored.logits), labels[..., None], axis=-1)[..., 0]
        return jnp.sum((nats * weights).reshape(len(nats), -1), axis=1)


def mix_metrics(params: Params) -> dict[str, float]:
    """{"mix_0": weight of layer 0, ..., "gamma": gamma} of a learned mix; {} without one."""
    if MIX not in params["head"]:
        return {}
    mixing = params["head"][MIX]
    weights = np.asarray(softmax_weights(mixing))
    return {f"mix_{layer}": float(weight) for layer, weight in enumerate(weights)} | {"gamma": float(mixing["gamma"])}
