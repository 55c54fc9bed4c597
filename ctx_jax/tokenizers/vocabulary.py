"""Words and their ids: bilm-tf's vocabulary files, and vocabularies built by frequency.

A file has one word a line; the line's number, from 0, is the id. It must hold `<S>`, `</S>` and `<UNK>`. Vocabularies
built here begin with these and go on by falling frequency, as the sampled softmax needs it.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, repeat
from operator import itemgetter
from pathlib import Path

import numpy as np

from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.io.files import read_text, temporary_folder
from ctx_jax.tokenizers.characters import BEGIN, END

UNKNOWN = "<UNK>"
MARKERS = (BEGIN, END, UNKNOWN)
_SKIPPED = "!!!MAXTERMID"  # a line that bilm-tf's reader skips without giving it an id
LIMIT = 250_000  # distinct words in memory, about 40 MB
_FAN = 64  # runs merged at once, far below any limit on open files


@dataclass(frozen=True)
class Vocabulary:
    """Words in the order of their ids (V of them).

    InputError if `<S>`, `</S>` or `<UNK>` is missing, or a word is empty, holds white space or occurs twice.
    """

    words: tuple[str, ...] = field(repr=False)
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = dict(zip(self.words, range(len(self.words)), strict=True))
        if missing := [marker for marker in MARKERS if marker not in ids]:
            raise InputError(
                f"a vocabulary needs {', '.join(MARKERS)}; missing: {', '.join(missing)}. Add each as a line of its "
                "own, where the softmax weights expect it (at the top for a new model)"
            )
        for number, word in enumerate(self.words, start=1):
            if ids[word] != number - 1:
                raise InputError(f"{word!r} is word {number} and word {ids[word] + 1}: keep one of them")
            if word.split() != [word]:
                raise InputError(f"word {number} is {word!r}: a word must not be empty or hold white space")
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def begin(self) -> int:
        """Id of `<S>`."""
        return self._ids[BEGIN]

    @property
    def end(self) -> int:
        """Id of `</S>`."""
        return self._ids[END]

    @property
    def unknown(self) -> int:
        """Id of `<UNK>`, which every word outside the vocabulary gets."""
        return self._ids[UNKNOWN]

    def ids(self, words: Sequence[str]) -> np.ndarray:
        """Ids of words (n of them), int32 [n]."""
        return np.fromiter(map(self._ids.get, words, repeat(self.unknown)), np.int32, len(words))

    def text(self) -> str:
        """The contents of the file: one word a line."""
        return "".join(f"{word}\n" for word in self.words)

    def write(self, path: str | Path) -> None:
        """Write one word a line in UTF-8; `read` gives the same vocabulary back."""
        Path(path).write_bytes(self.text().encode())

    @classmethod
    def read(cls, path: str | Path) -> "Vocabulary":
        """Read a vocabulary file, ours or bilm-tf's.

        Raises MissingFileError; InputError, naming the file and the line, as for the class or for bytes that are not
        UTF-8.
        """
        lines = read_text(Path(path)).removeprefix("\ufeff").split("\n")
        if not lines[-1]:
            lines.pop()
        words: dict[str, int] = {}
        for number, word in enumerate(map(str.strip, lines), start=1):
            if word == _SKIPPED:
                continue
            if not word:
                raise InputError(f"{path}, line {number}: empty; every line must hold one word")
            if word in words:
                raise InputError(f"{path}, line {number}: {word!r} is already in line {words[word]}; keep one")
            words[word] = number
        try:
            return cls(tuple(words))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error


def build(
    sentences: Iterable[Sequence[str]], *, size: int | None, minimum_count: int = 1, limit: int = LIMIT
) -> Vocabulary:
    """The `size` most frequent words (None: all) seen at least `minimum_count` times, ties in alphabetical order.

    `size` includes `<S>`, `</S>` and `<UNK>`, which come first. The sentences are read once; memory holds the
    vocabulary and at most `limit` distinct words beside it (see `count_words`).

    ConfigError if `size` leaves no room for a word, or no word occurs often enough.
    """
    if size is not None and size <= len(MARKERS):
        raise ConfigError("data.vocabulary_size", f"must be above the {len(MARKERS)} markers, or None, got {size}")
    counts = (
        (-number, word)
        for word, number in count_words(sentences, limit=limit)
        if number >= minimum_count and word not in MARKERS
    )
    best = sorted(counts) if size is None else heapq.nsmallest(size - len(MARKERS), counts)
    if not best:
        raise ConfigError(
            "data.minimum_count",
            f"leaves no word, none occurs {minimum_count} times or more: lower it, or give more text",
        )
    return Vocabulary(MARKERS + tuple(word for _, word in best))


def count_words(sentences: Iterable[Sequence[str]], *, limit: int = LIMIT) -> Iterator[tuple[str, int]]:
    """Yield each distinct word once with its exact count, in code point order.

    Memory holds at most `limit` distinct words and those of one sentence: beyond that the counts so far are written to
    a temporary folder as a sorted run, and the runs are merged at the end. Words hold no line ends.
    """
    counts: Counter[str] = Counter()
    with temporary_folder("count") as folder:
        runs: list[Path] = []
        for number, sentence in enumerate(sentences):
            counts.update(sentence)
            if len(counts) > limit:
                runs.append(_write_run(sorted(counts.items()), folder / str(number)))
                counts.clear()
            if len(runs) == _FAN:
                runs = [_write_run(_merge(map(_read_run, runs)), folder / f"{number}-merged")]
        yield from _merge([*map(_read_run, runs), iter(sorted(counts.items()))])


def _write_run(counts: Iterable[tuple[str, int]], path: Path) -> Path:
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        file.writelines(f"{number} {word}\n" for word, number in counts)
    return path


def _read_run(path: Path) -> Iterator[tuple[str, int]]:
    """The words and counts of a run, which is deleted at its end."""
    with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for line in file:
            number, _, word = line[:-1].partition(" ")
            yield word, int(number)
    path.unlink()


def _merge(runs: Iterable[Iterator[tuple[str, int]]]) -> Iterator[tuple[str, int]]:
    for word, same in groupby(heapq.merge(*runs), key=itemgetter(0)):
        yield word, sum(number for _, number in same)
