"""One vector a text, as sentence-transformers 6 computes it.

Letters: B texts, T tokens, D width, M pooling modes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp

from ctx_jax.embedding.pooling import pool
from ctx_jax.encoders.base import InputProcessor
from ctx_jax.heads import Head, SentenceModules
from ctx_jax.heads.sentence import NORMALIZE, PoolingMode
from ctx_jax.io.errors import InputError
from ctx_jax.ops.dense import unit_vectors
from ctx_jax.ops.linear import Compute
from ctx_jax.tokenizers.words import split_words


def sentence_vectors(
    vectors: jax.Array,
    mask: jax.Array,
    modules: SentenceModules | None = None,
    heads: Mapping[str, Head] | None = None,
    *,
    skipped: jax.Array | int = 0,
    normalize: bool = False,
    compute: Compute = "float32",
) -> jax.Array:
    """One vector a text: vectors [B, T, D] and mask [B, T] of one layer, special tokens included -> [B, ...].

        encoder = load("all-MiniLM-L6-v2")
        layers = embed(encoder.model, encoder.params, encoder.tokenize(texts, level="tokens"))
        sentence_vectors(layers.values[-1], layers.mask, encoder.sentence, encoder.heads)     # [B, D]

    `modules` None: the mean. `modules.layers` says which layer to give, which this function does not choose. `heads`
    must have those that `modules.modules` names. The first `skipped` tokens of each row are
    not pooled: those of a prompt, where `modules` leaves it out. `normalize` divides the result by its length.
    """
    modules = modules or SentenceModules()
    result = pool_texts(vectors, mask, modules.pooling, skipped=skipped)
    for name in modules.modules:
        if name == NORMALIZE:
            result = unit_vectors(result)
        else:
            head = (heads or {})[name]
            result = head.module.vectors(head.params, result, compute=compute)
    result = result[..., : modules.dimensions]
    return unit_vectors(result) if normalize else result


def pool_texts(
    vectors: jax.Array, mask: jax.Array, modes: Sequence[PoolingMode], *, skipped: jax.Array | int = 0
) -> jax.Array:
    """[B, M D] of vectors [B, T, D] and mask [B, T]: the vectors of all modes, one after the other.

        cls                    the first token
        max                    the largest of each number
        mean                   sum / tokens
        mean_sqrt_len_tokens   sum / sqrt(tokens)
        weightedmean           weights 1, 2, 3 ... by the place in the row
        lasttoken              the last token

    The first `skipped` tokens of each row are left out, and keep their weights. A text of which nothing is left gives
    zeros, but its first token for "cls". (sentence-transformers gives -inf for "max".)
    """
    vectors, mask = jnp.asarray(vectors), jnp.asarray(mask, jnp.bool_)
    places = jnp.arange(mask.shape[1], dtype=jnp.int32)[None, :]
    kept = mask & (places >= skipped)
    return jnp.concatenate([_pooled(vectors, mask, kept, mode) for mode in modes], axis=-1)


def _pooled(vectors: jax.Array, mask: jax.Array, kept: jax.Array, mode: PoolingMode) -> jax.Array:
    count = jnp.sum(kept, axis=1, dtype=jnp.int32)[:, None]  # [B, 1]
    match mode:
        case "cls":
            return jnp.where(count > 0, pool(vectors, kept, "first"), pool(vectors, mask, "first"))
        case "max":
            return pool(vectors, kept, "max")
        case "mean":
            return pool(vectors, kept, "mean")
        case "mean_sqrt_len_tokens":
            return pool(vectors, kept, "mean") * jnp.sqrt(count.astype(vectors.dtype))
        case "weightedmean":
            places = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
            weights = jnp.where(kept, places, 0).astype(vectors.dtype)  # [B, T]
            total = jnp.maximum(jnp.sum(weights, axis=1), 1.0)[:, None]
            summed = jnp.einsum("bt,btd->bd", weights, vectors, precision=jax.lax.Precision.HIGHEST)
            return summed / total
        case "lasttoken":
            return pool(vectors, kept, "last")


class TextSettings(NamedTuple):
    """How `Encoder.encode` makes vectors of texts."""

    modules: SentenceModules
    normalize: bool
    prompt: str
    skipped: int  # tokens of the prompt that are not pooled
    length: int | None  # in tokens; None: any


def text_settings(
    modules: SentenceModules | None,
    processor: InputProcessor,
    *,
    pooling: PoolingMode | Sequence[PoolingMode] | None,
    normalize: bool | None,
    prompt: str | None,
    prompt_name: str | None,
    length: int | None,
) -> TextSettings:
    """The settings of a call: what is None is the encoder's own. Raises InputError for what it cannot do."""
    modules = modules or SentenceModules()
    if pooling is not None:
        modes = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        known = get_args(PoolingMode)
        if not modes or any(mode not in known for mode in modes):
            raise InputError(f"pooling must be one or several of {', '.join(known)}, got {pooling!r}")
        if len(modes) != len(modules.pooling) and any(name != NORMALIZE for name in modules.modules):
            raise InputError(
                f"the dense layer after pooling takes the vectors of {len(modules.pooling)} modes, got {pooling!r}"
            )
        modules = replace(modules, pooling=modes)
    if normalize is False:
        kept = list(modules.modules)
        while kept and kept[-1] == NORMALIZE:
            kept.pop()
        modules = replace(modules, modules=tuple(kept))
    prompt = _prompt(modules, prompt, prompt_name)
    whole, longest = processor.of_texts(), processor.longest
    special = whole.sizes(whole.split([""], "tokens"))[0]
    if length is not None and (length <= special or (longest is not None and length > longest)):
        most = "" if longest is None else f" and at most the {longest} that the model's positions hold"
        raise InputError(f"length must be more than the {special} special tokens of a text{most}, got {length}")
    limits = [limit for limit in (length or modules.length, longest) if limit is not None]
    limit = min(limits) if limits else None
    skipped = processor.prompt_length(prompt, limit) if prompt and not modules.include_prompt else 0
    modules = replace(modules, prompts={}, default_prompt=None, length=None, similarity=None)
    return TextSettings(modules, bool(normalize), prompt, skipped, limit)


def _prompt(modules: SentenceModules, prompt: str | None, name: str | None) -> str:
    if prompt is not None and name is not None:
        raise InputError(f"give prompt= or prompt_name=, not both; got {prompt!r} and {name!r}")
    if prompt is not None:
        return prompt
    name = modules.default_prompt if name is None else name
    if name is not None and name not in modules.prompts:
        raise InputError(f"prompt_name must be one of {sorted(modules.prompts)}, got {name!r}; prompt= takes any text")
    return "" if name is None else modules.prompts[name]


def with_prompt(
    texts: list[str] | list[list[str]], prompt: str, processor: InputProcessor
) -> list[str] | list[list[str]]:
    """Each text behind the prompt: a string as it is, before a list of words the prompt's words."""
    if not prompt:
        return texts
    words = split_words(prompt, processor.rule)
    return [prompt + text if isinstance(text, str) else [*words, *text] for text in texts]  # type: ignore[return-value]
