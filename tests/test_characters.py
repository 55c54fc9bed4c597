"""Character ids against the original trainer's and by the laws of padding."""

import json
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers import characters
from ctx_jax.tokenizers.characters import WordEncoder, char_ids, char_ids_of_raw, encode_word, is_token, raw_ids

SENTENCES = [["the", "cat"], [], ["", "日本語", "x" * 80, "."]]


def test_training_ids_are_the_originals(golden: Path) -> None:
    pinned = json.loads((golden / "packing" / "ids_and_packing.json").read_text())
    expected = np.array(pinned["train_char_ids_no_offset"])
    width = pinned["max_word_length"]
    ours = [encode_word(word, width) for word in pinned["words"]]
    np.testing.assert_array_equal(ours, char_ids_of_raw(expected))
    np.testing.assert_array_equal(raw_ids(np.array(ours)), expected)
    np.testing.assert_array_equal(WordEncoder(width)(pinned["words"]), ours)


@pytest.mark.parametrize("case", ["emb_relu_skip_clip", "emb_tanh_noskip"])
def test_inference_ids_are_the_originals(golden: Path, case: str) -> None:
    folder = golden / case
    width = json.loads((folder / "options.json").read_text())["char_cnn"]["max_characters_per_token"]
    batches = json.loads((folder / "batches.json").read_text())
    with h5py.File(folder / "expected.hdf5") as expected:
        assert batches
        for number, batch in enumerate(batches):
            np.testing.assert_array_equal(char_ids(batch, width), expected[str(number)]["char_ids"][...])


def test_the_row_of_a_word() -> None:
    np.testing.assert_array_equal(encode_word("cat", 6), [259, 100, 98, 117, 260, 261])
    np.testing.assert_array_equal(encode_word("", 6), [259, 260, 261, 261, 261, 261])
    np.testing.assert_array_equal(encode_word("<S>", 4), [259, 257, 260, 261])
    np.testing.assert_array_equal(encode_word("</S>", 4), [259, 258, 260, 261])
    np.testing.assert_array_equal(encode_word("é", 3), [259, 0xC3 + 1, 260])  # the cut splits a character
    np.testing.assert_array_equal(encode_word("a\ud800b", 6), encode_word("ab", 6))
    assert encode_word("cat", 6).dtype == np.int32


def test_a_full_cache_is_cleared_and_results_stay() -> None:
    words = [f"w{number % 7}" for number in range(50)] + ["<S>", "</S>", ""]
    expected = np.stack([encode_word(word, 9) for word in words])
    for capacity in (1, 3, 7, 1000):
        encoder = WordEncoder(9, capacity)
        for _ in range(2):
            np.testing.assert_array_equal(encoder(words), expected)
        assert len(encoder._rows) <= capacity
    assert WordEncoder(9)([]).shape == (0, 9)


def test_padding_to_fixed_sizes_only_adds_zeros() -> None:
    free = char_ids(SENTENCES, 8)
    fixed = char_ids(SENTENCES, 8, rows=5, length=9)
    assert free.shape == (3, 6, 8)
    assert fixed.shape == (5, 11, 8)
    assert free.dtype == np.int32
    np.testing.assert_array_equal(fixed[:3, :6], free)
    assert not fixed[3:].any()
    assert not fixed[:, 6:].any()
    np.testing.assert_array_equal((free > 0).all(-1).sum(1), [4, 2, 6])


def test_no_sentences_and_empty_sentences() -> None:
    assert char_ids([], 8).shape == (0, 2, 8)
    assert char_ids([], 8, rows=2, length=3).shape == (2, 5, 8)
    np.testing.assert_array_equal(char_ids([[]], 4)[0] - 1, [[258, 256, 259, 260], [258, 257, 259, 260]])


def test_raw_ids_subtract_the_offset_in_numpy_and_in_a_trace() -> None:
    ids = char_ids(SENTENCES, 8, rows=4, length=5)
    raw, present = raw_ids(ids), is_token(ids)
    np.testing.assert_array_equal(present.sum(1), [4, 2, 6, 0])
    np.testing.assert_array_equal(raw[present], ids[present] - 1)
    assert (raw[~present] == characters.PAD).all()
    traced_raw, traced_present = jax.jit(lambda ids: (raw_ids(ids), is_token(ids)))(ids)
    np.testing.assert_array_equal(traced_raw, raw)
    np.testing.assert_array_equal(traced_present, present)
    assert traced_raw.dtype == np.int32
    assert traced_present.dtype == bool


def test_errors_name_what_to_set() -> None:
    with pytest.raises(ValueError, match="set rows=3"):
        char_ids(SENTENCES, 8, rows=2)
    with pytest.raises(ValueError, match="set length=4"):
        char_ids(SENTENCES, 8, length=3)
    with pytest.raises(ConfigError, match="at least 3") as raised:
        encode_word("a", 2)
    assert raised.value.field == "max_characters"
