"""Transformer encoders: the BERT family, GPT and GPT-2, ModernBERT."""

from ctx_jax.encoders.transformer.huggingface import FAMILY
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
