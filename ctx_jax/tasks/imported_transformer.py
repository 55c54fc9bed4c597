"""The Transformer that a language-model run starts from."""

from dataclasses import replace
from typing import Any

import jax

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.load import load
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.io.errors import InputError
from ctx_jax.tasks.setup import naming_setting
from ctx_jax.tokenizers.subwords import Subwords

_KEPT = ("compute", "attention", "scan", "remat", "embedding_dropout", "attention_dropout", "attention_output_dropout",
         "feed_forward_inner_dropout", "feed_forward_dropout")  # fmt: skip
"""The fields of `model` that an import does not replace: how to compute, and dropout rates."""


def read_import(init: str) -> tuple[Encoder, Subwords]:
    """The encoder of the setting `init`, on the host, and its tokenizer. ConfigError for another kind of encoder."""
    with naming_setting("init", init):
        encoder = load(init)
        if not isinstance(encoder.processor, SubwordInputs):
            raise InputError(f"it holds a {type(encoder.model).__name__}; a Transformer is needed")
        # Kept on the host: on a device they would use memory for the whole run.
        heads = {name: head._replace(params=jax.device_get(head.params)) for name, head in encoder.heads.items()}
        return replace(encoder, params=jax.device_get(encoder.params), heads=heads), encoder.processor.subwords


def adapted(wanted: Transformer, imported: Any) -> Transformer:
    """The imported model with the fields of `wanted` that say how to compute, and its dropout rates."""
    model: Transformer = replace(imported, **{name: getattr(wanted, name) for name in _KEPT})
    return model
