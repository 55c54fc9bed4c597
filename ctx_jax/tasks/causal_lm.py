"""Next-token prediction as a task (Radford et al. 2018): GPT and GPT-2."""

from dataclasses import dataclass, field
from typing import Any

import jax

from ctx_jax import losses
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.losses.language_model import COEFFICIENTS
from ctx_jax.tasks.subword_lm import SubwordLMTask
from ctx_jax.tasks.subword_lm_config import SubwordLMConfig
from ctx_jax.training.task import TaskContext
from ctx_jax.typing import Carry, Params, Terms


@dataclass(frozen=True)
class CausalLMConfig(SubwordLMConfig):
    """Train a next-token Transformer."""

    model: Transformer = field(default_factory=lambda: Transformer(causal=True, token_types=0))
    head: VocabularyHead = field(default_factory=lambda: VocabularyHead(transform=False, decoder_bias=False))
    sequences: SequenceConfig = field(default_factory=lambda: SequenceConfig(packing="causal_blocks"))

    name = "causal_lm"
    causal = True

    def open(self, context: TaskContext) -> "CausalLMTask":
        return self._open(context, CausalLMTask)


class CausalLMTask(SubwordLMTask):
    """See `training.task.Task`."""

    @property
    def coefficients(self) -> dict[str, float]:
        return {name: COEFFICIENTS[name] for name in ("next_token", "accuracy")}

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Cross entropy of the next token in nats, and its accuracy."""
        return losses.causal_lm(self.model, params, batch, carry, head=self.config.head, key=key)
