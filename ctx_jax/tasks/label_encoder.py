"""The encoder that a task with labels starts from, and the mix."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import jax

from ctx_jax.checkpoints.run_files import read_encoder
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.load import load
from ctx_jax.embedding.mix_files import load_mix
from ctx_jax.embedding.mixing import Mixing
from ctx_jax.encoders import FAMILIES
from ctx_jax.heads import HEADS, Head
from ctx_jax.io.errors import ConfigError, InputTypeError, MissingFileError
from ctx_jax.tasks.gpt import with_new_vocabulary
from ctx_jax.tasks.label_network import LABELS, MIX, POOLING, LabelNetwork
from ctx_jax.tasks.label_options import TableOptions
from ctx_jax.tasks.setup import naming_setting
from ctx_jax.training.task import TaskContext

if TYPE_CHECKING:
    from ctx_jax.tasks.label_config import LabelConfig


def open_encoder(config: LabelConfig, context: TaskContext) -> tuple[Encoder, str | None]:
    """The run's encoder on the host, and the digest of the one that the settings name.

    A resumed run reads its own copy, without parameters unless they are frozen; the digest is None if the path that
    it came from is gone.
    """
    if not context.resumed:
        encoder = _pretrained(config)
        return encoder, encoder_digest(encoder)
    try:
        key: str | None = encoder_digest(_pretrained(config))
    except MissingFileError:
        key = None
    if config.frozen:
        own = load(context.run_dir, step="latest")
        params = jax.device_get(own.params)  # as a new run has them
        return replace(own, params=params, processor=config.processed(own.processor, own.model)), key
    stored = read_encoder(context.run_dir, [family.model for family in FAMILIES], HEADS)
    inputs = stored.model.inputs(context.run_dir, rule=stored.rule).with_pieces(stored.pieces)
    inputs = config.processed(inputs, stored.model)
    heads = {name: Head(module, {}) for name, module in stored.heads.items()}
    return Encoder(stored.model, {}, inputs, heads, stored.sentence, stored.architecture), key


def _pretrained(config: LabelConfig) -> Encoder:
    """The encoder that the settings name, without heads of labels."""
    options = {name: value for name, value in asdict(config.table).items() if value != getattr(TableOptions, name)}
    try:
        with naming_setting("encoder", config.encoder):
            encoder = load(config.encoder, **options)
    except InputTypeError as error:
        raise ConfigError(f"table.{next(iter(options))}", f"is for tables of word vectors: {error}") from error
    if config.tuning.gpt:
        encoder = with_new_vocabulary(encoder, config.tuning.lm_weight)
    model: Any = encoder.model
    params = jax.device_get(encoder.params)  # on a device they would use memory for the whole run
    processor = config.processed(encoder.processor, model)
    heads = {name: head for name, head in encoder.heads.items() if name not in (LABELS, MIX, POOLING)}
    return replace(
        encoder, model=replace(model, compute=config.compute), params=params, processor=processor, heads=heads
    )


def first_mix(path: str, network: LabelNetwork) -> Mixing:
    """The mix in a file or run; ConfigError if it is of another number of layers."""
    with naming_setting("mix", path):
        found = load_mix(path)
    if len(found["weights"]) != network.model.num_layers:
        raise ConfigError(
            "mix", f"is of {len(found['weights'])} layers in {path}, and the encoder has {network.model.num_layers}"
        )
    return found
