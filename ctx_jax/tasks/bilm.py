"""ELMo's bidirectional language model as a task: next-word losses in both directions over streams of sentences.

Letters: B rows, T steps of a batch, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from ctx_jax import losses
from ctx_jax.checkpoints.run_files import TEXTS, VOCABULARY, Origin, existing
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
from ctx_jax.evaluation.reports import Report
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.io.progress import Progress
from ctx_jax.tasks.options import EvaluateOptions, refuse_options
from ctx_jax.tasks.setup import EvaluateConfig, check_steps, prepare_vocabulary, read_texts
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.parameter_groups import ParameterGroup
from ctx_jax.training.task import Batches, Evaluator, FunctionEvaluator, TaskContext
from ctx_jax.typing import Carry, Log, Params, Terms

PAGE_SENTENCES = 400  # validation sentences in which the page of neighbours searches


@dataclass(frozen=True)
class BiLMEvaluate(EvaluateConfig):
    """How often the validation text is measured, and which reports are shown."""

    ngrams: int = 0
    """Steps between comparisons with unigram and trigram models fitted on the training text, besides one at the end.
    0: never."""

    neighbours: int = 0
    """Steps between reports of a word's nearest neighbours in two contexts, besides one at the end. 0: never."""


@dataclass(frozen=True)
class BiLMConfig:
    """Train a biLM (Peters et al. 2018)."""

    model: BiLM = field(default_factory=BiLM)
    """The encoder."""
    data: BiLMData = field(default_factory=BiLMData)
    evaluate: BiLMEvaluate = field(default_factory=BiLMEvaluate)

    tied_softmax: bool = False
    """The softmax uses the word embeddings as its matrix (word inputs only)."""
    negatives: int = 0
    """Negatives per direction of the sampled softmax in training; 0: the exact softmax."""
    zero_start: float = 0.0
    """Fraction of a row's batches that start from a zero state in training, as a sentence does when it is embedded."""

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise ConfigError("negatives", f"must be at least 0, got {self.negatives}")
        if not 0.0 <= self.zero_start <= 1.0:
            raise ConfigError("zero_start", f"must be in [0, 1], got {self.zero_start}")
        if self.tied_softmax and self.model.token_input == "characters":
            raise ConfigError(
                "tied_softmax",
                "needs word embeddings, which character inputs lack: set model.token_input to words",
            )

    name: ClassVar[str] = "bilm"

    @staticmethod
    def run_defaults() -> dict[str, Any]:
        """None: a biLM's own settings are those of a configuration."""
        return {}

    def check(self, steps: int) -> None:
        """ConfigError for no steps."""
        check_steps(steps)

    def merged(self, old: "BiLMConfig") -> "BiLMConfig":
        """With the vocabulary size that the original run inferred."""
        if self.model.token_input == "characters" or self.model.vocabulary:
            return self
        return replace(self, model=replace(self.model, vocabulary=old.model.vocabulary))

    def open(self, context: TaskContext) -> "BiLMTask":
        """Read the texts, and build the vocabulary or read that of a resumed run."""
        train, valid = read_texts(self.data, context)
        vocabulary = prepare_vocabulary(self.data, train, context)
        if self.negatives >= len(vocabulary):
            raise ConfigError(
                "negatives",
                f"is {self.negatives}, and must be less than the vocabulary's {len(vocabulary)} words: set fewer, or "
                "0 for the exact softmax",
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

    def predictor(self, encoder: Encoder) -> None:
        """None: a language model predicts no labels."""

    def report(self, encoder: Encoder, run_dir: Path, options: EvaluateOptions) -> Report:
        """Perplexities of a text in both directions, as aligned lines."""
        refuse_options(options, ("pseudo_perplexity",), f"a biLM, which {run_dir} holds")
        return reports.bilm(
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
    default_steps = 0
    origin = Origin()

    @property
    def model(self) -> BiLM:
        return self.config.model

    @property
    def head(self) -> VocabularyHead:
        """The softmax of both directions."""
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
        """Initialised as in bilm-tf: the softmax matrix N(0, 1 / P)."""
        encoder_key, head_key = jax.random.split(key)
        softmax = init_softmax(self.model, head_key, vocabulary=len(self.vocabulary), tied=self.config.tied_softmax)
        return {"encoder": self.model.init(encoder_key), "head": {"softmax": softmax}}

    def initial(self, params: Params) -> Params:
        """The fresh parameters: training cannot start from an imported biLM."""
        return params

    def zero_carry(self, rows: int) -> Carry:
        return zero_carry(self.model, rows)

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Cross entropy of the next word in both directions, in nats."""
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
        """Batches of this process's rows."""
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
        """Targets of one direction, without padding."""
        if arrays.weights is not None:
            return int(np.count_nonzero(arrays.weights))
        return int(arrays.forward_targets.size)

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """The mean loss of both directions, and perplexities."""
        loss = sum(factor * means[name] for name, factor in self.coefficients.items())
        return {
            "loss": loss,
            "forward_perplexity": exp_or_inf(means["forward"]),
            "backward_perplexity": exp_or_inf(means["backward"]),
            "perplexity": exp_or_inf(loss),
        }

    def flops_per_token(self) -> float:
        """Three times the forward pass; the softmax is over all words, or over the negatives and the target."""
        words = self.config.negatives + 1 if self.config.negatives else len(self.vocabulary)
        return 3.0 * (self.model.flops_per_token(self.config.data.unroll_steps) + 4.0 * words * self.model.projection)

    @cached_property
    def evaluators(self) -> Sequence[Evaluator]:
        if self.valid is None:
            return ()
        settings = self.config.evaluate
        return (
            FunctionEvaluator("valid", settings.every, self.valid_metrics),
            FunctionEvaluator("ngrams", settings.ngrams, self.ngram_page, is_page=True),
            FunctionEvaluator("neighbours", settings.neighbours, self.neighbours_page, is_page=True),
        )

    def valid_sentences(self) -> Iterator[Sequence[str]]:
        """The validation sentences that are measured."""
        assert self.valid is not None
        return islice(self.valid, self.config.evaluate.sentences or None)

    def valid_metrics(self, params: Params, devices: Sequence[jax.Device], log: Log) -> dict[str, float]:
        """Perplexity of each validation sentence from a zero state, with the exact softmax."""
        assert self.valid is not None
        total = min(self.config.evaluate.sentences or len(self.valid), len(self.valid))
        progress = Progress("evaluating", "sentences", total, log)
        found = perplexity(
            self.model, params, self.vocabulary, self.valid_sentences(), devices=devices, progress=progress.add
        )
        return {
            "loss": found.loss,
            "forward_perplexity": found.forward_perplexity,
            "backward_perplexity": found.backward_perplexity,
            "perplexity": found.perplexity,
        }

    def ngram_page(self, params: Params, devices: Sequence[jax.Device], log: Log) -> str:
        """Perplexity of unigram and interpolated trigram models on the validation sentences."""
        vocabulary, lines = self.vocabulary, list[str]()
        for order, name in ((1, "unigram"), (3, "interpolated trigram")):
            train = (vocabulary.ids(self.train[index]) for index in range(len(self.train)))
            try:
                ngram = fit_ngram(train, len(vocabulary), begin=vocabulary.begin, end=vocabulary.end, order=order)
            except InputError as reason:  # a text too short to fit an n-gram model must not end the run
                lines.append(f"no {name} model to compare with: {reason}")
                continue
            part = f" (fitted on the first {ngram.tokens:,} words)" if ngram.cut else ""
            found = ngram.perplexity(map(vocabulary.ids, self.valid_sentences()))
            lines.append(f"validation perplexity of the {name} model{part}: {found:,.2f}")
        unknown = targets = 0
        for words in self.valid_sentences():
            ids = vocabulary.ids(words)
            unknown += int(np.count_nonzero(ids == vocabulary.unknown))
            targets += len(ids) + 1
        return "\n".join([*lines, f"<UNK> among the validation targets: {unknown / targets:.2%}"])

    def neighbours_page(self, params: Params, devices: Sequence[jax.Device], log: Log) -> str:
        """An ambiguous word in two validation sentences, and the nearest neighbours of each of its vectors."""
        encoder = Encoder(self.model, params["encoder"], self.processor)
        return show_neighbours(encoder, list(islice(self.valid_sentences(), PAGE_SENTENCES)))
