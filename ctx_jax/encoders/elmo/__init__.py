"""ELMo: the bidirectional language model, its input processors, and its published files."""

from ctx_jax.encoders.elmo.allennlp import arrays_from_params, params_from_arrays
from ctx_jax.encoders.elmo.allennlp_files import FAMILY, read_files
from ctx_jax.encoders.elmo.allennlp_options import model_from_options
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.elmo.network import zero_carry

__all__ = [
    "FAMILY",
    "BiLM",
    "arrays_from_params",
    "model_from_options",
    "params_from_arrays",
    "read_files",
    "zero_carry",
]
