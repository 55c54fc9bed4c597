"""Arrays to every layer of an encoder, as one pure function.

Letters: L layers, B sentences, T words, C characters, S tokens of a Transformer, D width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.encoders.transformer.word_pooling import embed_transformer, transformer_token_layer
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.tokenizers.characters import raw_ids

Model = BiLM | Transformer


class Layers(NamedTuple):
    """What an encoder says about a batch of sentences."""

    values: jax.Array  # [L, B, T, D] float32, layer 0 first; 0 where the mask is False
    mask: jax.Array  # [B, T] bool, True at real words (with `markers`, [B, T + 2], at words and markers)
    carry: Any = None  # the LSTM state after the batch; None for encoders without one


def embed(
    model: Model, params: bilm.Params, inputs: Mapping[str, Any], *, carry: Any = None, markers: bool = False
) -> Layers:
    """Every layer of `model` for a tokenized batch; `jax.jit(embed, static_argnums=0)`.

    A pure function: it works inside anyone's `jit`, `grad`, `vmap`, `scan` or Flax module, and a frozen encoder is
    `jax.lax.stop_gradient` around `params`. Derivatives are taken in reverse, of any order (`grad`, `vjp`, `jacrev`);
    in forward mode (`jvp`, `jacfwd`, `hessian`) jax raises a TypeError.

        inputs = encoder.tokenize(["The bank of the river ."])
        layers = embed(encoder.model, encoder.params, inputs)
        layers.values.shape                                       # (3, 1, 6, 2 * projection)

    Args:
      model: a frozen config; it picks the code.
      params: nested dict of arrays, as `load` or `models.bilm.init` give it.
      inputs: what `encoder.tokenize` gives: {"char_ids": int [B, T + 2, C]} with sentence markers and 0 for padding,
        or for a biLM over words {"token_ids": int [B, T + 2]} with -1 for padding; for a Transformer "token_ids" int
        and "token_mask" bool [B, S], and to have one vector a word "word_of_token" int [B, S] (-1: in no word) and
        "word_mask" bool [B, T]. "token_types" int [B, S] may be added.
      carry: the LSTM state to start from, one row a sentence: `layers.carry` of an earlier call, or None for zeros.
      markers: True keeps a biLM's vectors of both sentence markers, values [L, B, T + 2, D] and mask [B, T + 2]: word
        t stands at place t + 1 (`mix(..., layer_norm="allennlp")` needs them). Static under `jax.jit`.

    Returns:
      Layers; of a biLM [token, token], then [forward, backward] per LSTM layer, without sentence markers; of a
      Transformer its hidden states, the embedding output first and the last after the final norm: of every token, or
      with "word_of_token" the mean over each word's.

    Raises (while tracing):
      ValueError: inputs of another kind or shape than the model reads, a carry of other rows.
      TypeError: a model that is no encoder, ids that are no integers, a carry or markers for a Transformer.
    """
    match model:
        case BiLM():
            return _embed_bilm(model, params, inputs, carry, markers)
        case Transformer():
            if carry is not None:
                raise InputTypeError("a Transformer has no state to carry: leave carry out")
            if markers:
                raise InputTypeError(
                    "markers are a biLM's: leave markers out; a Transformer's special tokens come with "
                    'encoder.tokenize(..., level="tokens")'
                )
            return Layers(*embed_transformer(model, params, inputs))
        case _:
            raise InputTypeError(
                f"embed needs an encoder's config such as BiLM or Transformer, got {type(model).__name__}"
            )


def token_layer(model: Model, params: bilm.Params, inputs: Mapping[str, Any]) -> jax.Array:
    """Layer 0 alone, [B, T, D]: what `embed(...).values[0]` holds, without running the layers above it."""
    if isinstance(model, Transformer):
        return transformer_token_layer(model, params, inputs)
    tokens, present = _bilm_tokens(model, inputs)
    vectors = bilm.token_vectors(model, params, tokens[:, 1:-1])
    return jnp.where(present[:, 2:, None], jnp.concatenate([vectors, vectors], axis=-1), 0.0)


def _embed_bilm(model: BiLM, params: bilm.Params, inputs: Mapping[str, Any], carry: Any, markers: bool) -> Layers:
    tokens, present = _bilm_tokens(model, inputs)
    rows = present.shape[0]
    if carry is not None:
        _check_carry(model, carry, rows)
    # n words and two markers are n + 2 tokens: word t is there if token t + 2 is
    mask = present if markers else present[:, 2:]
    if rows == 0:
        start = bilm.zero_carry(model, 0) if carry is None else carry
        shape = (model.layers + 1, 0, mask.shape[1], 2 * model.projection)
        return Layers(jnp.zeros(shape, jnp.float32), mask, start)
    values, carry = bilm.contextual(model, params, tokens, present, carry, markers=markers)
    return Layers(values, mask, carry)


def _bilm_tokens(model: BiLM, inputs: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Raw ids with sentence markers, [B, T + 2, C] or [B, T + 2], and bool [B, T + 2] where there is a token."""
    if model.inputs == "characters":
        ids = _integers(inputs, "char_ids", ("B", "T + 2", model.max_characters))
        tokens, present = raw_ids(ids)
    else:
        ids = _integers(inputs, "token_ids", ("B", "T + 2"))
        tokens, present = jnp.maximum(ids, 0), ids >= 0
    if ids.shape[1] < 2:
        raise InputError(f"inputs need room for both sentence markers, T + 2 >= 2, got shape {ids.shape}")
    return tokens, present


def _integers(inputs: Mapping[str, Any], name: str, shape: tuple[str | int, ...]) -> jax.Array:
    """inputs[name] as int32 after checking that it is the only input, integer, and of `shape`."""
    if not isinstance(inputs, Mapping) or set(inputs) != {name}:
        found = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f"this model reads inputs {{{name!r}: ...}}, got {found}: use encoder.tokenize")
    ids = jnp.asarray(inputs[name])
    wrong = [want for want, have in zip(shape, ids.shape, strict=False) if isinstance(want, int) and want != have]
    if ids.ndim != len(shape) or wrong:
        needed = ", ".join(map(str, shape))
        raise InputError(f"{name} must be [{needed}], got shape {ids.shape}: use encoder.tokenize")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputTypeError(f"{name} must be integers, got {ids.dtype}")
    return ids.astype(jnp.int32)


def _check_carry(model: BiLM, carry: Any, rows: int) -> None:
    needed = jax.eval_shape(lambda: bilm.zero_carry(model, rows))
    found: Any = jax.tree.structure(carry)
    if found != jax.tree.structure(needed):
        raise InputError(f"carry must be layers.carry of this model, {jax.tree.structure(needed)}, got {found}")
    for have, want in zip(jax.tree.leaves(carry), jax.tree.leaves(needed), strict=True):
        if jnp.shape(have) != want.shape:
            raise InputError(
                f"carry has a leaf of shape {jnp.shape(have)}, the batch of {rows} rows needs {want.shape}: "
                "one row of state a sentence"
            )
