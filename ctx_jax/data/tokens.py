"""A text as token ids, cut once and kept on disk beside the text: any part of it by its place, mapped, not read.

    <folder>/tokens-<key>/
      ids.bin         uint16 (int32 from 65,537 tokens in the vocabulary on) [N], sentence after sentence
      begins.bin      uint8 [N], 1 where a word begins
      offsets.bin     int64 [S + 1], where each sentence begins in ids.bin
      documents.bin   int64 [documents], the number of each document's first sentence
      meta.json       counts and digests; written last

The key is a digest of the text's and the tokenizer's digests; the files of a cache that is there are hashed before it
is used, as those of the text are. Letters: S sentences, N tokens.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from ctx_jax.data.cache import Sentences
from ctx_jax.io.build_once import build_once
from ctx_jax.io.errors import InputError
from ctx_jax.io.files import file_digest
from ctx_jax.io.mmap_spill import Scratch
from ctx_jax.io.progress import Pace
from ctx_jax.tokenizers.templates import PairLayout

VERSION = 2  # of the layout above
BLOCK = 4096  # sentences tokenized at once
_ARRAYS = ("ids", "begins", "offsets", "documents")


class SpecialIds(Protocol):
    """What sequences ask of a tokenizer: the ids of its special tokens, and its size by `len`."""

    def __len__(self) -> int:
        """V: every id is below it."""

    @property
    def pad_id(self) -> int:
        """Fills rows up."""

    @property
    def begin_id(self) -> int:
        """Opens a row."""

    @property
    def end_id(self) -> int:
        """Closes a row, and stands between documents or texts."""

    @property
    def mask_id(self) -> int:
        """Stands for what is to be predicted; ValueError for a tokenizer without it."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text: never masked, never drawn at random."""

    @property
    def pair_layout(self) -> PairLayout:
        """How two texts are laid in a row, so that who reads with this tokenizer sees what was trained; ValueError for
        a way that is not trained with."""


class Pieces(Protocol):
    """A sentence in pieces: their ids and the number of the word each is of, int [S]."""

    @property
    def ids(self) -> np.ndarray:
        """Of each piece."""

    @property
    def words(self) -> np.ndarray:
        """The number, from 0, of the word that each piece is of; they never fall."""


class Tokenizer(SpecialIds, Protocol):
    """What the cache asks of one (`text.subwords.Subwords`): pieces of words, without special tokens around them."""

    @property
    def digest(self) -> str:
        """Of all that decides its pieces: a cache has the tokens of one."""

    def tokenize_words(self, sentences: Sequence[Sequence[str]], /) -> Sequence[Pieces]:
        """The pieces of each sentence, a list of words."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """A text in tokens; on disk or in memory.

    ids: integers [N]. begins: uint8 or bool [N], whether a word begins there. offsets: int64 [S + 1], where each
    sentence begins. documents: int64 [documents], each one's first sentence.
    """

    ids: np.ndarray
    begins: np.ndarray
    offsets: np.ndarray
    documents: np.ndarray
    scratch: Scratch | None = None
    """Where to put what is found out about a long text."""

    def __len__(self) -> int:
        """S."""
        return len(self.offsets) - 1

    def spill(self, array: np.ndarray) -> np.ndarray:
        """The same array, on disk where there is scratch space."""
        return array if self.scratch is None else self.scratch.spill(array)


def tokens_of(sentences: Iterable[Sequence[str]], documents: np.ndarray, tokenizer: Tokenizer) -> Tokens:
    """The tokens of a small text, in memory."""
    blocks = list(_blocks(iter(sentences), tokenizer))
    ids, begins, counts = (
        np.concatenate([block[part] for block in blocks] or [np.zeros(0, kind)])
        for part, kind in enumerate((np.int32, np.uint8, np.int64))
    )
    return Tokens(ids, begins, np.append(0, np.cumsum(counts)), np.asarray(documents))


def cache_tokens(
    sentences: Sentences, tokenizer: Tokenizer, folder: str | Path, *, report: Callable[[str], None] = print
) -> Tokens:
    """The tokens of a cached text, cut now unless an intact cache under `folder` has them; memory stays bounded.

    Several processes may ask at once: one cuts, the others wait. A damaged cache is named to `report` and cut again.
    """
    identity = json.dumps([VERSION, sentences.digest, tokenizer.digest])
    target = Path(folder).expanduser() / f"tokens-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    build_once(
        target,
        lambda there: _open(there, whole=True),
        lambda building: _write(sentences, tokenizer, building, report),
        again="cutting the text into tokens again",
        log=report,
    )
    return _open(target)


def _blocks(
    sentences: Iterator[Sequence[str]], tokenizer: Tokenizer
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """ids int32 [n], begins uint8 [n] and the sentences' counts int64 of `BLOCK` sentences at a time."""
    while block := list(islice(sentences, BLOCK)):
        pieces = tokenizer.tokenize_words(block)
        counts = np.fromiter((len(piece.ids) for piece in pieces), np.int64, len(pieces))
        words = np.concatenate([piece.words for piece in pieces])
        begins = np.ones(len(words), np.uint8)
        begins[1:] = words[1:] != words[:-1]
        starts = np.cumsum(counts) - counts
        begins[starts[counts > 0]] = 1  # word 0 may follow word 0 of the sentence before
        yield np.concatenate([piece.ids for piece in pieces]).astype(np.int32), begins, counts


