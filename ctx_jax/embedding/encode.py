"""Any number of sentences to vectors: read ahead a bounded way, batched by length, results in the order given.

Sentences are read in blocks. A block is split into words or tokens on a thread while the device works on the one
before. It is sorted by length into batches (`batching`); sentences that are longer than the model takes are computed in
overlapping windows (`windows`).

Letters: L layers, B rows of a batch, T words or tokens, D width.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from ctx_jax.distributed.sharding import pipelined
from ctx_jax.embedding.batching import plan
from ctx_jax.embedding.windows import Window, merge, windows
from ctx_jax.encoders.base import InputProcessor, Level
from ctx_jax.io.errors import InputError, SentenceError, numbering_sentences

Long = Literal["windows", "error", "cut"]

_LOGGER = logging.getLogger("ctx_jax")
BLOCK_SENTENCES = 16_384
BLOCK_TOKENS = 262_144
"""A block has about so many tokens at most; this many give batches with little padding."""
BLOCK_BYTES = 1 << 30
"""Results are held until those of the sentences before them are there: at most about so many bytes."""
_TOKEN_CHARACTERS = 4  # about so many to a token
_PART_TOKENS = 256  # of a sentence that runs in parts

Compute = Callable[[dict[str, np.ndarray], int], jax.Array]
"""(inputs, rows): the vectors of a batch, [B, ..., T, D] or [B, ..., D]."""


class Split(NamedTuple):
    """Sentences as a processor takes them."""

    sentences: list[Any]
    counts: list[int] | None
    """How many vectors each sentence gets; None: one vector a sentence."""


@dataclass(frozen=True)
class Job:
    """One call of `Encoder.encode`: how sentences are split, batched and computed."""

    processor: InputProcessor
    level: Level
    """Of the vectors that `of_window` computes."""
    split: Callable[[list[Any], Sequence[int]], Split]
    """(sentences, their numbers): raises SentenceErrors with these."""
    compute: Compute
    of_window: Compute
    """As `compute`, the vectors of words or tokens: of windows."""
    in_parts: Callable[[dict[str, np.ndarray], int], np.ndarray] | None
    """(inputs of one sentence, tokens of a part): vectors [..., T, D] of a sentence of any length."""
    finish: Callable[[np.ndarray], np.ndarray] | None
    """The vector of a text of those of all its tokens, [..., T, D] -> [..., D]. None: of words or tokens."""
    limit: int | None
    """The longest row."""
    long: Long
    batch_tokens: int
    multiple: int
    """Rows are a multiple of this."""
    special: tuple[int, int]
    """How many vectors of special tokens stand before and behind those of a sentence."""
    token_bytes: int
    """Of a result, for each of its tokens."""
    shapes: set[tuple[int, int]] = field(default_factory=set)
    """The shapes (rows, length) that were used."""


class _Part(NamedTuple):
    """A row of a batch: a sentence or a window of one."""

    sentence: int
    """Its index in the block."""
    window: int
    split: Any
    vectors: int | None
    """How many vectors it gets; None: one for the text."""


class _Long(NamedTuple):
    """A sentence in windows."""

    windows: list[Window]
    sizes: np.ndarray


class _Block(NamedTuple):
    """Neighbouring sentences, ready to be computed."""

    numbers: Sequence[int]
    whole: list[_Part]
    """Rows that hold a sentence."""
    in_windows: list[_Part]
    in_parts: list[_Part]
    """Sentences too long for a batch, of a model that takes any length."""
    long: dict[int, _Long]


def encode_sentences(sentences: Iterator[tuple[int, Any]], job: Job) -> Iterator[np.ndarray]:
    """One array a sentence of (number, sentence), in their order; see `Job`."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for block, parts, vectors in pipelined(_running(sentences, job)):
        if vectors is not None:
            batch = np.asarray(vectors)
            _check_finite(batch)
            for row, part in enumerate(parts):
                # A copy, so that no result keeps its whole batch in memory.
                own = batch[row] if part.vectors is None else batch[row][..., : part.vectors, :]
                found[part.sentence, part.window] = own.copy()
            continue
        for index in range(len(block.numbers)):
            if index not in block.long:
                yield found.pop((index, 0))
                continue
            own_windows, sizes = block.long[index]
            several = [found.pop((index, number)) for number in range(len(own_windows))]
            merged = merge(several, own_windows, sizes, job.special)
            yield merged if job.finish is None else job.finish(merged)


class Encoded(NamedTuple):
    """Vectors of a sentence and where its words or tokens stand in its text."""

    vectors: np.ndarray  # [L, T, D] or [T, D]
    offsets: np.ndarray  # int32 [T, 2], the first character and the one after the last


def encode_with_offsets(sentences: Iterator[tuple[int, Any]], job: Job) -> Iterator[Encoded]:
    """As `encode_sentences`, each with its offsets; of a sentence that is cut, those of what is left."""
    if job.finish is not None:
        raise InputError('offsets are those of words or tokens: set level="words" or "tokens", or leave offsets out')
    waiting: deque[Any] = deque()

    def remembered() -> Iterator[tuple[int, Any]]:
        for number, sentence in sentences:
            if not isinstance(sentence, str) and isinstance(sentence, Iterable):
                sentence = list(sentence)  # a generator of words could be read only once
            waiting.append(sentence)
            yield number, sentence

    def encoded() -> Iterator[Encoded]:
        for vectors in encode_sentences(remembered(), job):
            offsets = job.processor.offsets([waiting.popleft()], job.level)[0]
            yield Encoded(vectors, offsets[: vectors.shape[-2]])

    return encoded()


