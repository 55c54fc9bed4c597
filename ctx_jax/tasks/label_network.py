"""An encoder with a mix of its layers and a head: from inputs to the scores of labels, for texts and for words.

Letters: L layers, B rows, T words or tokens, D width, K labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.labelled import Example
from ctx_jax.data.span_labels import legal_steps
from ctx_jax.embedding.mixing import init_mix, mix, softmax_weights
from ctx_jax.embedding.pooling import How, pool
from ctx_jax.flax import plain_params
from ctx_jax.heads import AttentionPooling, ClassificationHead, LabelHead, LayerMix, SequenceHead, TaggerHead
from ctx_jax.heads.crf import Transitions, sequence_nats, viterbi
from ctx_jax.io.errors import ConfigError
from ctx_jax.ops.dropout import Dropout, fold_seeds, row_seeds
from ctx_jax.ops.dropout import dropout as drop_out
from ctx_jax.tasks.label_values import Target, text_answer, value_metrics
from ctx_jax.typing import Mask, Params

LayerChoice = Literal["mix", "last"] | int
TextPooling = Literal[How, "attention", "concat"]
"""`attention`: a learned weighted mean; `concat`: the last, the largest and the mean, one after the other."""
MIX, LABELS, POOLING = "mix", "labels", "pooling"  # names of the heads
CHARACTERS = "word_characters"  # char_ids [B, T, C] among the inputs
HEAD_DROPOUT = 2**31
"""The number of the head's seeds among those of the layers (`ops.dropout.fold_seeds`), which no layer has."""
CONCAT: tuple[How, ...] = ("last", "max", "mean")


class Scored(NamedTuple):
    """What the head says of the labels of texts or words."""

    logits: jax.Array  # [B, K] of texts, [B, T, K] of words
    mask: Mask  # bool [B] of texts, all True; [B, T] of words, False at padding
    transitions: Transitions | None = None  # of a CRF, to which the logits of a sentence's words belong together


