"""Tasks, one file each: its config, how data becomes batches, its loss, metrics and evaluators."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_args

from tyro.conf import AvoidSubcommands, arg

from ctx_jax.checkpoints.run_files import CONFIG, existing, refuse_several
from ctx_jax.embedding.load import CheckpointStep
from ctx_jax.embedding.load import load as load_encoder
from ctx_jax.io import configs
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.tasks.bilm import BiLMConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.training.config import RunConfig
from ctx_jax.training.task import Predictor, TaskConfig

AnyTask = BiLMConfig | MaskedLMConfig | CausalLMConfig | ClassifyConfig | TagConfig | PairsConfig
"""The tasks of the package. A new task is added here; nothing else outside its file changes."""


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One training run. A file of `configs/` states what differs from these defaults."""

    task: Annotated[AvoidSubcommands[AnyTask], arg(name="")] = field(default_factory=BiLMConfig)


def named() -> dict[str, TrainConfig]:
    """A run of each task with its defaults, by the task's name."""
    return {task.name: TrainConfig(task=task(), **task.run_defaults()) for task in get_args(AnyTask)}


def read_config(run_dir: Path, config_type: type[RunConfig] = TrainConfig) -> RunConfig:
    """The settings of a run. Raises MissingFileError for a folder that is no run, InputError for a damaged file."""
    refuse_several(run_dir)
    if not (run_dir / "checkpoints").is_dir():
        raise MissingFileError(
            f"{run_dir} is no run directory: it has no checkpoints/. For an imported Transformer start a run from it "
            "first: ctx-jax train ... --init FOLDER. AllenNLP's files hold no vocabulary"
        )
    config: RunConfig = configs.read(existing(run_dir, CONFIG), config_type)
    return config


def load(run_dir: str | Path, *, step: CheckpointStep = "best") -> Predictor:
    """A trained run that predicts: `.encoder` and `.predict(list)`.

        tagger = ctx_jax.tasks.load("runs/upos")
        tagger.predict([["The", "river"]])        # [{"words": ["The", "river"], "labels": ["DET", "NOUN"]}]

    Raises as `ctx_jax.load`; InputError for the run of a task without predictions.
    """
    task: TaskConfig = read_config(Path(run_dir)).task
    predictor = task.predictor(load_encoder(run_dir, step=step))
    if predictor is None:
        raise InputError(f"{run_dir} holds a {task.name} run, which predicts no labels: use ctx_jax.load")
    return predictor
