"""How often each word occurs, exactly, in one pass and in bounded memory."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from ctx_jax.io.errors import InputError
from ctx_jax.io.files import temporary_folder

LIMIT = 250_000  # distinct words in memory, about 40 MB
_FAN = 64  # runs merged at once, far below any limit on open files


def count_words(sentences: Iterable[Sequence[str]], *, limit: int = LIMIT) -> Iterator[tuple[str, int]]:
    """Yields each distinct word once with its exact count, in alphabetical (code point) order.

    Memory holds at most `limit` distinct words and those of one sentence: when there are more, the counts so far go to
    a temporary folder as a sorted run, and the runs are merged at the end. Words hold no line ends.
    """
    if limit < 1:
        raise InputError(f"limit must be at least 1 distinct word, got {limit}")
    counts: Counter[str] = Counter()
    with temporary_folder("count") as folder:
        runs: list[Path] = []
        made = 0
        for sentence in sentences:
            counts.update(sentence)
            if len(counts) > limit:
                runs.append(_write_run(sorted(counts.items()), folder / str(made)))
                made += 1
                counts.clear()
            if len(runs) == _FAN:
                merged = _write_run(_merge(map(_read_run, runs)), folder / str(made))
                made += 1
                for run in runs:
                    run.unlink()
                runs = [merged]
        yield from _merge([*map(_read_run, runs), iter(sorted(counts.items()))])


def _write_run(counts: Iterable[tuple[str, int]], path: Path) -> Path:
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        file.writelines(f"{count} {word}\n" for word, count in counts)
    return path


def _read_run(path: Path) -> Iterator[tuple[str, int]]:
    with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for line in file:
            count, _, word = line[:-1].partition(" ")
            yield word, int(count)


def _merge(runs: Iterable[Iterator[tuple[str, int]]]) -> Iterator[tuple[str, int]]:
    for word, same in groupby(heapq.merge(*runs), key=itemgetter(0)):
        yield word, sum(count for _, count in same)
