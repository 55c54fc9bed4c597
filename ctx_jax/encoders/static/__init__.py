"""Static word vectors: a table with one vector a word, as GloVe, word2vec and fastText write them."""

from ctx_jax.encoders.base import Family
from ctx_jax.encoders.static.files import facts, read, write_folder
from ctx_jax.encoders.static.inputs import StaticInputs
from ctx_jax.encoders.static.model import StaticTable
from ctx_jax.encoders.static.writing import write_binary, write_text

__all__ = ["FAMILY", "StaticInputs", "StaticTable", "read", "write_binary", "write_text"]

FAMILY = Family(
    StaticTable,
    "the path of a file of word vectors itself (GloVe, word2vec or fastText .vec; plain, gzip, xz or zip)",
    read,
    {"word2vec": write_folder},
    options=("lowercase", "unknown"),
    facts=facts,
)
