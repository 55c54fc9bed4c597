"""What an encoder is, as one digest: two of the same digest give the same vectors."""

import hashlib

import jax
import numpy as np

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.io import configs


def encoder_digest(encoder: Encoder) -> str:
    """SHA-256 of an encoder's model, parameters and input processor, in hexadecimal."""
    found = hashlib.sha256(configs.text(encoder.model).encode())
    found.update(encoder.processor.digest.encode())
    for path, leaf in jax.tree.leaves_with_path(encoder.params):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return found.hexdigest()