def _running(
    sentences: Iterator[tuple[int, Any]], job: Job
) -> Iterator[tuple[_Block, list[_Part], jax.Array | np.ndarray | None]]:
    """The batches of every block, each as soon as the devices have begun with it: (block, its rows, vectors). Vectors
    None: the block is done."""
    for block in _blocks(sentences, job):
        for parts, compute in ((block.whole, job.compute), (block.in_windows, job.of_window)):
            sizes = job.processor.sizes([part.split for part in parts])
            for chosen, rows, length in plan(sizes, job.batch_tokens, multiple=job.multiple, longest=job.limit):
                own = [parts[number] for number in chosen]
                inputs = _padded(job, block, own, rows, length)
                job.shapes.add((rows, length))
                yield block, own, compute(inputs, rows)
        for part in block.in_parts:
            assert job.in_parts is not None
            inputs = _padded(job, block, [part], 1, job.processor.sizes([part.split])[0])
            vectors = job.in_parts(inputs, _PART_TOKENS)
            yield block, [part], (vectors if job.finish is None else job.finish(vectors))[None]
        yield block, [], None


def _padded(job: Job, block: _Block, parts: Sequence[_Part], rows: int, length: int) -> dict[str, np.ndarray]:
    with numbering_sentences([block.numbers[part.sentence] for part in parts]):
        return job.processor.pad([part.split for part in parts], rows, length)


def _check_finite(vectors: np.ndarray) -> None:
    if vectors.dtype == np.float16 and np.isinf(vectors).any():
        raise InputError('dtype="float16" holds numbers up to 65,504, and a vector has larger ones: set "bfloat16"')


def _blocks(sentences: Iterator[tuple[int, Any]], job: Job) -> Iterator[_Block]:
    """Blocks in their order; each is prepared on a thread after the one before it was returned."""
    notice = _CutNotice()
    with ThreadPoolExecutor(1, "ctx_jax encode") as executor:
        waiting: Future[list[_Block]] | None = None
        while True:
            read = _read(sentences, job)
            ready, waiting = waiting, executor.submit(_prepare, read, job, notice) if read else None
            if ready is not None:
                yield from ready.result()
            if waiting is None:
                return


def _read(sentences: Iterator[tuple[int, Any]], job: Job) -> list[tuple[int, Any]]:
    """The next sentences, as many as a block holds."""
    tokens = min(BLOCK_TOKENS, 256 * job.batch_tokens, BLOCK_BYTES // job.token_bytes)
    read: list[tuple[int, Any]] = []
    characters = 0
    for number, sentence in sentences:
        read.append((number, sentence))
        characters += _characters(sentence)
        if len(read) == BLOCK_SENTENCES or characters >= _TOKEN_CHARACTERS * tokens:
            break
    return read


def _characters(sentence: Any) -> int:
    if isinstance(sentence, list | tuple):
        return sum(len(word) + 1 for word in sentence if isinstance(word, str)) + 1
    return len(sentence) + 1 if isinstance(sentence, str) else 1


class _CutNotice:
    """Says once a call that sentences are cut."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, number: int, size: int, limit: int) -> None:
        if not self._said:
            _LOGGER.warning("sentence %d has %d tokens, cut to %d; so are later ones", number, size, limit)
        self._said = True


def _prepare(read: list[tuple[int, Any]], job: Job, notice: _CutNotice) -> list[_Block]:
    """The sentences that were read, split; in several blocks if the results of one would take too much memory."""
    numbers = [number for number, _ in read]
    found = job.split([sentence for _, sentence in read], numbers)
    sizes = job.processor.sizes(found.sentences)
    bounds, tokens = [0], 0
    for index, size in enumerate(sizes):
        if tokens and (tokens + size) * job.token_bytes > BLOCK_BYTES:
            bounds.append(index)
            tokens = 0
        tokens += size
    blocks = []
    for start, stop in pairwise([*bounds, len(sizes)]):
        block = _Block(numbers[start:stop], [], [], [], {})
        for index in range(start, stop):
            count = None if found.counts is None else found.counts[index]
            _add(block, index - start, found.sentences[index], sizes[index], count, job, notice)
        blocks.append(block)
    return blocks


def _add(block: _Block, index: int, sentence: Any, size: int, count: int | None, job: Job, notice: _CutNotice) -> None:
    """Add a sentence to its block in the way that its length asks for."""
    processor, limit = job.processor, job.limit
    if limit is None or size <= limit:
        whole = job.in_parts is None or size <= job.batch_tokens
        (block.whole if whole else block.in_parts).append(_Part(index, 0, sentence, count))
        return
    match job.long:
        case "error":
            raise SentenceError(
                block.numbers[index],
                f'has {size} tokens, the encoder takes {limit}: split it, or set long="windows" or "cut"',
            )
        case "cut":
            notice(block.numbers[index], size, limit)
            sentence = processor.cut(sentence, limit)
            if count is not None:
                count = len(processor.unit_sizes(sentence)) + sum(job.special)
            block.whole.append(_Part(index, 0, sentence, count))
        case "windows":
            sizes = processor.unit_sizes(sentence)
            own = windows(sizes, limit - processor.overhead)
            block.long[index] = _Long(own, sizes)
            for number, (first, stop) in enumerate(own):
                # Only a single word of very many tokens is cut.
                part = processor.cut(processor.part(sentence, first, stop), limit)
                block.in_windows.append(_Part(index, number, part, stop - first + sum(job.special)))