@dataclass(frozen=True)
class LabelNetwork:
    """Pure functions of inputs and parameters; hashable."""

    model: Any
    labels: tuple[str, ...]
    layers: LayerChoice = "mix"
    pooling: TextPooling | None = None
    """How a text's vectors become one; None: every word has its own label."""
    dropout: float = 0.0
    encoder_dropout: bool = True
    """With `dropout` the encoder drops out at its own rates too."""
    target: Target = "classes"
    head: Any = None
    """A `TaggerHead`, `ClassificationHead`, `SequenceHead` or `LabelHead` of these labels; None: a `LabelHead`."""
    mix_norm: bool = False
    """Each layer of a row is normalised before the mix (`ctx_jax.mix`, layer_norm="row")."""

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
        own: dict[str, Any] = {MIX: LayerMix(self.model.num_layers, self.mix_norm)} if self.layer is None else {}
        if self.pooling == "attention":
            own[POOLING] = AttentionPooling()
        return {LABELS: self.label_head} | own

    @property
    def label_head(self) -> Any:
        """The module that gives the scores of vectors."""
        return LabelHead(self.labels) if self.head is None else self.head

    @property
    def width(self) -> int:
        """The width of the vectors that are scored."""
        return int(self.model.width) * (len(CONCAT) if self.pooling == "concat" else 1)

    @property
    def stored_pooling(self) -> How | None:
        """How the layers of a text may be pooled before they are mixed; None: in none that gives the same."""
        if self.mix_norm:
            return None
        return self.pooling if self.pooling in get_args(How) and self.pooling != "max" else None  # type: ignore[return-value]

    def init_heads(self, key: jax.Array) -> dict[str, Params]:
        """Fresh parameters of the heads: a plain mean of the layers and of the tokens, and small random scores."""
        own: dict[str, Any] = {MIX: dict(init_mix(self.model.num_layers))} if self.layer is None else {}
        if self.pooling == "attention":
            own[POOLING] = {"query": {"kernel": jnp.zeros((self.model.width, 1), jnp.float32)}}
        if isinstance(self.head, ClassificationHead | SequenceHead):
            return {LABELS: self.head.init(key, width=self.width)} | own
        inputs: list[Any] = [jnp.zeros((1, 1, self.width), jnp.float32)]
        if isinstance(self.head, TaggerHead):
            inputs += [jnp.ones((1, 1), bool), jnp.ones((1, 1, self.head.char_length), jnp.int32)]
        return {LABELS: self.label_head.init(key, *inputs)["params"]} | own

    def first_scores(self, numbers: np.ndarray) -> Params:
        """Parameters of the head of a number that fit these numbers better than fresh ones: it starts at their mean."""
        bias = {"bias": np.full(1, numbers.mean(), np.float32)}
        match self.head:
            case SequenceHead():
                return bias if self.head.bias else {}
            case ClassificationHead():
                return {"out": bias}
        return {"scores": bias}

    def vectors(
        self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None
    ) -> tuple[jax.Array, Mask]:
        """Vectors [B, D] of texts, [B, T, D] of words, and the mask of `Scored`. `inputs` are the encoder's or those of
        `StoredVectors.batch`."""
        if "vectors" in inputs:  # of the chosen layer alone, if there is one
            values, mask = jnp.moveaxis(inputs["vectors"], 1, 0), inputs["mask"]
        else:
            found = self.model.layers(params["encoder"], inputs, dropout=dropout if self.encoder_dropout else None)
            values, mask = found.values if self.layer is None else found.values[self.layer][None], found.mask
        heads = params.get("head", {})  # a ranking may have none
        if self.layer is None:
            mixing: Any = plain_params(heads[MIX])
            vectors = mix(values, mixing, mask=mask, layer_norm="row") if self.mix_norm else mix(values, mixing)
        else:
            vectors = values[0]
        match self.pooling:
            case None:
                return vectors, mask
            case "attention":
                pooled: Any = AttentionPooling().apply({"params": plain_params(heads[POOLING])}, vectors, mask)
                vectors = jnp.asarray(pooled)
            case "concat":
                vectors = jnp.concatenate([pool(vectors, mask, how) for how in CONCAT], axis=-1)
            case how:
                vectors = pool(vectors, mask, how)
        return vectors, jnp.ones(len(vectors), bool)

    def logits(self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None) -> jax.Array:
        """`Scored.logits` of the same arguments."""
        return self.scored(params, inputs, dropout).logits

    def scored(self, params: Params, inputs: Mapping[str, Any], dropout: Dropout | None = None) -> Scored:
        """The scores of labels. `inputs` are those of `vectors`; for a head that reads characters with `CHARACTERS`
        among them."""
        encoded = {name: array for name, array in inputs.items() if name != CHARACTERS}
        vectors, mask = self.vectors(params, encoded, dropout)
        return self.scores(params, vectors, mask, dropout, inputs.get(CHARACTERS))

    def scores(
        self,
        params: Params,
        vectors: jax.Array,
        mask: Mask,
        dropout: Dropout | None = None,
        characters: jax.Array | None = None,
    ) -> Scored:
        """The scores of vectors [..., D] with their mask [...]."""
        seeds, head = None, self.label_head
        if dropout is not None:
            rows = jnp.arange(len(vectors)) if dropout.rows is None else dropout.rows
            seeds = fold_seeds(row_seeds(dropout.key, rows), HEAD_DROPOUT)
            if not isinstance(head, ClassificationHead) or head.input_dropout:
                vectors = drop_out(seeds, 0, self.dropout, vectors)
        own = {"params": plain_params(params["head"][LABELS])}
        if isinstance(head, SequenceHead):
            return Scored(head.logits(own["params"], vectors), mask)
        if isinstance(head, ClassificationHead):
            before_last = partial(drop_out, seeds, 1, self.dropout)
            return Scored(head.logits(own["params"], vectors, dropout=before_last), mask)
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

    def outputs(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        """What predictions are made of, like `logits`: log probabilities, of each label alone if there may be several;
        of a number itself."""
        logits = self.logits(params, inputs)
        match self.target:
            case "classes":
                return jax.nn.log_softmax(logits)
            case "several":
                return jax.nn.log_sigmoid(logits)
            case _:
                return logits

    def metrics(
        self, examples: Sequence[Example], values: np.ndarray, outputs: np.ndarray, batch_size: int
    ) -> dict[str, float]:
        """The metrics of examples whose target is no class, as `value_metrics`."""
        return value_metrics(self.target, self.labels, examples, values, outputs)

    def answer(self, output: np.ndarray) -> dict[str, Any]:
        """The prediction of one text, of its `outputs`, as JSON."""
        return text_answer(self.target, self.labels, output)


def mix_metrics(params: Params) -> dict[str, float]:
    """{"mix_0": weight of layer 0, ..., "gamma": gamma} of a learned mix; {} without one."""
    mixing = params.get("head", {}).get(MIX)
    if mixing is None:
        return {}
    weights = np.asarray(softmax_weights(mixing))
    return {f"mix_{layer}": float(weight) for layer, weight in enumerate(weights)} | {"gamma": float(mixing["gamma"])}
