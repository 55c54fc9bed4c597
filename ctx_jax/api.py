"""The names of `import ctx_jax` that need jax: imported together, when one of them is first used."""

import ctx_jax.encoders as encoders
import ctx_jax.losses as losses
from ctx_jax.embedding.embed import Layers, embed
from ctx_jax.embedding.encode import Encoded
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.load import load
from ctx_jax.embedding.mix_files import load_mix, save_mix
from ctx_jax.embedding.mixing import init_mix, mix, mix_penalty
from ctx_jax.embedding.pooling import pool
from ctx_jax.embedding.sif import load_sif, save_sif
from ctx_jax.embedding.stack_files import save_stack
from ctx_jax.embedding.stacking import stack

__all__ = [
    "Encoded",
    "Encoder",
    "Layers",
    "embed",
    "encoders",
    "init_mix",
    "load",
    "load_mix",
    "load_sif",
    "losses",
    "mix",
    "mix_penalty",
    "pool",
    "save_mix",
    "save_sif",
    "save_stack",
    "stack",
]
