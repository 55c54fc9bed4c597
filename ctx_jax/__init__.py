"""Contextual word embeddings in JAX: train them, load them, mix their layers."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ctx_jax import encoders, losses
from ctx_jax.embedding.embed import Layers, embed
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.load import load
from ctx_jax.embedding.mix_files import load_mix, save_mix
from ctx_jax.embedding.mixing import init_mix, mix, mix_penalty
from ctx_jax.embedding.pooling import pool
from ctx_jax.embedding.stack_files import save_stack
from ctx_jax.embedding.stacking import stack

__all__ = [
    "Encoder",
    "Layers",
    "__version__",
    "embed",
    "encoders",
    "init_mix",
    "load",
    "load_mix",
    "losses",
    "mix",
    "mix_penalty",
    "pool",
    "save_mix",
    "save_stack",
    "stack",
]


def __getattr__(name: str) -> Any:
    """`ctx_jax.tasks`, imported when it is first used: it brings Orbax and the command line's packages."""
    if name != "tasks":
        raise AttributeError(f"module 'ctx_jax' has no attribute {name!r}")
    import ctx_jax.tasks as tasks

    return tasks


try:
    __version__ = version("ctx-jax")
except PackageNotFoundError:  # a copy of the folder on the path, which nobody installed
    __version__ = "0+unknown"
