"""Replaced-token detection (ELECTRA, Clark et al. 2020): a generator fills masked tokens in by sampling, and the
encoder, the discriminator, says of every token whether it is the original one.

    text           the chef cooked the meal
    masked         [MASK] chef [MASK] the meal        read by the generator
    sampled        the chef ate the meal              read by the discriminator
    replaced       0   0    1   0   0                 its labels: a sample that hits the original is no replacement

Letters: B rows, T tokens, K masked positions of a row, E width of the embedding tables, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctx_jax.data.batch import MaskedBatch, TokenRows
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import ClassificationHead, Generator
from ctx_jax.losses.language_model import last_of_rows, masked_vectors
from ctx_jax.losses.softmax import LOGITS_AT_ONCE, softmax_with_hits
from ctx_jax.ops.attention import mask_of_lengths
from ctx_jax.ops.linear import Compute, product
from ctx_jax.typing import Params, Terms

COEFFICIENTS = {
    "generator": 1.0,
    "generator_accuracy": 0.0,
    "discriminator": 50.0,
    "discriminator_accuracy": 0.0,
    "replaced": 0.0,
    "found": 0.0,
}
"""The weight of each term's mean in the training loss, as published (section 2 and table 6)."""

GENERATOR, DISCRIMINATOR, SAMPLING = range(3)
"""Folded into the step's key: the dropout of either network, and the noise of the samples."""


class Replacement(NamedTuple):
    """Rows after sampling."""

    token_ids: jax.Array  # int32 [B, T], the originals with samples in the masked positions
    replaced: jax.Array  # bool [B, T], True where the token is not the original one


def replaced_token(
    model: Transformer,
    generator: Generator,
    head: ClassificationHead,
    params: Params,
    batch: MaskedBatch,
    carry: tuple[()] = (),
    *,
    key: jax.Array | None = None,
) -> tuple[Terms, tuple[()]]:
    """The losses of generator and discriminator in nats: cross-entropy of the masked tokens, and binary cross-entropy
    of "replaced" at every real token, special ones included. No gradient passes through the samples.

    Args:
      model, head: the discriminator and its head of one score, positive for replaced tokens.
      params: {"encoder": ..., "head": {"replaced_token": ..., "generator": ...}}; the generator reads the encoder's
        embedding tables.
      carry: unused; a Transformer has no state.
      key: the step's key, the same on every device; None: no dropout, and samples that depend on `batch.tokens.rows`
        alone.

    Returns:
      ({term: (sum, weight)}, ()). Of "generator" and "generator_accuracy" the weight counts masked tokens. Of
      "discriminator", "discriminator_accuracy", "replaced" (tokens that are not the original) and "found" (those of
      them that the discriminator calls so) it counts real tokens, so that no weight depends on a sample; the recall is
      the mean of "found" divided by that of "replaced".
    """
    keys = [None if key is None else jax.random.fold_in(key, purpose) for purpose in (GENERATOR, DISCRIMINATOR)]
    own = generator.complete(params["head"]["generator"], params["encoder"]["embeddings"])
    vectors = masked_vectors(generator.model, own, batch, keys[0])  # [B, K, D]
    hidden = generator.head.hidden(own["head"]["masked_lm"], vectors, compute=model.compute)  # [B, K, E]
    matrix, bias = generator.head.decoder(own["head"]["masked_lm"], own["encoder"]["embeddings"]["tokens"])
    nats, hits, masked = softmax_with_hits(
        hidden.reshape(-1, hidden.shape[-1]),
        batch.predicted_ids.reshape(-1),
        matrix,
        bias,
        batch.predicted_weights.reshape(-1),
        compute=model.compute,
    )
    samples = sample_tokens(hidden, matrix, bias, row_keys(key, batch.tokens), compute=model.compute)
    rows = replace_tokens(batch, samples)
    last = last_of_rows(model, params, batch.tokens._replace(token_ids=rows.token_ids), keys[1])
    scores = head.logits(params["head"]["replaced_token"], last, compute=model.compute)[..., 0]  # [B, T]
    return {"generator": (nats, masked), "generator_accuracy": (hits, masked)} | _detection(
        scores, rows.replaced, _real(batch.tokens)
    ), ()


