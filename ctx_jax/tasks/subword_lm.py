"""What the language-model tasks of a Transformer do alike in training: first parameters, batches, measuring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ctx_jax.checkpoints.run_files import Origin
from ctx_jax.data.cache import Sentences
from ctx_jax.data.languages import LanguageTokens
from ctx_jax.data.length_schedule import LengthSchedule
from ctx_jax.data.permutation import mix_seed
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.evaluation.masked_lm_eval import metrics_of_means
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.progress import Progress
from ctx_jax.tasks.languages import metrics_by_language, shares_of_run
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.parameter_groups import ParameterGroup
from ctx_jax.training.task import Evaluator, FunctionEvaluator
from ctx_jax.typing import Carry, Log, Params


@dataclass(frozen=True, eq=False)
class SubwordLMTask:
    """`training.task.Task` without `coefficients` and `loss`."""

    config: Any
    seed: int
    train: Tokens | LanguageTokens
    valid: Tokens | Mapping[str, Tokens] | None  # by language, if the training text has several
    subwords: Subwords
    files: tuple[str, ...]
    sentences: Sentences | Mapping[str, Sentences] | None = None  # of the validation text
    imported: Encoder | None = None
    origin: Origin = field(default_factory=Origin)

    groups: tuple[ParameterGroup, ...] = ()
    default_steps = 0

    @property
    def model(self) -> Transformer:
        return self.config.model

    @cached_property
    def heads(self) -> Mapping[str, Any]:
        return self.config.heads()

    @property
    def processor(self) -> SubwordInputs:
        return SubwordInputs(self.subwords, self.model.longest, self.config.data.word_rule)

    @property
    def batch_size(self) -> int:
        return self.config.sequences.batch_size

    @property
    def prefetch(self) -> int:
        return self.config.data.prefetch

    def init(self, key: jax.Array) -> Params:
        model, keys = self.model, jax.random.split(key, 1 + len(self.heads))
        head: dict[str, Any] = {}
        for (name, module), head_key in zip(self.heads.items(), keys[1:], strict=True):
            if isinstance(module, VocabularyHead):
                head[name] = module.init(
                    head_key,
                    width=model.width,
                    vocabulary=model.vocabulary,
                    decoder_width=model.embedding_dim,
                    scale=model.initial_scale,
                    dense_scale=model.residual_scale,
                )
            else:
                head[name] = module.init(head_key, width=model.width, scale=model.initial_scale)
        return {"encoder": model.init(keys[0]), "head": head}

    def initial(self, params: Params) -> Params:
        """The imported parameters, with fresh ones for heads that the import lacks."""
        if self.imported is None:
            return params
        heads = self.imported.heads
        head = {name: heads[name].params if name in heads else fresh for name, fresh in params.get("head", {}).items()}
        return {"encoder": self.imported.params, "head": head}

    def zero_carry(self, rows: int) -> Carry:
        return ()

    def batches(self, first: int, count: int) -> Sequences | LengthSchedule:
        """Batches of this process's rows; short sequences first if the length schedule has them."""
        config = self.config.sequences
        full = self._rows(config, first, count, self.seed)
        short = config.short_phase
        if short is None:
            return full
        parts = short.batch_size // config.batch_size
        # A different seed, so that order and masks of the short sequences are not repeated at full length.
        early = self._rows(short, first * parts, count * parts, mix_seed(self.seed, 1))
        return LengthSchedule(early, config.short_steps, full)

    def _rows(self, config: SequenceConfig, first: int, count: int, seed: int) -> Sequences:
        return Sequences(
            self.train,
            self.subwords,
            config,
            seed=seed,
            rows=slice(first, first + count),
            shuffle=self.config.data.shuffle,
            first_position=self.model.first_position,
        )

    def tokens(self, arrays: Any) -> int:
        """Real tokens, including special ones."""
        return int(np.count_nonzero(arrays.tokens.mask))

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        return metrics_of_means(means)

    def flops_per_token(self) -> float:
        """Three times the forward pass; the head counts only for the fraction of positions that are predicted."""
        model, sequences = self.model, self.config.sequences
        share = 1.0 if model.causal else sequences.predictions_per_row / sequences.length
        head = self.config.head.flops_per_token(
            width=model.width, vocabulary=model.vocabulary, decoder_width=model.embedding_dim
        )
        return 3.0 * (model.flops_per_token(sequences.length) + share * head)

    @cached_property
    def evaluators(self) -> Sequence[Evaluator]:
        if self.valid is None:
            return ()
        return (FunctionEvaluator("valid", self.config.evaluate.every, self.valid_metrics),)

    def valid_metrics(self, params: Params, devices: Sequence[jax.Device], log: Log) -> dict[str, float]:
        """`SubwordLMConfig.measure` of the validation text; of several languages by language, and their means."""
        assert self.valid is not None

        def measure(text: Tokens) -> dict[str, float]:
            shown = Progress("evaluating", "tokens", len(text.ids), log)
            found: dict[str, float] = self.config.measure(
                self.model, self.heads, params, self.subwords, text, shown, devices
            )
            return found

        return metrics_by_language(self.valid, measure, log)

    def data_metrics(self, steps: int) -> dict[str, float]:
        """See `training.task.DescribesData`: of several languages `languages.shares_of_run`, of one text nothing."""
        return shares_of_run(self.train, self.batches(0, self.batch_size).epochs(steps))
