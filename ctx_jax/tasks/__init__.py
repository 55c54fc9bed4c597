"""Tasks, one file each: its config, how data becomes batches, its loss, metrics and evaluators."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

from tyro.conf import AvoidSubcommands, arg

from ctx_jax.checkpoints.run_files import CONFIG, existing, refuse_several
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.load import CheckpointStep, is_run
from ctx_jax.embedding.load import load as load_encoder
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.base import Family
from ctx_jax.heads import HEADS
from ctx_jax.io import configs
from ctx_jax.io.errors import ConfigError, InputError, MissingFileError, listed
from ctx_jax.tasks.bilm import BiLMConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.imported_labels import imported_task
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.replaced_token import ReplacedTokenConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.training.config import RunConfig
from ctx_jax.training.task import Predictor, TaskConfig

AnyTask = BiLMConfig | MaskedLMConfig | CausalLMConfig | ReplacedTokenConfig | ClassifyConfig | TagConfig | PairsConfig
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


def load_trained(
    path: str | Path,
    *,
    step: CheckpointStep = "best",
    pairs: bool = False,
    columns: str = "",
    config_type: type[RunConfig] = TrainConfig,
    families: Sequence[Family] = FAMILIES,
    heads: Sequence[type] = HEADS,
) -> tuple[TaskConfig, Encoder]:
    """A run's task and its encoder with heads; of a Hugging Face folder with a head of labels those that a run would
    have, of `pairs` of texts if the folder is for them, which its files do not say. `columns`: those of the labelled
    files in place of the run's, or of the defaults of a task.

    Raises as `ctx_jax.load` and `read_config`; InputError for a folder without labels that are known; ConfigError for
    `pairs` of a run, and `columns` of a language model.
    """
    if is_run(Path(path)):
        if pairs:
            raise ConfigError("pairs", f"is for folders of Hugging Face, and {path} is a run: leave it out")
        own = read_config(Path(path), config_type).task
        return _with_columns(own, columns), load_encoder(path, step=step, families=families, heads=heads)
    encoder = load_encoder(path, step=step, families=families, heads=heads)
    if encoder.labelling is None:
        raise InputError(
            f"{path} is no run, and no Hugging Face folder with a head of labels that is known, of a class "
            f"ForSequenceClassification or ForTokenClassification; its heads are {listed(encoder.heads)}. Train one on "
            "it: ctx-jax train classify --encoder ...; for measures of language models start a run from it: ctx-jax "
            "train ... --init FOLDER"
        )
    imported, encoder = imported_task(encoder, encoder.labelling, pairs=pairs)
    return _with_columns(imported, columns), encoder


def _with_columns(task: Any, columns: str) -> Any:
    if columns and not isinstance(task, LabelConfig):
        raise ConfigError("columns", f"are of labelled files, and {task.name} is a language model: leave them out")
    return replace(task, data=replace(task.data, columns=columns)) if columns else task


def load(path: str | Path, *, step: CheckpointStep = "best", pairs: bool = False, columns: str = "") -> Predictor:
    """What labels texts, words or pairs: a trained run or a Hugging Face folder with a head of labels. It has
    `.encoder` and `.predict(list)`.

        tagger = ctx_jax.tasks.load("runs/upos")
        tagger.predict([["The", "river"]])        # [{"words": ["The", "river"], "labels": ["DET", "NOUN"]}]
        ctx_jax.tasks.load("nli-deberta", pairs=True).predict([("A cat sleeps.", "It is awake.")])

    `pairs`: the folder is for pairs of texts. `columns`: as in `load_trained`. A folder's words have the labels of
    their first pieces, as transformers' example of token classification trains them. Raises as `ctx_jax.load`;
    InputError for the run of a task without predictions.
    """
    task, encoder = load_trained(path, step=step, pairs=pairs, columns=columns)
    predictor = task.predictor(encoder)
    if predictor is None:
        raise InputError(f"{path} holds a {task.name} run, which predicts no labels: use ctx_jax.load")
    return predictor
