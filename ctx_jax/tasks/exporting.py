"""Write a trained run, or an encoder of other files, as files that other programs read."""

from dataclasses import replace
from pathlib import Path

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.load import CheckpointStep, is_run, load
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.base import Imported
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tasks import read_config
from ctx_jax.tasks.label_config import LabelConfig

HUGGINGFACE = "huggingface"


def export(
    run: Path, folder: Path, *, form: str = "model", step: CheckpointStep = "best", encoder_only: bool = False
) -> None:
    """Write the encoder and heads of `run` into the new `folder`, in the format `form` of its family; "model": the
    first one.

    A head of labels is written as transformers' class has it, or not at all with `encoder_only`. What has no place in
    the format causes a UserWarning. Raises as `load`; ConfigError for another format, InputError for what the format
    cannot hold, ExistingFileError for a folder that is not empty.
    """
    encoder = load(run, step=step)
    family = next(family for family in FAMILIES if isinstance(encoder.model, family.model))
    name = type(encoder.model).__name__
    if not family.formats:
        raise InputError(f"{run} holds a {name}, which no format of other programs can hold")
    form = next(iter(family.formats)) if form == "model" else form
    if form not in family.formats:
        formats = ", ".join(form for family in FAMILIES for form in family.formats)
        raise ConfigError("format", f"{form} cannot hold a {name}: leave it out (the formats are {formats})")
    encoder = _alone(encoder) if encoder_only else _with_labels(encoder, run, form)
    imported = Imported(**{name: getattr(encoder, name) for name in Imported._fields})
    family.formats[form](folder, imported, run)


def _alone(encoder: Encoder) -> Encoder:
    """Without heads but those that make one vector a text."""
    modules = encoder.sentence.modules if encoder.sentence is not None else ()
    return replace(encoder, heads={name: head for name, head in encoder.heads.items() if name in modules})


def _with_labels(encoder: Encoder, run: Path, form: str) -> Encoder:
    """With the head of labels of a run as a Hugging Face folder has it."""
    if form != HUGGINGFACE or not is_run(run):
        return encoder
    task = read_config(run).task
    return task.exported(encoder) if isinstance(task, LabelConfig) else encoder
