"""A text as token ids, cut once and kept on disk beside the text: any part of it by its place, mapped, not read.

    <folder>/tokens-<key>/      the arrays of `Tokens`, see `array_folder`; ids are uint16 up to 65,536 of them

The key is a digest of the text's and the tokenizer's digests. Letters: S sentences, N tokens.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ctx_jax.data.array_folder import ArrayWriter, build_arrays, folder_name, open_arrays
from ctx_jax.data.cache import Sentences
from ctx_jax.io.errors import numbering_sentences
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.typing import Log

VERSION = 3  # of the layout above
BLOCK = 4096  # sentences tokenized at once
_LOGGER = logging.getLogger("ctx_jax")


@dataclass(frozen=True, eq=False)
class Tokens:
    """A text in tokens; on disk or in memory.

    `folder` is the cache's, beside which the row indexes lie; None: in memory.
    """

    ids: np.ndarray  # integers [N]
    begins: np.ndarray  # uint8 or bool [N], whether a word begins there
    offsets: np.ndarray  # int64 [S + 1], where each sentence begins
    documents: np.ndarray  # int64 [documents], each one's first sentence
    folder: Path | None = None

    def __len__(self) -> int:
        """S."""
        return len(self.offsets) - 1


def tokens_of(sentences: Iterable[Sequence[str]], documents: np.ndarray, tokenizer: Subwords) -> Tokens:
    """The tokens of a small text, in memory."""
    empty = np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int64)
    blocks = zip(empty, *_blocks(iter(sentences), tokenizer), strict=True)
    ids, begins, counts = (np.concatenate(block) for block in blocks)
    return Tokens(ids, begins, np.append(0, np.cumsum(counts)), np.asarray(documents))


def cache_tokens(sentences: Sentences, tokenizer: Subwords, folder: str | Path, *, log: Log = _LOGGER.info) -> Tokens:
    """The tokens of a cached text, cut now unless an intact cache under `folder` has them; memory stays bounded.

    Several processes may ask at once (see `array_folder.build_arrays`). A damaged cache is logged and cut again.
    """
    target = Path(folder).expanduser() / folder_name("tokens", [VERSION, sentences.digest, tokenizer.digest])
    ids_kind = np.uint16 if len(tokenizer) <= 1 << 16 else np.int32
    kinds = {"ids": ids_kind, "begins": np.uint8, "offsets": np.int64, "documents": np.int64}

    def write(writer: ArrayWriter) -> None:
        started = time.monotonic()
        count = 0
        progress = Progress(f"cutting {sentences.source} into tokens", "sentences", len(sentences), log)
        writer.append("offsets", 0)
        for ids, begins, counts in _blocks(iter(sentences), tokenizer):
            writer.append("ids", ids)
            writer.append("begins", begins)
            writer.append("offsets", count + np.cumsum(counts))
            count += len(ids)
            progress.add(len(counts))
        writer.append("documents", sentences.documents)
        seconds = max(time.monotonic() - started, 1e-9)
        log(
            f"{sentences.source}: {count:,} tokens of {sentences.words:,} words "
            f"({count / max(sentences.words, 1):.2f} a word); cut in {seconds:.1f} s ({count / seconds:,.0f} tokens/s)"
        )

    build_arrays(target, kinds, write, again="cutting the text into tokens again", log=log)
    return Tokens(**open_arrays(target).arrays, folder=target)


def _blocks(
    sentences: Iterator[Sequence[str]], tokenizer: Subwords
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """ids int32 [n], begins uint8 [n] and the sentences' counts int64 of `BLOCK` sentences at a time."""
    first = 0
    while block := list(islice(sentences, BLOCK)):
        with numbering_sentences(range(first, first + len(block))):
            pieces = tokenizer.tokenize_words(block)
        first += len(block)
        counts = np.array([len(piece.ids) for piece in pieces], np.int64)
        words = np.concatenate([piece.words for piece in pieces])
        # Word 0 of a sentence may follow word 0 of the one before.
        sentence = np.repeat(np.arange(len(pieces)), counts)
        begins = (np.diff(words, prepend=-1) != 0) | (np.diff(sentence, prepend=-1) != 0)
        yield np.concatenate([piece.ids for piece in pieces]).astype(np.int32), begins.astype(np.uint8), counts
