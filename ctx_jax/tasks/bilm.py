"""ELMo's bidirectional language model as a task: next-word losses in both directions over streams of sentences.

Letters: B rows, T steps of a batch, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctx_jax import losses
from ctx_jax.checkpoints.run_files import TEXTS, VOCABULARY, existing
from ctx_jax.data.bptt import BPTTBatches
from ctx_jax.data.cache import Sentences
from ctx_jax.data.config import BiLMData
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.base import InputProcessor
from ctx_jax.encoders.elmo import BiLM, zero_carry
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.encoders.elmo.inputs import CharacterInputs, WordInputs
from ctx_jax.encoders.elmo.network import DIRECTIONS
from ctx_jax.evaluation import reports
from ctx_jax.evaluation.neighbours import show_neighbours
from ctx_jax.evaluation.ngrams import fit_ngram
from ctx_jax.evaluation.perplexity import exp_or_inf, perplexity
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.io.progress import Progress
from ctx_jax.tasks.options import EvaluateOptions
from ctx_jax.tasks.setup import EvaluateConfig, prepare_vocabulary, read_texts
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.parameter_groups import ParameterGroup
from ctx_jax.training.task import Batches, Evaluator, Log, TaskContext
from ctx_jax.typing import Carry, Params, Terms

PAGE_SENTENCES = 400  # validation sentences among which a page looks for neighbours


@dataclass(frozen=True)
class BiLMEvaluate(EvaluateConfig):
    """When the validation text is measured, and pages for people are shown."""

    ngrams: int = 0
    """Steps from one comparison with unigram and trigram models, fitted on the training text, to the next; one more at
    the end. 0: never."""

    neighbours: int = 0
    """Steps from one page of a word's nearest neighbours in two contexts to the next; one more at the end. 0: never."""


@dataclass(frozen=True)
class BiLMConfig:
    """Train a biLM (Peters et al. 2018)."""

    model: BiLM = field(default_factory=BiLM)
    """Shape and mathematics of the encoder."""
    data: BiLMData = field(default_factory=BiLMData)
    evaluate: BiLMEvaluate = field(default_factory=BiLMEvaluate)

    tied_softmax: bool = False
    """The softmax shares the table of words (word inputs only)."""
    negatives: int = 0
    """Sampled softmax in training, with so many negatives a direction; 0: the exact softmax."""
    zero_start: float = 0.0
    """Share of a row's batches that start from a zero state in training, as a single sentence does when it is
    embedded."""

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise ConfigError("negatives", f"must be at least 0, got {self.negatives}")
        if not 0.0 <= self.zero_start <= 1.0:
            raise ConfigError("zero_start", f"must be in [0, 1], got {self.zero_start}")
        if self.tied_softmax and self.model.token_input == "characters":
            raise ConfigError(
                "tied_softmax",
                "shares the word table, which character inputs lack: set model.token_input to words",
            )

    def check(self, steps: int) -> None:
        """Nothing depends on the number of steps."""

    def merged(self, old: "BiLMConfig") -> "BiLMConfig":
        """With the size of the word table that the run found."""
        if self.model.token_input == "characters" or self.model.vocabulary:
            return self
        return replace(self, model=replace(self.model, vocabulary=old.model.vocabulary))

    def open(self, context: TaskContext) -> "BiLMTask":
        """Read the texts and build the vocabulary, or find them."""
        train, valid = read_texts(self.data, context)
        vocabulary = prepare_vocabulary(self.data, train, context)
        if self.negatives >= len(vocabulary):
            raise ConfigError(
                "negatives",
                f"is {self.negatives}, more than the other words of a vocabulary of {len(vocabulary)}: set fewer, or 0 "
                "for the exact softmax",
            )
        config = self
        if self.model.token_input == "words":
            if self.model.vocabulary not in (0, len(vocabulary)):
                raise ConfigError(
                    "model.vocabulary",
                    f"is {self.model.vocabulary}, and the vocabulary has {len(vocabulary)} words: set 0, or "
                    "data.vocabulary or data.vocabulary_size",
                )
            config = replace(self, model=replace(self.model, vocabulary=len(vocabulary)))
        return BiLMTask(config, context.seed, train, valid, vocabulary)

    def report(self, encoder: Encoder, run_dir: Path, options: EvaluateOptions) -> str:
        """Perplexities of a text in both directions, as aligned lines."""
        options.refuse("pseudo_perplexity", what=f"a biLM, which {run_dir} holds")
        return f", protocol {options.protocol}\n" + reports.bilm(
            self.model,
            encoder.run_params,
            Vocabulary.read(existing(run_dir, VOCABULARY)),
            options.sources(self.data),
            protocol=options.protocol,
            batch=options.batch,
            log=options.log,
            per_sentence=options.per_sentence,
        )


