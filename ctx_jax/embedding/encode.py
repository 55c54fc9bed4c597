"""Any number of sentences to vectors: read ahead a bounded way, batched by length, results in the order given.

Sentences are read in blocks. A block is split into words or tokens on a thread while the device works on the one
before. It is sorted by length into batches (`batching`); sentences that are longer than the model takes are computed in
overlapping windows (`windows`).

Letters: L layers, B rows of a batch, T words or tokens, D width.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
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
"""A block has about so many tokens at most, which gives batches with little padding. The first has a quarter of that,
so that its results come sooner."""
BLOCK_BYTES = 1 << 30
"""Results are held until those of the sentences before them are there: at most about so many bytes."""
MANY_SHAPES = 64
"""After so many shapes of an encoder, lengths are rounded up to few."""
_TOKEN_CHARACTERS = 4  # about so many to a token
_PART_TOKENS = 256  # of a sentence that runs in parts

Compute = Callable[[dict[str, np.ndarray], int], jax.Array]
"""(inputs, rows): the vectors of a batch, [B, ..., T, D] or [B, ..., D]."""


class Split(NamedTuple):
    """Sentences as a processor takes them."""

    sentences: list[Any]
    counts: list[int] | None
    """How many vectors each sentence gets; None: one vector a sentence."""


class CutNotice:
    """Logs once a call that sentences are cut."""

    def __init__(self) -> None:
        self._logged = False

    def __call__(self, number: int, size: int, limit: int) -> None:
        if not self._logged:
            _LOGGER.warning("sentence %d has %d tokens, cut to %d; so are longer ones after it", number, size, limit)
        self._logged = True


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
    text_bytes: int | None
    """Of the vector of a text; None: results are those of words or tokens."""
    token_bytes: int
    """Of the vectors of a word or token."""
    shapes: set[tuple[int, int]] = field(default_factory=set)
    """The shapes (rows, length) that were used."""
    cut_notice: CutNotice = field(default_factory=CutNotice)

    def held_bytes(self, size: int) -> int:
        """Of what is held for a sentence of `size` tokens until it is yielded."""
        if self.limit is not None and size > self.limit and self.long == "windows":
            return 3 * size * self.token_bytes  # windows overlap by half, and are merged
        return size * self.token_bytes if self.text_bytes is None else self.text_bytes


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
    results: dict[int, np.ndarray] = {}  # by a sentence's index in the block
    of_windows: dict[int, dict[int, np.ndarray]] = {}
    for block, parts, vectors in pipelined(_running(sentences, job)):
        if vectors is None:
            for index in range(len(block.numbers)):
                yield results.pop(index)
            continue
        batch = np.asarray(vectors)
        for row, part in enumerate(parts):
            # A copy, so that no result keeps its whole batch in memory.
            of_row = (batch[row] if part.vectors is None else batch[row][..., : part.vectors, :]).copy()
            if part.sentence in block.long:
                collected = of_windows.setdefault(part.sentence, {})
                collected[part.window] = of_row
                if len(collected) < len(block.long[part.sentence].windows):
                    continue
                of_row = _merged(of_windows.pop(part.sentence), block.long[part.sentence], job)
            _check_finite(of_row)
            results[part.sentence] = of_row


def _merged(vectors: dict[int, np.ndarray], long: _Long, job: Job) -> np.ndarray:
    merged = merge([vectors[number] for number in range(len(long.windows))], *long, job.special)
    return merged if job.finish is None else job.finish(merged)


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
            waiting.append(sentence)
            yield number, sentence

    def encoded() -> Iterator[Encoded]:
        for vectors in encode_sentences(remembered(), job):
            offsets, count = job.processor.offsets([waiting.popleft()], job.level)[0], vectors.shape[-2]
            behind = job.special[1]
            if len(offsets) > count:  # the sentence was cut; a special token behind it keeps its (0, 0)
                offsets = np.concatenate([offsets[: count - behind], offsets[len(offsets) - behind :]])
            yield Encoded(vectors, offsets)

    return encoded()


def _running(
    sentences: Iterator[tuple[int, Any]], job: Job
) -> Iterator[tuple[_Block, list[_Part], jax.Array | np.ndarray | None]]:
    """The batches of every block, each as soon as the devices have begun with it: (block, its rows, vectors). Vectors
    None: the block is done."""
    for block in _blocks(sentences, job):
        for parts, compute in ((block.whole, job.compute), (block.in_windows, job.of_window)):
            sizes = job.processor.sizes([part.split for part in parts])
            few_shapes = len(job.shapes) >= MANY_SHAPES
            for chosen, rows, length in plan(sizes, job.batch_tokens, job.multiple, job.limit, few_shapes=few_shapes):
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


def rounded_to(dtype: str, vectors: np.ndarray) -> np.ndarray:
    """The vectors in another dtype. InputError if float16 cannot hold one of the numbers."""
    result = vectors.astype(jnp.dtype(dtype))
    _check_finite(result)
    return result


def _check_finite(vectors: np.ndarray) -> None:
    if vectors.dtype == np.float16 and np.isinf(vectors).any():
        raise InputError('dtype="float16" holds numbers up to 65,504, and a vector has larger ones: set "bfloat16"')


def _blocks(sentences: Iterator[tuple[int, Any]], job: Job) -> Iterator[_Block]:
    """Blocks in their order; each is prepared on a thread after the one before it was returned."""
    tokens = min(BLOCK_TOKENS, 256 * job.batch_tokens) // 4
    with ThreadPoolExecutor(1, "ctx_jax encode") as executor:
        waiting: Future[list[_Block]] | None = None
        while True:
            read = _read(sentences, min(tokens, BLOCK_BYTES // job.token_bytes))
            tokens = min(2 * tokens, BLOCK_TOKENS, 256 * job.batch_tokens)
            ready, waiting = waiting, executor.submit(_prepare, read, job) if read else None
            if ready is not None:
                yield from ready.result()
            if waiting is None:
                return


def _read(sentences: Iterator[tuple[int, Any]], tokens: int) -> list[tuple[int, Any]]:
    """The next sentences, of about so many tokens."""
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


def _prepare(read: list[tuple[int, Any]], job: Job) -> list[_Block]:
    """The sentences that were read, split; in several blocks if the results of one would take too much memory."""
    numbers = [number for number, _ in read]
    with numbering_sentences(numbers):
        found = job.split([sentence for _, sentence in read], numbers)
    job.processor.prepare(found.sentences)
    sizes = job.processor.sizes(found.sentences)
    bounds, held = [0], 0
    for index, size in enumerate(sizes):
        if held and held + job.held_bytes(size) > BLOCK_BYTES:
            bounds.append(index)
            held = 0
        held += job.held_bytes(size)
    blocks = []
    for start, stop in pairwise([*bounds, len(sizes)]):
        block = _Block(numbers[start:stop], [], [], [], {})
        for index in range(start, stop):
            count = None if found.counts is None else found.counts[index]
            _add(block, index - start, found.sentences[index], sizes[index], count, job)
        blocks.append(block)
    return blocks


def _add(block: _Block, index: int, sentence: Any, size: int, count: int | None, job: Job) -> None:
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
            job.cut_notice(block.numbers[index], size, limit)
            sentence = processor.cut(sentence, limit)
            if count is not None:
                count = len(processor.unit_sizes(sentence)) + sum(job.special)
            block.whole.append(_Part(index, 0, sentence, count))
        case "windows":
            sizes = processor.unit_sizes(sentence)
            own = windows(sizes, limit - processor.overhead)
            block.long[index] = _Long(own, sizes)
            for number, (first, stop) in enumerate(own):
                part = processor.part(sentence, first, stop)
                if np.count_nonzero(sizes[first:stop]) == 1:  # a single word may have more tokens than a row
                    part = processor.cut(part, limit)
                block.in_windows.append(_Part(index, number, part, stop - first + sum(job.special)))
