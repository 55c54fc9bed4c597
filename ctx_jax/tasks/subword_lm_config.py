"""The settings of a Transformer's language models: subword tokenizer, cached tokens, imported parameters, and how a
task is opened with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import jax

from ctx_jax.checkpoints.run_files import TEXTS, Origin, read_encoder
from ctx_jax.data.cache import Sentences
from ctx_jax.data.config import TextConfig
from ctx_jax.data.corpora import Several
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens, cache_tokens
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.evaluation import reports
from ctx_jax.evaluation.masked_lm_eval import (
    evaluation_sequences,
    first_sentences,
    masked_lm_metrics,
)
from ctx_jax.evaluation.reports import Report
from ctx_jax.heads import HEADS, VocabularyHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.io.progress import Progress
from ctx_jax.tasks.huggingface_head import vocabulary_head
from ctx_jax.tasks.imported_transformer import adapted, read_import
from ctx_jax.tasks.languages import cut_texts, log_shares, open_texts, without_name
from ctx_jax.tasks.options import EvaluateOptions, refuse_options
from ctx_jax.tasks.setup import EvaluateConfig, check_steps, naming_setting, origin_of, prepare_tokenizer
from ctx_jax.tasks.subword_lm import SubwordLMTask
from ctx_jax.tokenizers import subword_files
from ctx_jax.tokenizers import subwords as subwords_of
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.task import TaskContext
from ctx_jax.typing import Params

Opened = TypeVar("Opened", bound=SubwordLMTask)


@dataclass(frozen=True)
class SubwordLMConfig:
    """Settings of a Transformer's language model; subclasses add their heads and loss."""

    model: Transformer = field(default_factory=Transformer)
    head: VocabularyHead = field(default_factory=VocabularyHead)
    data: TextConfig = field(default_factory=TextConfig)
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    init: str = ""
    """A Hugging Face folder (or hf://organisation/name) or a Transformer's run to start from. Its parameters, tokenizer
    and shape replace those of `model`, `head` and `tokenizer`; of `model` only `compute`, `attention`, `scan`, `remat`
    and the dropout rates are used. Heads that it lacks are newly initialised."""

    name: ClassVar[str]
    """The name of the task, and of its vocabulary head in params["head"]."""
    causal: ClassVar[bool]
    """Whether the task trains causal models."""

    @staticmethod
    def run_defaults() -> dict[str, Any]:
        """None: a language model's own settings are those of a configuration."""
        return {}

    def heads(self) -> dict[str, Any]:
        """All heads of the task, by name."""
        return {self.name: self.head}

    def check(self, steps: int) -> None:
        """ConfigError if model, sequences and number of steps do not fit together."""
        check_steps(steps)
        if not self.init:  # else the import decides the model's shape
            self.check_model()
        if self.sequences.short_steps >= steps:
            raise ConfigError(
                "sequences.short_steps",
                f"is {self.sequences.short_steps}, and the run has {steps} steps: set fewer",
            )

    def check_model(self) -> None:
        """ConfigError if the model cannot be trained on the sequences."""
        packing = self.sequences.packing
        if self.model.causal != self.causal:
            kinds = {True: "a causal model", False: "a bidirectional model"}
            raise ConfigError(
                "init" if self.init else "model.causal",  # only another import has another shape
                f"gives {kinds[self.model.causal]}, and {self.name} needs {kinds[self.causal]}: start from the "
                f"configuration {'gpt_quickstart' if self.model.causal else 'mlm_quickstart'}",
            )
        if (packing == "causal_blocks") != self.causal:
            needed = "causal_blocks" if self.causal else "full_sentences, pairs or packed"
            raise ConfigError("sequences.packing", f"is {packing}, and {self.name} needs {needed}")
        if packing == "pairs" and self.model.token_types < 2:
            raise ConfigError(
                "sequences.packing",
                f"is pairs, which need 2 token types, and the model has {self.model.token_types}: set "
                f"{'' if self.init else 'model.token_types, or '}full_sentences",
            )

    def merged(self, old: Self) -> Self:
        """With the vocabulary size, the padding id and the import's shape that the original run inferred."""
        if self.init and self.init == old.init:
            return replace(self, model=adapted(self.model, old.model), head=old.head)
        size = self.model.vocabulary or old.model.vocabulary
        return replace(self, model=replace(self.model, vocabulary=size, pad_id=old.model.pad_id))

    def _open(self, context: TaskContext, task: Callable[..., Opened]) -> Opened:
        """Read the texts, train or read the tokenizer, tokenize the texts, and return a `task` of them."""
        config = self
        # Check import and tokenizer before reading the text, which may take an hour.
        imported: Encoder | None = None
        given: Subwords | None = None
        if self.init and not context.resumed:
            imported, given = read_import(self.init)
            config = replace(config, model=adapted(self.model, imported.model), head=self._imported_head(imported))
        elif self.tokenizer.file and not context.resumed:
            with naming_setting("tokenizer.file", self.tokenizer.file):
                given = subword_files.read(self.tokenizer.file)
                # Causal training adds no special tokens around a text: an end token separates texts.
                given = given.without_special_tokens() if self.model.causal else given
        if given is not None:
            config.with_tokenizer(given)
        train, valid = open_texts(self.data, context)
        if context.resumed:
            stored = read_encoder(context.run_dir, [Transformer], HEADS)
            origin = Origin(stored.architecture, stored.sentence)
        else:
            origin = Origin() if imported is None else origin_of(imported, self.init, context.log)
        subwords = prepare_tokenizer(self.tokenizer, given, train, context, causal=self.causal)
        config = config.with_tokenizer(subwords)

        def tokens(text: Sentences) -> Tokens:
            return cache_tokens(text, subwords, self.data.cache or context.run_dir / "cache", log=context.log)

        measured = {name: first_sentences(tokens(text), self.evaluate.sentences) for name, text in valid.items()}
        for name, text in measured.items() if self.evaluate.every else ():  # now, not when the first evaluation is due
            field = f"data.{'valid_languages' if name else 'valid'}"
            with naming_setting(field, f"the validation text {name}".rstrip() + " cannot be measured"):
                evaluation_sequences(text, subwords, config.model, config.sequences)
        files = (subwords_of.FILE, subwords_of.CONFIG, TEXTS)
        cut, held_out = cut_texts(train, tokens), without_name(measured)
        made = task(config, context.seed, cut, held_out, subwords, files, without_name(valid), imported, origin)
        log_shares(cut, made.data_metrics(context.steps), context.log)
        return made

    def _imported_head(self, imported: Encoder) -> VocabularyHead:
        """The vocabulary head of an import, or that of its class."""
        return vocabulary_head(imported, self.name)

    def with_tokenizer(self, subwords: Subwords) -> Self:
        """With the tokenizer's vocabulary size and padding id; ConfigError if they do not fit model and sequences."""
        self.check_model()
        # An import may have more rows than its tokenizer has tokens: they stay, and no text reaches them.
        spare = bool(self.init) and self.model.vocabulary > len(subwords)
        if self.model.vocabulary not in (0, len(subwords)) and not spare:
            raise ConfigError(
                "model.vocabulary",
                f"is {self.model.vocabulary}, and the tokenizer has {len(subwords)} tokens: set 0, or another "
                "tokenizer.file",
            )
        if self.sequences.packing == "pairs":
            _ = subwords.pair_layout  # raises if the tokenizer has no layout for pairs
        vocabulary = self.model.vocabulary if spare else len(subwords)
        model = replace(self.model, vocabulary=vocabulary, pad_id=subwords.pad_id)
        if self.sequences.length > model.longest:  # also if rotary: files and processors use max_positions
            raise ConfigError(
                "sequences.length",
                f"is {self.sequences.length}, longer than the {model.longest} positions of the model: set "
                f"{'' if self.init else 'model.max_positions, or '}a shorter sequences.length",
            )
        return replace(self, model=model)

    def predictor(self, encoder: Encoder) -> None:
        """None: a language model predicts no labels."""

    def report(self, encoder: Encoder, run_dir: Path, options: EvaluateOptions) -> Report:
        """Metrics of a text with one fixed mask, as aligned lines."""
        refuse_options(options, ("protocol", "batch", "per_sentence"), f"a Transformer, which {run_dir} holds")
        if self.model.causal:
            refuse_options(options, ("pseudo_perplexity",), f"a causal model, which {run_dir} holds")
        assert isinstance(encoder.processor, SubwordInputs), "a Transformer's run reads subwords"
        subwords, modules = encoder.processor.subwords, {name: head.module for name, head in encoder.heads.items()}
        return reports.transformer_lm(
            encoder,
            partial(self.measure, encoder.model, modules, encoder.run_params, subwords),
            Several(tuple(options.sources(self.data))),
            pseudo_perplexity_head=modules[self.name] if options.pseudo_perplexity else None,
            log=options.log,
        )

    def measure(
        self,
        model: Any,
        heads: Mapping[str, Any],
        params: Params,
        subwords: Subwords,
        tokens: Tokens,
        progress: Progress,
        devices: Sequence[jax.Device] | None = None,
    ) -> dict[str, float]:
        """The training metrics of a text, with one fixed mask and without dropout."""
        head, rows = heads[self.name], self.sequences
        return masked_lm_metrics(model, params, tokens, subwords, rows, head=head, devices=devices, progress=progress)
