"""Transformer encoders: those of docs/families.md."""

from ctx_jax.encoders.base import Family
from ctx_jax.encoders.transformer.huggingface.facts import facts
from ctx_jax.encoders.transformer.huggingface.folders import read_folder, write_folder, write_sentence_folder
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.encoders.transformer.network import attention_maps, default_positions, hidden_states, last_hidden

__all__ = [
    "FAMILY",
    "SubwordInputs",
    "Transformer",
    "attention_maps",
    "default_positions",
    "hidden_states",
    "last_hidden",
]

FAMILY = Family(
    Transformer,
    "config.json with a model_type (Hugging Face), or modules.json (sentence-transformers)",
    read_folder,
    {"huggingface": write_folder, "sentence-transformers": write_sentence_folder},
    facts=facts,
)
