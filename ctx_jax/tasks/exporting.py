"""Write a trained run, or an encoder of other files, as files that other programs read."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from ctx_jax.checkpoints.run_files import CONFIG
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.load import CheckpointStep, is_run, load
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.base import Imported
from ctx_jax.io import configs
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.io.files import atomic_folder, read_json
from ctx_jax.tasks import AnyTask, read_config
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.model_card import CARD, CardOptions, model_card
from ctx_jax.tasks.replaced_token import GENERATOR, generator_of
from ctx_jax.tasks.setup import naming_setting
from ctx_jax.training.task import TaskConfig

HUGGINGFACE = "huggingface"
Part = Literal["encoder", "generator"]
"""What of a run is written: its encoder, or the generator of one of `replaced_token`."""
_INSIDE = "files"  # where the format writes its own folder, before all appear together


def export(
    run: str | Path,
    folder: Path,
    *,
    form: str = "model",
    step: CheckpointStep = "best",
    part: Part = "encoder",
    encoder_only: bool = False,
    card: CardOptions | None = None,
    name: str = "",
) -> None:
    """Write the encoder and heads of `run` into the new `folder`, in the format `form` of its family ("model": the
    first one), with a model card. `name` is what the folder will be called on the Hub, if it goes there.

    `part` "generator" is that of a run of `replaced_token`, as a masked language model of its own, whose discriminator
    is its encoder. A head of labels is written as transformers' class has it, or not at all with `encoder_only`. What
    has no place in the format causes a UserWarning. Raises as `load`; ConfigError for another format, and for a part
    that the run does not have; InputError for what the format cannot hold, ExistingFileError for a folder that is not
    empty.
    """
    encoder, path = load(run, step=step), Path(run)
    encoder = _part(encoder, part, str(run), warn=not encoder_only)
    family = next(family for family in FAMILIES if isinstance(encoder.model, family.model))
    kind = type(encoder.model).__name__
    if not family.formats:
        raise InputError(f"{run} holds a {kind}, which no format of other programs can hold")
    form = next(iter(family.formats)) if form == "model" else form
    if form not in family.formats:
        formats = ", ".join(form for family in FAMILIES for form in family.formats)
        raise ConfigError("format", f"{form} cannot hold a {kind}: leave it out (the formats are {formats})")
    task = _task_of(path) if is_run(path) else None
    encoder = _alone(encoder) if encoder_only else _with_labels(encoder, task, form)
    imported = Imported(**{field: getattr(encoder, field) for field in Imported._fields})
    with atomic_folder(folder) as partial:
        family.formats[form](partial / _INSIDE, imported, path)
        for file in (partial / _INSIDE).iterdir():
            file.rename(partial / file.name)
        (partial / _INSIDE).rmdir()
        own = read_json(partial / "config.json")["architectures"][0] if form == HUGGINGFACE else ""
        text = model_card(
            name or folder.name, encoder, form, task, card or CardOptions(), on_hub=bool(name), class_name=own
        )
        (partial / CARD).write_text(text, encoding="utf-8")


def _part(encoder: Encoder, part: Part, run: str, *, warn: bool) -> Encoder:
    """The generator, or the encoder without it: no file of one model holds both."""
    if part == "generator":
        with naming_setting("part", f"{run} has none"):
            return generator_of(encoder)
    if GENERATOR not in encoder.heads:
        return encoder
    if warn:
        warnings.warn("the generator is left out: export it for itself, as the part generator", stacklevel=3)
    return replace(encoder, heads={name: head for name, head in encoder.heads.items() if name != GENERATOR})


def _alone(encoder: Encoder) -> Encoder:
    """Without heads but those that make one vector a text."""
    needed = encoder.sentence.heads if encoder.sentence is not None else ()
    heads = {name: head for name, head in encoder.heads.items() if name in needed}
    return replace(encoder, heads=heads, labelling=None)


def _task_of(run_dir: Path) -> TaskConfig | None:
    """The task of a run; None for one that is not of this package, or where no file says it."""
    stored = read_json(run_dir / CONFIG).get("task") if (run_dir / CONFIG).is_file() else None
    kind = stored.get(configs.TYPE) if isinstance(stored, dict) else None
    return read_config(run_dir).task if kind in {task.__name__ for task in get_args(AnyTask)} else None


def _with_labels(encoder: Encoder, task: TaskConfig | None, form: str) -> Encoder:
    """With the head of labels of a run as a Hugging Face folder has it."""
    return task.exported(encoder) if form == HUGGINGFACE and isinstance(task, LabelConfig) else encoder
