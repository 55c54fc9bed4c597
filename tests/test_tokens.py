"""The cache of tokens: cut once, mapped afterwards, mended when damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctx_jax.data.cache import build_cache
from ctx_jax.data.config import TextConfig
from ctx_jax.data.corpora import source_of
from ctx_jax.data.tokens import cache_tokens, tokens_of


class Pieces:
    def __init__(self, words: list[str]) -> None:
        self.ids = np.asarray([5 + ord(letter) % 50 for word in words for letter in word], np.int32)
        self.words = np.asarray([number for number, word in enumerate(words) for _ in word], np.int32)


class Characters:
    """A tokenizer whose pieces are characters."""

    pad_id, begin_id, end_id, mask_id = 0, 2, 3, 4
    special_ids = frozenset(range(5))

    def __init__(self, digest: str, size: int = 60) -> None:
        self.digest, self.size, self.asked = digest, size, 0

    def __len__(self) -> int:
        return self.size

    def tokenize_words(self, sentences: Any, /) -> list[Pieces]:
        self.asked += len(sentences)
        return [Pieces(words) for words in sentences]


@pytest.mark.parametrize("size", [60, 70_000])
def test_tokens_are_cut_once_and_mapped_afterwards(tmp_path: Path, size: int) -> None:
    (tmp_path / "text.txt").write_text("one two\nthree\n\na b\n")
    source = source_of(TextConfig(train=str(tmp_path / "text.txt")), "train")
    assert source is not None
    lines: list[str] = []
    sentences = build_cache(source, tmp_path / "cache", log=lines.append)
    tokenizer = Characters("one", size)
    first = cache_tokens(sentences, tokenizer, tmp_path / "cache", log=lines.append)
    assert "13 tokens of 5 words" in lines[-1]
    again = cache_tokens(sentences, tokenizer, tmp_path / "cache", log=lines.append)
    assert tokenizer.asked == 3
    memory = tokens_of(sentences, sentences.documents, tokenizer)
    assert first.begins.tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1]
    assert (first.offsets.tolist(), first.documents.tolist(), len(first)) == ([0, 6, 11, 13], [0, 2], 3)
    assert first.ids.dtype == (np.uint16 if size == 60 else np.int32)
    for name in ("ids", "begins", "offsets", "documents"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
        np.testing.assert_array_equal(getattr(memory, name), getattr(first, name))
    other = Characters("two")
    cache_tokens(sentences, other, tmp_path / "cache", log=lines.append)
    assert other.asked == 3

    for path in (tmp_path / "cache").glob("tokens-*/ids.bin"):
        path.write_bytes(b"x")
    mended = cache_tokens(sentences, tokenizer, tmp_path / "cache", log=lines.append)
    np.testing.assert_array_equal(mended.ids, memory.ids)
    assert any("ids.bin has 1 bytes" in line for line in lines)
    assert tokenizer.asked == 3 * 3  # once, in memory, and once again
    for path in (tmp_path / "cache").glob("tokens-*/begins.bin"):
        path.write_bytes(bytes(13))  # as many as were there
    again = cache_tokens(sentences, tokenizer, tmp_path / "cache", log=lines.append)
    np.testing.assert_array_equal(again.begins, memory.begins)
    assert any("begins.bin does not hold what was written" in line for line in lines)