def _write(sentences: Sentences, tokenizer: Tokenizer, folder: Path, report: Callable[[str], None]) -> None:
    started = time.monotonic()
    kind = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.int32)
    count = 0
    pace = Pace(f"cutting {sentences.source} into tokens", "sentences", report, len(sentences))
    with (
        (folder / "ids.bin").open("wb") as ids_file,
        (folder / "begins.bin").open("wb") as begins_file,
        (folder / "offsets.bin").open("wb") as offsets_file,
    ):
        offsets_file.write(np.int64(0).tobytes())
        for ids, begins, counts in _blocks(iter(sentences), tokenizer):
            ids_file.write(ids.astype(kind).tobytes())
            begins_file.write(begins.tobytes())
            offsets_file.write((count + np.cumsum(counts)).tobytes())
            count += len(ids)
            pace.add(len(counts))
    (folder / "documents.bin").write_bytes(np.asarray(sentences.documents).tobytes())
    meta = {
        "tokens": count,
        "sentences": len(sentences),
        "documents": len(sentences.documents),
        "kind": kind.name,
        "files": {f"{name}.bin": file_digest(folder / f"{name}.bin") for name in _ARRAYS},
        "text": sentences.digest,
        "tokenizer": tokenizer.digest,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    seconds = max(time.monotonic() - started, 1e-9)
    report(
        f"{sentences.source}: {count:,} tokens of {sentences.words:,} words "
        f"({count / max(sentences.words, 1):.2f} a word); cut in {seconds:.1f} s ({count / seconds:,.0f} tokens/s)"
    )


def _open(folder: Path, *, whole: bool = False) -> Tokens:
    """ValueError for files of another size than was written; with `whole` for any other byte."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        shapes = {
            "ids": (np.dtype(meta["kind"]), meta["tokens"]),
            "begins": (np.dtype(np.uint8), meta["tokens"]),
            "offsets": (np.dtype(np.int64), meta["sentences"] + 1),
            "documents": (np.dtype(np.int64), meta["documents"]),
        }
        digests = {name: meta["files"][f"{name}.bin"] for name in _ARRAYS}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'meta.json'} is damaged ({error}): delete {folder}") from error
    for name, (kind, count) in shapes.items():
        found = (folder / f"{name}.bin").stat().st_size
        if found != kind.itemsize * count:
            raise InputError(
                f"{folder / name}.bin has {found} bytes, {kind.itemsize * count} were written: delete {folder}"
            )
        if whole and file_digest(folder / f"{name}.bin") != digests[name]:
            raise InputError(f"{folder / name}.bin does not hold what was written: delete {folder}")
    ids, begins, offsets, documents = (
        np.memmap(folder / f"{name}.bin", shapes[name][0], mode="r")
        for name in ("ids", "begins", "offsets", "documents")
    )
    return Tokens(ids, begins, offsets, documents)