def row_keys(key: jax.Array | None, tokens: TokenRows) -> jax.Array:
    """What the samples of each row depend on, keys [B]: the step's key and the row's global number."""
    own = jax.random.fold_in(jax.random.key(0) if key is None else key, SAMPLING)
    rows = jnp.arange(tokens.token_ids.shape[0]) if tokens.rows is None else tokens.rows
    return jax.vmap(lambda row: jax.random.fold_in(own, row))(rows)


def noise(key: jax.Array, count: int, vocabulary: int) -> jax.Array:
    """Gumbel noise of one row's K = `count` samples, float32 [K, V]."""
    return jax.random.gumbel(key, (count, vocabulary), jnp.float32)


def sample_tokens(
    hidden: jax.Array, matrix: jax.Array, bias: jax.Array, keys: jax.Array, *, compute: Compute = "float32"
) -> jax.Array:
    """Samples of softmax(hidden matrix^T + bias), int32 [B, K], at temperature 1: the largest sum of a score and
    Gumbel noise (Gumbel 1954). Rows are processed in chunks, and have no gradient.

    Args:
      hidden: [B, K, E]. matrix: [V, E]. bias: [V]. keys: [B], one a row.
    """
    hidden, matrix, bias = jax.lax.stop_gradient((hidden, matrix, bias))
    count, size = hidden.shape[1], matrix.shape[0]

    def row(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        vectors, key = given
        scores = product(vectors, matrix, (1, 1), compute) + bias[None, :]  # [K, V]
        return jnp.argmax(scores + noise(key, count, size), axis=-1).astype(jnp.int32)

    together = max(1, min(hidden.shape[0], LOGITS_AT_ONCE // max(count * size, 1)))
    return jax.lax.map(row, (hidden, keys), batch_size=together)


def replace_tokens(batch: MaskedBatch, samples: jax.Array) -> Replacement:
    """The rows of `batch` with `samples` int32 [B, K] in place of their masked tokens."""
    length = batch.tokens.token_ids.shape[1]
    # Unused places of the K go to position T, which is dropped: position 0 is a token of its own.
    places = jnp.where(jnp.asarray(batch.predicted_weights) > 0, batch.predicted_positions, length)

    def put(row: jax.Array, at: jax.Array, ids: jax.Array) -> jax.Array:
        return row.at[at].set(ids, mode="drop")

    original = jax.vmap(put)(jnp.asarray(batch.tokens.token_ids), places, jnp.asarray(batch.predicted_ids))
    sampled = jax.vmap(put)(original, places, samples)
    return Replacement(sampled, sampled != original)


def _real(tokens: TokenRows) -> jax.Array:
    """float32 [B, T], 1 at real tokens."""
    if tokens.mask is not None:
        return jnp.asarray(tokens.mask, jnp.float32)
    if tokens.lengths is None:
        return jnp.ones(tokens.token_ids.shape, jnp.float32)
    return mask_of_lengths(jnp.asarray(tokens.lengths), tokens.token_ids.shape[1]).astype(jnp.float32)


def _detection(scores: jax.Array, replaced: jax.Array, real: jax.Array) -> Terms:
    """The discriminator's terms from its scores and labels [B, T]."""
    nats = jax.nn.softplus(scores) - jnp.where(replaced, scores, 0.0)  # -log sigmoid(score) or -log(1 - sigmoid)
    called = scores > 0
    total = jnp.sum(real)
    values = {
        "discriminator": nats,
        "discriminator_accuracy": called == replaced,
        "replaced": replaced,
        "found": called & replaced,
    }
    # Padding's scores are finite but meaningless.
    return {
        name: (jnp.sum(jnp.where(real > 0, value.astype(jnp.float32), 0.0)), total) for name, value in values.items()
    }
