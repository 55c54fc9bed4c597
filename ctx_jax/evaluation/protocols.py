"""How a text is dealt to lanes, and when the LSTM's state starts again: three conventions.

    text       the cat . | a dog
    sentence   each sentence from a zero state; how they are batched changes nothing
    stream     one lane reads them in the order of the text, the state goes on from one to the next
    bilm-tf    B lanes, each takes the next sentence when its own ends, state carried; all stop with the first that
               finds none

In every protocol a sentence of n words has n + 1 targets in either direction: w1 ... wn </S> and wn ... w1 <S>.
Letters: B lanes, T steps of a window.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ctx_jax.evaluation.scoring import Placed, Scorer, SentenceEncoder, numbered

CHUNK = 64  # batches of sentences read ahead to be sorted by length


class SentenceScore(NamedTuple):
    """Nats of one sentence in either direction: minus the logarithm of its probability."""

    sentence: int  # its place in the text, from 0
    forward: float
    backward: float
    tokens: int  # targets in either direction, n + 1
    unknown: int  # how many forward targets are <UNK>


def by_sentence(
    scorer: Scorer, encode: SentenceEncoder, sentences: Iterable[Sequence[str]], advance: Callable[[int], object]
) -> Iterator[SentenceScore]:
    """Scores every sentence from a zero state, in the order of the text; any length, in windows of T steps.

    `advance` hears of every few sentences that are done, long before their turn comes.
    """
    remaining = numbered(sentences)
    while chunk := list(islice(remaining, CHUNK * scorer.rows)):
        scores: dict[int, SentenceScore] = {}
        chunk.sort(key=lambda numbered: len(numbered[1]))
        for first in range(0, len(chunk), scorer.rows):
            group = [encode(index, words) for index, words in chunk[first : first + scorer.rows]]
            carry = scorer.start()
            for start in range(0, max(placed.end for placed in group), scorer.window):
                _, _, carry = scorer([[placed] for placed in group], start, carry)
            scores |= {placed.index: _score(placed, encode.unknown) for placed in group}
            advance(len(group))
        yield from (scores[index] for index in sorted(scores))


def by_stream(scorer: Scorer, encode: SentenceEncoder, sentences: Iterable[Sequence[str]]) -> Iterator[SentenceScore]:
    """Scores the text in its order in one lane, the state carried over sentences and windows."""
    carry = scorer.start()
    for lanes, start, stop in deal(encode, sentences, rows=1, window=scorer.window):
        _, _, carry = scorer(lanes, start, carry)
        yield from (_score(placed, encode.unknown) for placed in lanes[0] if placed.end <= stop)


class StepScore(NamedTuple):
    """One batch of the original's test, unroll 1: mean nats a target in either direction."""

    forward: float
    backward: float
    unknown: int  # how many of the B forward targets are <UNK>


def by_step(scorer: Scorer, encode: SentenceEncoder, sentences: Iterable[Sequence[str]]) -> Iterator[StepScore]:
    """bilm-tf's `test`: the batches of one step in B lanes until the first lane finds no further sentence.

    A window here is T such batches: the state is carried in either case, so the numbers are the same.
    """
    carry = scorer.start()
    for lanes, start, stop in deal(encode, sentences, rows=scorer.rows, window=scorer.window):
        forward, backward, carry = scorer(lanes, start, carry)
        targets = np.zeros(forward.shape, np.int32)
        for lane, group in enumerate(lanes):
            for placed in group:
                steps = np.arange(max(placed.start, start), min(placed.end, start + scorer.window))
                targets[lane, steps - start] = placed.ids[steps - placed.start + 1]
        for step in range(stop - start):
            unknown = int((targets[:, step] == encode.unknown).sum())
            yield StepScore(float(forward[:, step].mean()), float(backward[:, step].mean()), unknown)


def deal(
    encode: SentenceEncoder, sentences: Iterable[Sequence[str]], *, rows: int, window: int
) -> Iterator[tuple[list[list[Placed]], int, int]]:
    """Windows (lanes, first step, step after the last that every lane can fill) of the original's shared generator.

    A lane whose sentence has ended takes the next one of the text; at the same step the lower lane goes first.
    """
    remaining = numbered(sentences)
    lanes: list[list[Placed]] = [[] for _ in range(rows)]
    free = [(0, lane) for lane in range(rows)]  # a heap: the step at which each lane needs a sentence
    start, stop = 0, None
    while stop is None:
        while stop is None and free[0][0] < start + window:
            step, lane = free[0]
            if (following := next(remaining, None)) is None:
                stop = step
            else:
                placed = encode(*following, start=step)
                lanes[lane].append(placed)
                heapq.heapreplace(free, (placed.end, lane))
        end = start + window if stop is None else stop
        if end > start:
            yield lanes, start, end
        start += window
        lanes = [[placed for placed in lane if placed.end > start] for lane in lanes]


def _score(placed: Placed, unknown: int) -> SentenceScore:
    targets = placed.ids[1:]
    return SentenceScore(placed.index, placed.forward, placed.backward, len(targets), int((targets == unknown).sum()))
