"""Three protocols for scoring a text: how sentences are assigned to rows, and when the LSTM's state is reset.

    sentence   each sentence starts from a zero state; batching does not change the result
    stream     one row reads the sentences in order; the state is carried from one to the next
    bilm-tf    B rows; each takes the next sentence of the text when its own ends, and carries its state; all stop when
               no sentence is left for a row

In every protocol a sentence of n words has n + 1 targets in each direction: w1 ... wn </S> and wn ... w1 <S>.
Letters: B rows, T steps per call.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from ctx_jax.evaluation.scoring import BiLMScorer, ScoredSentence
from ctx_jax.io.errors import InputError, InputTypeError

READ_AHEAD = 64  # number of batches whose sentences are sorted by length together


class SentenceScore(NamedTuple):
    """Nats (-log p) of one sentence in each direction; from `by_step`, of one step of all rows."""

    sentence: int  # number of the sentence in the text, or of the step, from 0
    forward: float
    backward: float
    tokens: int  # targets in each direction: n + 1 of a sentence, B of a step
    unknown: int  # number of forward targets that are <UNK>


def by_sentence(
    scorer: BiLMScorer, sentences: Iterable[Sequence[str]], progress: Callable[[int], object]
) -> Iterator[SentenceScore]:
    """Score every sentence from a zero state, and yield the scores in the order of the text.

    After each batch, `progress` is called with its number of sentences.
    """
    remaining = _numbered(sentences)
    while chunk := list(islice(remaining, READ_AHEAD * scorer.rows)):
        scores: dict[int, SentenceScore] = {}
        chunk.sort(key=lambda numbered: len(numbered[1]))
        for first in range(0, len(chunk), scorer.rows):
            batch = [scorer.sentence(index, words) for index, words in chunk[first : first + scorer.rows]]
            carry = scorer.zero_carry()
            for start in range(0, max(sentence.end for sentence in batch), scorer.unroll_steps):
                _, carry = scorer([[sentence] for sentence in batch], start, carry)
            scores |= {sentence.index: _score(sentence, scorer.unknown) for sentence in batch}
            progress(len(batch))
        yield from (scores[index] for index in sorted(scores))


def by_stream(scorer: BiLMScorer, sentences: Iterable[Sequence[str]]) -> Iterator[SentenceScore]:
    """Score the text in order in one row; the state is carried over sentences and calls."""
    carry = scorer.zero_carry()
    for rows, start, stop in _assigned_rows(scorer, sentences):
        _, carry = scorer(rows, start, carry)
        yield from (_score(sentence, scorer.unknown) for sentence in rows[0] if sentence.end <= stop)


def by_step(scorer: BiLMScorer, sentences: Iterable[Sequence[str]]) -> Iterator[SentenceScore]:
    """bilm-tf's `test`: batches of one step of B rows, until no sentence is left for some row.

    One call runs T such batches. The state is carried over steps and calls, so T does not affect the result.
    """
    carry, stop = scorer.zero_carry(), 0
    for rows, start, stop in _assigned_rows(scorer, sentences):
        (forward, backward, targets), carry = scorer(rows, start, carry)
        unknown = (targets == scorer.unknown).sum(axis=0)
        for step in range(stop - start):
            nats = float(forward[:, step].sum()), float(backward[:, step].sum())
            yield SentenceScore(start + step, *nats, scorer.rows, int(unknown[step]))
    if not stop:
        raise InputError(
            f"protocol bilm-tf fills {scorer.rows} rows with a sentence each, and the text has fewer: set a smaller "
            "batch, or take protocol sentence, which counts every token"
        )


def _assigned_rows(
    scorer: BiLMScorer, sentences: Iterable[Sequence[str]]
) -> Iterator[tuple[list[list[ScoredSentence]], int, int]]:
    """Assign sentences to rows as bilm-tf does, and yield for each call: (sentences of each row, first step, end step).

    A row whose sentence has ended takes the next one of the text; at the same step the lower row goes first. At the end
    of the text, the last call stops at the first step that some row cannot fill.
    """
    remaining = _numbered(sentences)
    rows: list[list[ScoredSentence]] = [[] for _ in range(scorer.rows)]
    free = [(0, row) for row in range(scorer.rows)]  # a heap: the step at which each row needs a sentence
    start, stop = 0, None
    while stop is None:
        while stop is None and free[0][0] < start + scorer.unroll_steps:
            step, row = free[0]
            if (following := next(remaining, None)) is None:
                stop = step
            else:
                sentence = scorer.sentence(*following, start=step)
                rows[row].append(sentence)
                heapq.heapreplace(free, (sentence.end, row))
        end = start + scorer.unroll_steps if stop is None else stop
        if end > start:
            yield rows, start, end
        start += scorer.unroll_steps
        rows = [[sentence for sentence in row if sentence.end > start] for row in rows]


def _score(sentence: ScoredSentence, unknown: int) -> SentenceScore:
    targets = sentence.ids[1:]
    unknowns = int((targets == unknown).sum())
    return SentenceScore(sentence.index, sentence.forward, sentence.backward, len(targets), unknowns)


def _numbered(sentences: Iterable[Sequence[str]]) -> Iterator[tuple[int, Sequence[str]]]:
    """(number, sentence) for each sentence; InputTypeError for a string instead of a list of words."""
    for index, words in enumerate(sentences):
        if isinstance(words, str):
            raise InputTypeError(f"a sentence must be a list of words, sentence {index} is the string {words[:40]!r}")
        yield index, words
