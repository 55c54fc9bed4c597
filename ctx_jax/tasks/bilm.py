"""The biLM as a training task: its loss, its windows of text, its perplexities.

Letters: B rows, T tokens of a window, C characters, D state, P projection, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import jax
import numpy as np

from ctx_jax import losses
from ctx_jax.data.bptt import Windows
from ctx_jax.data.config import DataConfig
from ctx_jax.data.sentence_streams import SentenceSource
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.inputs import CharacterReader, VocabularyReader
from ctx_jax.encoders.elmo.model import DIRECTIONS, BiLM
from ctx_jax.evaluation.neighbours import show_neighbours
from ctx_jax.evaluation.ngrams import fit_ngram
from ctx_jax.evaluation.perplexity import exp_or_inf, perplexity
from ctx_jax.io.errors import InputError
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.task import Batches, Carry, Params, Terms

SHOWN = 400  # validation sentences among which the last page looks for neighbours


def with_vocabulary(model: BiLM, vocabulary: Vocabulary) -> BiLM:
    """The model with its softmax as large as the vocabulary; ValueError where it asks for another size."""
    if model.vocabulary not in (0, len(vocabulary)):
        raise InputError(
            f"--model.vocabulary {model.vocabulary}, but the vocabulary has {len(vocabulary)} words: leave it out (0 "
            "takes the vocabulary's size), or set --data.vocabulary or --data.vocabulary-size"
        )
    if model.negatives >= len(vocabulary):
        raise InputError(
            f"--model.negatives {model.negatives} distinct words cannot be drawn from a vocabulary of "
            f"{len(vocabulary)}: set fewer, or 0 for the exact softmax"
        )
    return replace(model, vocabulary=len(vocabulary))


@dataclass(frozen=True)
class BiLMTask:
    """See `training.task.Task`; `model.vocabulary` is that of `vocabulary`."""

    model: BiLM
    data: DataConfig
    seed: int
    train: SentenceSource
    valid: SentenceSource | None
    vocabulary: Vocabulary
    limit: int = 0  # sentences of the validation split, 0: all
    coefficients: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DIRECTIONS, 0.5))

    @property
    def rows(self) -> int:
        """B, over all devices and hosts."""
        return self.data.lanes

    def init(self, key: jax.Array) -> Params:
        """Parameters as the original draws them."""
        return bilm.init(self.model, key)

    def starting(self, params: Params) -> Params:
        """Fresh ones: a biLM's run begins with nothing else."""
        return params

    def zero_carry(self, rows: int) -> Carry:
        """The LSTMs' state before the first word."""
        return bilm.zero_carry(self.model, rows)

    def loss(
        self, params: Params, batch: dict[str, jax.Array], carry: Carry, key: jax.Array | None
    ) -> tuple[Terms, Carry]:
        """Both directions' nats."""
        return losses.bilm(self.model, params, batch, carry, key=key)

    def batches(self, first: int, count: int) -> Batches:
        """Windows of this host's lanes."""
        data, model = self.data, self.model
        return Windows(
            self.train,
            self.vocabulary,
            lanes=data.lanes,
            window=data.window,
            seed=self.seed,
            max_characters=model.max_characters,
            directions=data.directions,
            assignment=data.assignment,
            shuffle=data.shuffle,
            inputs=model.inputs,
            rows=slice(first, first + count),
        )

    def tokens(self, arrays: dict[str, np.ndarray]) -> int:
        """Targets of one direction that count."""
        return int(np.count_nonzero(arrays["weight"])) if "weight" in arrays else arrays["next_token_id"].size

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Half the sum of both directions, and the perplexities."""
        loss = sum(share * means[name] for name, share in self.coefficients.items())
        return {
            "loss": loss,
            "forward_perplexity": exp_or_inf(means["forward"]),
            "backward_perplexity": exp_or_inf(means["backward"]),
            "perplexity": exp_or_inf(loss),
        }

    def evaluate(
        self, params: Params, devices: Sequence[jax.Device], say: Callable[[str], None]
    ) -> dict[str, float] | None:
        """Each validation sentence from a zero state, with the exact softmax."""
        if self.valid is None:
            return None
        pace = Progress("evaluating", "sentences", min(self.limit or len(self.valid), len(self.valid)), say)
        found = perplexity(self.model, params, self.vocabulary, self._valid(), devices=devices, advance=pace.add)
        return {
            "loss": found.loss,
            "forward_perplexity": found.forward_perplexity,
            "backward_perplexity": found.backward_perplexity,
            "perplexity": found.perplexity,
        }

    def flops_per_token(self) -> float:
        """6 for each weight a token meets (forward and backward pass), characters only once a distinct word.

        Counts matrix products alone, at most: the distinct words as many as their tables hold.
        """
        model = self.model
        gates = 4 if model.cell == "lstm" else 3
        cell = 2 * model.projection * gates * model.dim
        cell += model.dim * model.projection if model.dim != model.projection else 0
        words = model.negatives + 1 if model.negatives else model.vocabulary
        weights = 2.0 * (model.layers * cell + words * model.projection)
        if model.inputs == "characters":
            width = sum(count for _, count in model.filters)
            dense = model.highways * 2 * width**2 + (width * model.projection if width != model.projection else 0)
            for places, share in (*model.tiers, (model.max_characters, model.long_words)):
                convolved = sum(size * model.character_dim * count * places for size, count in model.filters)
                weights += share * (dense + convolved)  # one table serves both directions
        return 6.0 * weights

    def report(self, params: Params, say: Callable[[str], None]) -> None:
        """What counting reaches on the same split, and one word in two sentences."""
        if self.valid is None:
            return
        size, begin, end = len(self.vocabulary), self.vocabulary.begin, self.vocabulary.end
        for order, name in ((1, "unigram"), (3, "interpolated trigram")):
            train = (self.vocabulary.ids(self.train[index]) for index in range(len(self.train)))
            try:
                ngram = fit_ngram(train, size, begin=begin, end=end, order=order)
            except ValueError as reason:  # a text too short to be counted does not make the run a failure
                say(f"no {name} model to compare with: {reason}")
                continue
            part = f" (fitted on the first {ngram.tokens:,} words)" if ngram.cut else ""
            found = ngram.perplexity(map(self.vocabulary.ids, self._valid()))
            say(f"validation perplexity of the {name} model{part}: {found:,.2f}")
        unknown = targets = 0
        for words in self._valid():
            ids = self.vocabulary.ids(words)
            unknown += int(np.count_nonzero(ids == self.vocabulary.unknown))
            targets += len(ids) + 1
        say(f"<UNK> among the validation targets: {unknown / targets:.2%}")
        say(show_neighbours(self._encoder(params), list(islice(self._valid(), SHOWN))))

    def _valid(self) -> Iterator[Sequence[str]]:
        if self.valid is None:
            return
        for index in range(min(self.limit or len(self.valid), len(self.valid))):
            yield self.valid[index]

    def _encoder(self, params: Params) -> Any:
        if self.model.inputs == "characters":
            return Encoder(self.model, params, CharacterReader(self.model.max_characters))
        return Encoder(self.model, params, VocabularyReader(self.vocabulary))
