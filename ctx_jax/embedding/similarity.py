"""How similar texts are: the cosine of their vectors.

Letters: N texts, D width.
"""

from collections.abc import Sequence

import numpy as np

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.io.errors import InputError

_QUERY = ("query",)
_DOCUMENT = ("document", "passage", "corpus")
_SHORTEST = 1e-12  # the least length that a vector is divided by


def query_prompt(encoder: Encoder) -> str | None:
    """The name of the folder's prompt for queries, "query"; None without one."""
    return _first(encoder, _QUERY)


def document_prompt(encoder: Encoder) -> str | None:
    """The name of the folder's prompt for what is searched, "document", "passage" or "corpus"; None without one.

    An empty prompt counts only if all of these are empty: folders are read with an empty "document", which in
    sentence-transformers 6.2 hides the "passage" of older ones.
    """
    return _first(encoder, _DOCUMENT)


def _first(encoder: Encoder, names: Sequence[str]) -> str | None:
    prompts = {} if encoder.sentence is None else encoder.sentence.prompts
    known = [name for name in names if name in prompts]
    return next((name for name in known if prompts[name]), known[0] if known else None)


def similarity(encoder: Encoder, first: Sequence[str], second: Sequence[str], *, retrieval: bool = False) -> np.ndarray:
    """The cosine of each text of `first` with the one of the same place in `second`, float32 [N].

        similarity(load("all-MiniLM-L6-v2"), ["a cat"], ["a kitten"])     # [0.79]

    With `retrieval` the first are queries and the second documents: each gets the folder's prompt for these, if it has
    one. Otherwise both get the folder's default prompt.
    """
    if len(first) != len(second):
        raise InputError(f"similarity needs as many first texts as second ones, got {len(first)} and {len(second)}")
    prompts = (query_prompt(encoder), document_prompt(encoder)) if retrieval else (None, None)
    sides = [
        encoder.encode_array(texts, prompt_name=prompt) for texts, prompt in zip((first, second), prompts, strict=True)
    ]
    units = [side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), _SHORTEST) for side in sides]
    return np.sum(units[0] * units[1], axis=1)
