"""Perplexity of a biLM in both directions, with every token counted.

Letters: B lanes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax

from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.evaluation.protocols import SentenceScore, StepScore, by_sentence, by_step, by_stream
from ctx_jax.evaluation.scoring import Scorer, SentenceEncoder
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.vocabulary import Vocabulary

ProtocolName = Literal["sentence", "stream", "bilm-tf"]
# Steps a call, which no number depends on: short where lanes end with their sentences, long where one lane goes on.
WINDOWS: dict[str, int] = {"sentence": 16, "stream": 128, "bilm-tf": 16}
LANES = 64
ORIGINAL_LANES = 256  # of bilm-tf's own test, whose number depends on it


@dataclass(frozen=True)
class Perplexity:
    """What a text cost a model; natural logarithms throughout."""

    protocol: ProtocolName
    loss: float
    """Half the sum of both directions, in nats a target."""
    forward_perplexity: float
    backward_perplexity: float
    tokens: int
    """Targets counted in either direction: words, <UNK> and one sentence marker a sentence."""
    unknown: float
    """Share of the targets that are <UNK>."""
    batches: tuple[float, ...] = ()
    """The perplexity of each batch of one step; of protocol bilm-tf alone."""

    @property
    def perplexity(self) -> float:
        """exp(loss), the geometric mean of both directions."""
        return exp_or_inf(self.loss)


def perplexity(
    model: BiLM,
    params: Any,
    vocabulary: Vocabulary,
    sentences: Iterable[Sequence[str]],
    *,
    protocol: ProtocolName = "sentence",
    batch: int = 0,
    window: int = 0,
    devices: Sequence[jax.Device] | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Perplexity:
    """The perplexity of `sentences` (lists of words) with the exact softmax and without dropout.

    - `sentence`: a zero state for each sentence; `batch` and `devices` change the speed, not the number.
    - `stream`: the text in its order in one lane, state carried: the convention of WikiText-2. `batch` plays no part.
    - `bilm-tf`: the test of the original trainer in `batch` lanes. It stops as soon as a lane finds no sentence, so
      part of the text goes uncounted, and the number depends on `batch`.

    `batch` 0 is the original's 256 lanes with `bilm-tf` and 64 otherwise. `window` is the steps of one call, 0 for a
    good one; `devices` share the lanes (default: all of this machine; their count is lowered until it divides the
    lanes). `advance` is called with the number of sentences just done. Memory does not grow with the text, but for
    `bilm-tf`'s one number a step.

    Raises ValueError for a text without sentences, or with too few for `bilm-tf` to fill its lanes once.
    """
    if protocol != "bilm-tf":
        scores = sentence_scores(
            model,
            params,
            vocabulary,
            sentences,
            protocol=protocol,
            batch=batch,
            window=window,
            devices=devices,
            advance=advance,
        )
        return summarize(scores, protocol)
    batch = batch or ORIGINAL_LANES
    scorer = Scorer(model, params, rows=batch, window=window or WINDOWS[protocol], devices=devices)
    return _of_steps(by_step(scorer, SentenceEncoder(model, vocabulary), _counted(sentences, advance)), batch)


def _of_steps(steps: Iterable[StepScore], batch: int) -> Perplexity:
    """The original's average over the steps of `batch` lanes."""
    forward = backward = 0.0
    unknown = 0
    batches: list[float] = []
    for step in steps:
        forward += step.forward
        backward += step.backward
        unknown += step.unknown
        batches.append(exp_or_inf(0.5 * (step.forward + step.backward)))
    if not batches:
        raise InputError(
            f"protocol bilm-tf fills {batch} lanes with a sentence each, and the text has fewer: no batch is complete. "
            "Set a smaller batch (--batch), or take protocol sentence, which counts every token"
        )
    forward, backward = forward / len(batches), backward / len(batches)
    tokens = batch * len(batches)
    return Perplexity(
        "bilm-tf",
        0.5 * (forward + backward),
        exp_or_inf(forward),
        exp_or_inf(backward),
        tokens,
        unknown / tokens,
        tuple(batches),
    )


def sentence_scores(
    model: BiLM,
    params: Any,
    vocabulary: Vocabulary,
    sentences: Iterable[Sequence[str]],
    *,
    protocol: Literal["sentence", "stream"] = "sentence",
    batch: int = 0,
    window: int = 0,
    devices: Sequence[jax.Device] | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[SentenceScore]:
    """(sentence, nats forward, nats backward, targets, unknown targets) of each sentence, in the order of the text.

    The arguments are those of `perplexity`; `summarize` makes the same result of them. Protocol bilm-tf cuts
    sentences off and has no such scores: ValueError.
    """
    encode = SentenceEncoder(model, vocabulary)
    match protocol:
        case "sentence":
            rows = batch or LANES
            scorer = Scorer(model, params, rows=rows, window=window or WINDOWS[protocol], devices=devices)
            return by_sentence(scorer, encode, sentences, advance)
        case "stream":
            scorer = Scorer(model, params, rows=1, window=window or WINDOWS[protocol], devices=devices)
            return by_stream(scorer, encode, _counted(sentences, advance))
    raise InputError(f"sentences are scored by protocol sentence or stream, got {protocol!r}")


def _counted(sentences: Iterable[Sequence[str]], advance: Callable[[int], object]) -> Iterator[Sequence[str]]:
    """The same sentences; `advance` is called with 1 after each."""
    for sentence in sentences:
        yield sentence
        advance(1)


def summarize(scores: Iterable[SentenceScore], protocol: Literal["sentence", "stream"] = "sentence") -> Perplexity:
    """Adds up the scores of sentences; ValueError when there are none."""
    forward = backward = 0.0
    tokens = unknown = 0
    for score in scores:
        forward += score.forward
        backward += score.backward
        tokens += score.tokens
        unknown += score.unknown
    if not tokens:
        raise InputError("perplexity needs at least one sentence, the text has none")
    loss = 0.5 * (forward + backward) / tokens
    return Perplexity(
        protocol, loss, exp_or_inf(forward / tokens), exp_or_inf(backward / tokens), tokens, unknown / tokens
    )


def exp_or_inf(nats: float) -> float:
    """exp(nats), and infinity where a float cannot hold it (an untrained or diverged model)."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
