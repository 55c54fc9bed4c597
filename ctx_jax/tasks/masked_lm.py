"""A Transformer as a training task: masked or next-token losses over rows of subwords.

Letters: B rows, T tokens, K predicted positions of a row, D width, F feed-forward width, V vocabulary, L layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from ctx_jax import losses
from ctx_jax.data.length_schedule import Phases
from ctx_jax.data.permutation import mix_seed
from ctx_jax.data.sentence_streams import SentenceSource
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens
from ctx_jax.encoders.transformer import model as transformer
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.evaluation.fill_mask import show_filled
from ctx_jax.evaluation.masked_lm_eval import held_out_metrics, metrics_of
from ctx_jax.io.errors import InputError
from ctx_jax.losses.language_model import COEFFICIENTS
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.config import check_sequences, has_label
from ctx_jax.training.task import Batches, Carry, Params, Terms

_KEPT = ("compute", "attention", "scan", "remat", "embedding_dropout", "attention_dropout", "attention_output_dropout",
         "feed_forward_inner_dropout", "feed_forward_dropout")  # fmt: skip


def adapt(wanted: Transformer, imported: Transformer, sequences: SequenceConfig) -> Transformer:
    """The shape of an import, run as `wanted` says: its arithmetic and dropout. Of the heads it has those that the
    sequences train."""
    trained = has_label(sequences)
    head = imported.head if imported.head != "none" else "transform"
    return replace(
        imported, head=head, pooler=trained, next_sentence=trained, **{name: getattr(wanted, name) for name in _KEPT}
    )


def with_tokenizer(
    model: Transformer, sequences: SequenceConfig, subwords: Subwords, *, imported: bool = False
) -> Transformer:
    """The model with the tokenizer's vocabulary and padding; ValueError where they or the sequences do not fit it."""
    check_sequences(model, sequences, imported=imported)
    if model.vocabulary:
        subwords.check_vocabulary(model.vocabulary, "--model.vocabulary (0 takes the tokenizer's size)")
    model = replace(model, vocabulary=len(subwords), pad_id=subwords.pad_id)
    if sequences.form == "pairs":
        _ = subwords.pair_layout  # raises for one that pairs are not trained with
    if sequences.length > model.longest:  # rotary ones too: files and readers take max_positions at its word
        raise InputError(
            f"--sequences.length {sequences.length} is longer than the {model.longest} positions of the model: set "
            f"{'' if imported else '--model.max-positions, or '}a shorter --sequences.length"
        )
    return model


@dataclass(frozen=True, eq=False)
class TransformerTask:
    """See `training.task.Task`; `model` is one `with_tokenizer`."""

    model: Transformer
    sequences: SequenceConfig
    seed: int
    train: Tokens
    valid: Tokens | None
    subwords: Subwords
    sentences: SentenceSource | None = None  # of the validation text, to fill gaps in
    shuffle: bool = True
    imported: Params | None = None

    @property
    def coefficients(self) -> dict[str, float]:
        """`COEFFICIENTS` of the terms that the model and its sequences have."""
        terms = ["next_token" if self.model.causal else "masked", "accuracy"]
        terms += ["next_sentence", "next_sentence_accuracy"] if has_label(self.sequences) else []
        return {name: COEFFICIENTS[name] for name in terms}

    @property
    def rows(self) -> int:
        """B, over all devices and hosts; a first phase has a multiple of it."""
        return self.sequences.rows

    def init(self, key: jax.Array) -> Params:
        """Parameters as the original draws them."""
        return transformer.init(self.model, key)

    def starting(self, params: Params) -> Params:
        """Those of an import, with fresh heads where it has none."""
        if self.imported is None:
            return params
        return {name: self.imported.get(name, fresh) for name, fresh in params.items()}

    def zero_carry(self, rows: int) -> Carry:
        """Nothing passes from batch to batch."""
        return ()

    def loss(
        self, params: Params, batch: dict[str, jax.Array], carry: Carry, key: jax.Array | None
    ) -> tuple[Terms, Carry]:
        """Nats of the predicted tokens and of the pair's label; hits."""
        objective = losses.causal_lm if self.model.causal else losses.masked_lm
        return objective(self.model, params, batch, carry, key=key)

    def batches(self, first: int, count: int) -> Batches:
        """This host's rows, in both phases."""
        second = self._rows(self.sequences, first, count, self.seed)
        early = self.sequences.first_phase
        if early is None:
            return second
        parts = early.rows // self.sequences.rows
        # Seeds of their own, or the second phase would read the first one's order and masks again.
        return Phases(
            self._rows(early, first * parts, count * parts, mix_seed(self.seed, 1)), self.sequences.first_steps, second
        )

    def _rows(self, config: SequenceConfig, first: int, count: int, seed: int) -> Sequences:
        return Sequences(
            self.train,
            self.subwords,
            config,
            seed=seed,
            rows=slice(first, first + count),
            shuffle=self.shuffle,
            first_position=self.model.first_position,
        )

    def tokens(self, arrays: dict[str, np.ndarray]) -> int:
        """Real tokens, special ones included."""
        return int(np.count_nonzero(arrays["mask"]))

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Loss, perplexity of the predicted tokens, accuracy."""
        return metrics_of(means)

    def evaluate(
        self, params: Params, devices: Sequence[jax.Device], say: Callable[[str], None]
    ) -> dict[str, float] | None:
        """The same of the validation text, with one fixed mask and without dropout."""
        if self.valid is None:
            return None
        return held_out_metrics(self.model, params, self.valid, self.subwords, self.sequences, say, devices)

    def flops_per_token(self) -> float:
        """6 for each weight of a matrix product that a token meets, 12 T D a layer for attention over all of a row.

        The head counts for the share of predicted positions alone; at the full length.
        """
        model, config = self.model, self.sequences
        layer = 4 * model.dim**2 + (3 if model.gated else 2) * model.dim * model.feed_forward
        share = 1.0 if model.causal else config.budget / config.length
        head = model.dim * model.vocabulary + (model.dim**2 if model.head == "transform" else 0)
        attention = 12.0 * config.length * model.dim
        return 6.0 * (model.layers * layer + share * head) + model.layers * attention

    def report(self, params: Params, say: Callable[[str], None]) -> None:
        """Masked words of validation sentences, filled."""
        if self.sentences is not None and not self.model.causal:
            say(show_filled(self.model, params, self.subwords, self.sentences, length=self.sequences.length))