@dataclass(frozen=True, eq=False)
class BiLMTask:
    """See `training.task.Task`."""

    config: BiLMConfig
    seed: int
    train: Sentences
    valid: Sentences | None
    vocabulary: Vocabulary

    coefficients = dict.fromkeys(DIRECTIONS, 0.5)
    files = (VOCABULARY, TEXTS)
    groups: tuple[ParameterGroup, ...] = ()

    @property
    def model(self) -> BiLM:
        return self.config.model

    @property
    def head(self) -> VocabularyHead:
        """The softmax that both directions share."""
        return VocabularyHead(transform=False, tied=self.config.tied_softmax)

    @property
    def heads(self) -> Mapping[str, Any]:
        return {"softmax": self.head}

    @property
    def processor(self) -> InputProcessor:
        rule = self.config.data.word_rule
        if self.model.token_input == "characters":
            return CharacterInputs(self.model.max_characters, rule)
        return WordInputs(self.vocabulary, rule)

    @property
    def batch_size(self) -> int:
        return self.config.data.batch_size

    @property
    def prefetch(self) -> int:
        return self.config.data.prefetch

    def init(self, key: jax.Array) -> Params:
        """The original's initialisation: the softmax matrix N(0, 1 / P)."""
        encoder_key, head_key = jax.random.split(key)
        softmax = init_softmax(self.model, head_key, vocabulary=len(self.vocabulary), tied=self.config.tied_softmax)
        return {"encoder": self.model.init(encoder_key), "head": {"softmax": softmax}}

    def initial(self, params: Params) -> Params:
        """Fresh parameters: a biLM is imported for use, not trained further."""
        return params

    def zero_carry(self, rows: int) -> Carry:
        """The LSTMs' state before the first word."""
        return zero_carry(self.model, rows)

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Nats of the next word in both directions."""
        return losses.bilm(
            self.model,
            params,
            batch,
            carry,
            key=key,
            head=self.head,
            negatives=self.config.negatives,
            zero_start=self.config.zero_start,
        )

    def batches(self, first: int, count: int) -> Batches:
        """This process's rows of the streams."""
        data, model = self.config.data, self.model
        return BPTTBatches(
            self.train,
            self.vocabulary,
            batch_size=data.batch_size,
            unroll_steps=data.unroll_steps,
            seed=self.seed,
            max_characters=model.max_characters,
            directions=data.directions,
            assignment=data.assignment,
            shuffle=data.shuffle,
            token_input=model.token_input,
            rows=slice(first, first + count),
        )

    def tokens(self, arrays: Any) -> int:
        """Targets of one direction that count."""
        if arrays.weights is not None:
            return int(np.count_nonzero(arrays.weights))
        return int(arrays.forward_targets.size)

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Half the sum of both directions, and the perplexities."""
        loss = sum(factor * means[name] for name, factor in self.coefficients.items())
        return {
            "loss": loss,
            "forward_perplexity": exp_or_inf(means["forward"]),
            "backward_perplexity": exp_or_inf(means["backward"]),
            "perplexity": exp_or_inf(loss),
        }

    def flops_per_token(self) -> float:
        """Forward and twice as much backward; the softmax over all words, or over the negatives and the target."""
        words = self.config.negatives + 1 if self.config.negatives else len(self.vocabulary)
        return 3.0 * (self.model.flops_per_token(self.config.data.unroll_steps) + 4.0 * words * self.model.projection)

    @cached_property
    def evaluators(self) -> Sequence[Evaluator]:
        """Perplexity of the validation text, n-gram models and neighbours beside it."""
        if self.valid is None:
            return ()
        return (ValidPerplexity(self), NgramPage(self), NeighboursPage(self))

    def valid_sentences(self) -> Iterator[Sequence[str]]:
        """The sentences of the validation text that are measured."""
        assert self.valid is not None
        for index in range(min(self.config.evaluate.sentences or len(self.valid), len(self.valid))):
            yield self.valid[index]


@dataclass(frozen=True)
class ValidPerplexity:
    """Each validation sentence from a zero state, with the exact softmax."""

    task: BiLMTask
    name = "valid"
    is_page = False

    @property
    def every(self) -> int:
        return self.task.config.evaluate.every

    def __call__(self, params: Params, devices: Sequence[jax.Device], log: Log) -> dict[str, float]:
        task = self.task
        assert task.valid is not None
        total = min(task.config.evaluate.sentences or len(task.valid), len(task.valid))
        progress = Progress("evaluating", "sentences", total, log)
        found = perplexity(
            task.model, params, task.vocabulary, task.valid_sentences(), devices=devices, progress=progress.add
        )
        return {
            "loss": found.loss,
            "forward_perplexity": found.forward_perplexity,
            "backward_perplexity": found.backward_perplexity,
            "perplexity": found.perplexity,
        }


@dataclass(frozen=True)
class NgramPage:
    """What counting words reaches on the same text: unigram and interpolated trigram perplexity."""

    task: BiLMTask
    name = "ngrams"
    is_page = True

    @property
    def every(self) -> int:
        return self.task.config.evaluate.ngrams

    def __call__(self, params: Params, devices: Sequence[jax.Device], log: Log) -> str:
        task, lines = self.task, list[str]()
        vocabulary = task.vocabulary
        size, begin, end = len(vocabulary), vocabulary.begin, vocabulary.end
        for order, name in ((1, "unigram"), (3, "interpolated trigram")):
            train = (vocabulary.ids(task.train[index]) for index in range(len(task.train)))
            try:
                ngram = fit_ngram(train, size, begin=begin, end=end, order=order)
            except InputError as reason:  # a text too short to be counted does not make the run a failure
                lines.append(f"no {name} model to compare with: {reason}")
                continue
            part = f" (fitted on the first {ngram.tokens:,} words)" if ngram.cut else ""
            found = ngram.perplexity(map(vocabulary.ids, task.valid_sentences()))
            lines.append(f"validation perplexity of the {name} model{part}: {found:,.2f}")
        unknown = targets = 0
        for words in task.valid_sentences():
            ids = vocabulary.ids(words)
            unknown += int(np.count_nonzero(ids == vocabulary.unknown))
            targets += len(ids) + 1
        return "\n".join([*lines, f"<UNK> among the validation targets: {unknown / targets:.2%}"])


@dataclass(frozen=True)
class NeighboursPage:
    """An ambiguous word in two sentences, and what lies nearest to each of its two vectors."""

    task: BiLMTask
    name = "neighbours"
    is_page = True

    @property
    def every(self) -> int:
        return self.task.config.evaluate.neighbours

    def __call__(self, params: Params, devices: Sequence[jax.Device], log: Log) -> str:
        encoder = Encoder(self.task.model, params["encoder"], self.task.processor)
        return show_neighbours(encoder, list(islice(self.task.valid_sentences(), PAGE_SENTENCES)))
