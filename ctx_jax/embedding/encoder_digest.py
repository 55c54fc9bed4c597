"""What an encoder is, as one digest: two of the same digest give the same vectors."""

import hashlib

import jax
import numpy as np

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.io import configs
from ctx_jax.typing import Params


def encoder_digest(encoder: Encoder, *, sentence: bool = False) -> str:
    """SHA-256 of an encoder's model, parameters and input processor, in hexadecimal; with `sentence`, also of what
    makes one vector a text."""
    found = hashlib.sha256(configs.text(encoder.model).encode())
    found.update(encoder.processor.digest.encode())
    params = encoder.params
    if sentence and encoder.sif is not None:
        found.update(encoder.sif.digest.encode())
    if sentence and encoder.sentence is not None:
        heads = {name: encoder.heads[name] for name in encoder.sentence.heads if name in encoder.heads}
        for config in (encoder.sentence, *(head.module for head in heads.values())):
            found.update(configs.text(config).encode())
        params = {"encoder": params, "heads": {name: head.params for name, head in heads.items()}}
    _update(found, params)
    return found.hexdigest()


def heads_digest(encoder: Encoder) -> str:
    """SHA-256 of an encoder's heads and their parameters, in hexadecimal."""
    found = hashlib.sha256()
    for name, head in sorted(encoder.heads.items()):
        found.update(f"{name} {configs.text(head.module)}".encode())
        _update(found, head.params)
    return found.hexdigest()


def _update(found: "hashlib._Hash", params: Params) -> None:
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
