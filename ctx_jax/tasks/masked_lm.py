"""Masked language modelling as a task (Devlin et al. 2019): BERT and its kin, with or without a label for pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax

from ctx_jax import losses
from ctx_jax.evaluation.fill_mask import filled_page
from ctx_jax.heads import Head, Pooler, SequenceHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.losses.language_model import COEFFICIENTS
from ctx_jax.tasks.setup import EvaluateConfig
from ctx_jax.tasks.subword_lm import SubwordLMConfig, SubwordLMTask, ValidMetrics
from ctx_jax.training.task import Evaluator, Log, TaskContext
from ctx_jax.typing import Carry, Params, Terms


@dataclass(frozen=True)
class MaskedLMEvaluate(EvaluateConfig):
    """When the validation text is measured, and a page for people is shown."""

    fill_mask: int = 0
    """Steps from one page of masked words of validation sentences, filled, to the next; one more at the end. 0:
    never."""


@dataclass(frozen=True)
class MaskedLMConfig(SubwordLMConfig):
    """Train a masked-LM Transformer."""

    evaluate: MaskedLMEvaluate = field(default_factory=MaskedLMEvaluate)

    head_name = "masked_lm"
    causal = False

    def heads(self) -> dict[str, Any]:
        """The vocabulary head; for labelled pairs the pooler and the next-sentence head too."""
        label = {"pooler": Pooler(), "next_sentence": SequenceHead()} if self.sequences.has_pair_label else {}
        return {self.head_name: self.head, **label}

    def check_model(self) -> None:
        """Also: RoBERTa's files have no place for a next-sentence head."""
        super().check_model()
        if self.sequences.has_pair_label and self.model.positions_after_padding:
            raise ConfigError(
                "sequences.pair_label",
                f"is {self.sequences.pair_label}, which needs a next-sentence head, for which RoBERTa's files have no "
                f"place: set {'' if self.init else 'model.positions_after_padding False, or '}none",
            )

    def open(self, context: TaskContext) -> "MaskedLMTask":
        """Read the texts, train or read the tokenizer and cut the texts into tokens, or find all that."""
        return self._open(context, MaskedLMTask)


class MaskedLMTask(SubwordLMTask):
    """See `training.task.Task`."""

    @property
    def coefficients(self) -> dict[str, float]:
        """`COEFFICIENTS` of the terms that the sequences have."""
        label = ["next_sentence", "next_sentence_accuracy"] if self.config.sequences.has_pair_label else []
        return {name: COEFFICIENTS[name] for name in ["masked", "accuracy", *label]}

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Nats of the masked tokens and of the pair's label; hits."""
        return losses.masked_lm(self.model, params, batch, carry, head=self.config.head, key=key)

    @cached_property
    def evaluators(self) -> Sequence[Evaluator]:
        """The measures of the validation text, and a page of filled masks."""
        return () if self.valid is None else (ValidMetrics(self), FillMaskPage(self))


@dataclass(frozen=True)
class FillMaskPage:
    """Masked words of validation sentences, and what the model would put there."""

    task: MaskedLMTask
    name = "fill_mask"
    is_page = True

    @property
    def every(self) -> int:
        return self.task.config.evaluate.fill_mask

    def __call__(self, params: Params, devices: Sequence[jax.Device], log: Log) -> str:
        task = self.task
        assert task.sentences is not None
        head = Head(task.config.head, params["head"]["masked_lm"])
        return filled_page(task.model, params["encoder"], head, task.subwords, task.sentences)
