"""Masked language modelling as a task (Devlin et al. 2019), optionally with a label for pairs of sentences."""

from collections.abc import Mapping, Sequence
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
from ctx_jax.tasks.subword_lm import SubwordLMTask
from ctx_jax.tasks.subword_lm_config import SubwordLMConfig
from ctx_jax.training.task import Evaluator, FunctionEvaluator, TaskContext
from ctx_jax.typing import Carry, Log, Params, Terms


@dataclass(frozen=True)
class MaskedLMEvaluate(EvaluateConfig):
    """How often the validation text is measured, and filled masks are shown."""

    fill_mask: int = 0
    """Steps between reports of predictions for masked validation words, besides one at the end. 0: never."""


@dataclass(frozen=True)
class MaskedLMConfig(SubwordLMConfig):
    """Train a masked-LM Transformer."""

    evaluate: MaskedLMEvaluate = field(default_factory=MaskedLMEvaluate)

    name = "masked_lm"
    causal = False

    def heads(self) -> dict[str, Any]:
        """The vocabulary head; for labelled pairs also the pooler and the next-sentence head."""
        label = {"pooler": Pooler(), "next_sentence": SequenceHead()} if self.sequences.has_pair_label else {}
        return {self.name: self.head, **label}

    def check_model(self) -> None:
        """Also refuses pair labels for RoBERTa, whose files have no next-sentence head."""
        super().check_model()
        if self.sequences.has_pair_label and self.model.positions_after_padding:
            raise ConfigError(
                "sequences.pair_label",
                f"is {self.sequences.pair_label}, which needs a next-sentence head, and RoBERTa's files cannot hold one"
                f": set {'' if self.init else 'model.positions_after_padding False, or '}none",
            )

    def open(self, context: TaskContext) -> "MaskedLMTask":
        return self._open(context, MaskedLMTask)


class MaskedLMTask(SubwordLMTask):
    """See `training.task.Task`."""

    @property
    def coefficients(self) -> dict[str, float]:
        label = ["next_sentence", "next_sentence_accuracy"] if self.config.sequences.has_pair_label else []
        return {name: COEFFICIENTS[name] for name in ["masked", "accuracy", *label]}

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Cross entropy of the masked tokens and of the pair's label in nats, and their accuracies."""
        return losses.masked_lm(self.model, params, batch, carry, head=self.config.head, key=key)

    @cached_property
    def evaluators(self) -> Sequence[Evaluator]:
        page = FunctionEvaluator("fill_mask", self.config.evaluate.fill_mask, self.fill_mask_page, is_page=True)
        return () if self.valid is None else (*super().evaluators, page)

    def fill_mask_page(self, params: Params, devices: Sequence[jax.Device], log: Log) -> str:
        """Validation sentences with masked words, and the model's predictions for them; of several languages, each."""
        head = Head(self.config.head, params["head"]["masked_lm"])
        assert self.sentences is not None
        texts = self.sentences if isinstance(self.sentences, Mapping) else {"": self.sentences}
        pages = [
            (name, filled_page(self.model, params["encoder"], head, self.subwords, text))
            for name, text in texts.items()
        ]
        return "\n".join(f"{name}: {page}" if name else page for name, page in pages)
