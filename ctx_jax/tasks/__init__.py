"""Tasks: one file each, with its config, its data to batches, its loss, its metrics and its evaluators."""

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import AvoidSubcommands, arg

from ctx_jax.tasks.bilm import BiLMConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.training.config import RunConfig

AnyTask = BiLMConfig | MaskedLMConfig | CausalLMConfig
"""The tasks of the package. A task is added here and nowhere else outside its file."""


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One training run. What differs from these defaults is what a file of `configs/` states."""

    task: Annotated[AvoidSubcommands[AnyTask], arg(name="")] = field(default_factory=BiLMConfig)
