"""Tasks, one file each: its config, how data becomes batches, its loss, metrics and evaluators."""

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import AvoidSubcommands, arg

from ctx_jax.tasks.bilm import BiLMConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.training.config import RunConfig

AnyTask = BiLMConfig | MaskedLMConfig | CausalLMConfig
"""The tasks of the package. A new task is added here; nothing else outside its file changes."""


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One training run. A file of `configs/` states what differs from these defaults."""

    task: Annotated[AvoidSubcommands[AnyTask], arg(name="")] = field(default_factory=BiLMConfig)
