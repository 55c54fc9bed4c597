"""Word deduplication and length buckets are exact for any words and any overflow."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from ctx_jax.encoders.elmo import word_dedup
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.elmo.network import token_vectors
from ctx_jax.encoders.elmo.token_encoder import convolve, filter_bank, occupied_positions
from ctx_jax.encoders.elmo.word_dedup import once_per_distinct
from ctx_jax.tokenizers.characters import PAD, char_ids_of_raw
from ctx_jax.typing import Params


def words_of_lengths(lengths: list[int], width: int, seed: int = 0) -> np.ndarray:
    """Raw ids of random words of these many bytes, between their markers."""
    draw = np.random.default_rng(seed)
    rows = np.full((len(lengths), width), PAD, np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[: length + 2] = [258, *draw.integers(97, 100, length), 259]
    return rows


@pytest.mark.parametrize("positions", [9, 12, 50])
@pytest.mark.parametrize("widths", [(1, 2, 3, 4, 5, 6, 7), (1,), (4,), (7,), (3, 5)])
def test_convolving_the_occupied_positions_is_convolving_all(positions: int, widths: tuple[int, ...]) -> None:
    """Words of every length 0..C-2, with small filters so that padding wins some maxima."""
    draw = np.random.default_rng(len(widths))
    filters = [
        (draw.normal(size=(w, 3, 8)).astype(np.float32), draw.normal(size=(8,)).astype(np.float32)) for w in widths
    ]
    table = draw.normal(size=(261, 3)).astype(np.float32)
    words = words_of_lengths([length for length in range(positions - 1) for _ in range(3)], positions)
    plain = []
    for kernel, bias in filters:
        windows = [table[words][:, s : s + len(kernel)] for s in range(positions - len(kernel) + 1)]
        plain.append(np.einsum("smwe,wen->smn", np.stack(windows), kernel).max(0) + bias)
    plain = np.concatenate(plain, axis=1)
    run = jax.jit(
        lambda read, occupied: convolve(filter_bank(filters), read, table[PAD], occupied, "float32"), static_argnums=1
    )
    np.testing.assert_allclose(run(table[words], positions), plain, rtol=1e-5, atol=1e-5)
    for occupied in {2, 3, 5, 6, positions - max(widths)} & set(range(2, positions - max(widths) + 1)):
        fitting = (words != PAD).sum(1) <= occupied
        np.testing.assert_allclose(run(table[words], occupied)[fitting], plain[fitting], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positions", "buckets"), [(9, ((4, 0.5), (7, 0.3))), (12, ((6, 1.0),)), (50, ((4, 0.5), (7, 0.3))), (50, ())]
)
def test_token_vectors_do_not_depend_on_the_buckets(positions: int, buckets: tuple[tuple[int, float], ...]) -> None:
    filters = ((1, 4), (2, 3), (3, 5), (7, 6))
    make = partial(BiLM, max_characters=positions, character_dim=3, filters=filters, dim=6, projection=5)
    alone = make(length_buckets=(), long_word_share=1.0)
    params = alone.init(jax.random.key(0))
    lengths = [n % (positions - 1) for n in range(2 * positions)]
    words = char_ids_of_raw(np.tile(words_of_lengths(lengths, positions), (2, 1)))
    vectors = jax.jit(token_vectors, static_argnums=0)
    each = np.concatenate([vectors(alone, params, words[n : n + 1]) for n in range(len(words))])
    together = vectors(make(length_buckets=buckets, long_word_share=0.6), params, words)
    np.testing.assert_allclose(together, each, rtol=1e-5, atol=1e-5)
    assert np.array_equal(together[: len(lengths)], together[len(lengths) :])

    def total(model: BiLM, params: Params) -> jax.Array:
        return jnp.sum(jnp.sin(3.0 * token_vectors(model, params, words)))

    gradient = jax.jit(jax.grad(total, argnums=1), static_argnums=0)
    ours = gradient(make(length_buckets=buckets, long_word_share=0.6), params)
    reference = gradient(make(length_buckets=(), long_word_share=0.01), params)  # overflows: every word is encoded
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, reference)


def encode(words: jax.Array, occupied: int) -> jax.Array:
    """A stand-in for the convolution: the sum over the positions read, and the number of rows of the call."""
    rows = jnp.full((words.shape[0],), words.shape[0], jnp.int32)
    return jnp.stack([jnp.sum(words[:, :occupied], axis=1), rows], axis=1)


def identity(values: jax.Array) -> jax.Array:
    return values


def test_a_full_bucket_overflows_into_the_next() -> None:
    words = words_of_lengths([1, 1, 1, 1, 1, 5, 5, 9], 12)
    words[:5, 1] = np.arange(5)  # five distinct short words for a bucket of fewer rows
    shares = ((3, 0.01), (7, 0.5), (12, 0.5))
    lengths = occupied_positions(jnp.asarray(words))
    run = jax.jit(once_per_distinct, static_argnums=(0, 1, 4))
    vectors = run(encode, identity, np.repeat(words, 4, axis=0), np.repeat(lengths, 4), shares)
    sums = [int(row[:n].sum()) for row, n in zip(words, np.asarray(lengths), strict=True)]
    read = np.asarray(vectors[:, 0]).reshape(8, 4)
    assert (read == read[:, :1]).all()
    for total, got, length in zip(sums, read[:, 0], np.asarray(lengths), strict=True):
        assert (got - total) % PAD == 0, (total, got, length)  # what is read beyond a word is padding
    assert set(np.asarray(vectors[:, 1]).tolist()) <= {8, 16}


def test_only_the_shard_that_overflows_encodes_every_word() -> None:
    usual, new = words_of_lengths([3], 12), words_of_lengths([3] * 32, 12)
    new[:, 1] = np.arange(32)
    words = jnp.asarray(np.concatenate([np.repeat(usual, 32, axis=0)] * 3 + [new]))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    lengths = occupied_positions(words)
    shares = ((6, 0.25), (12, 0.25))
    run = jax.shard_map(
        lambda words, lengths: once_per_distinct(encode, identity, words, lengths, shares),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    rows = np.asarray(jax.jit(run)(words, lengths))[:, 1].reshape(4, 32)
    assert (rows[:3] == 8).all()  # the first bucket's table
    assert (rows[3] == 32).all()  # every word
    assert np.asarray(jax.jit(run)(words, lengths))[:, 0].reshape(4, 32)[3].min() > 0


def test_words_whose_hashes_collide_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_dedup, "_hash", lambda words: jnp.zeros((words.shape[0],), jnp.uint32))
    words = words_of_lengths([2, 3, 2, 3, 4, 2], 12)
    words[2], words[5] = words[0], words[0]
    lengths = occupied_positions(jnp.asarray(words))
    vectors = once_per_distinct(encode, identity, jnp.asarray(words), lengths, ((12, 1.0),))
    np.testing.assert_array_equal(vectors[:, 0], words.sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("token_input", ["characters", "words"])
def test_a_word_with_an_id_outside_its_table_is_nan_and_no_other(token_input: Literal["characters", "words"]) -> None:
    words, shape = token_input == "words", {"max_characters": 6, "character_dim": 2, "filters": ((1, 3), (2, 2))}
    model = BiLM(token_input, 11 if words else 0, dim=4, projection=3, **shape)  # type: ignore[arg-type]
    rows = 11 if words else PAD + 1
    bad = np.array([-rows, -2, 0, rows - 1, rows, 9999], np.int32)
    spelled = words_of_lengths([2] * len(bad), 6)
    spelled[:, 1] = bad
    ids = bad if words else char_ids_of_raw(spelled)
    vectors = np.asarray(token_vectors(model, model.init(jax.random.key(0)), ids))
    assert np.isnan(vectors).all(1).tolist() == [True, True, False, False, True, True]
    assert np.isfinite(vectors[2:4]).all()
