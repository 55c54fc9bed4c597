"""Perplexity of a biLM in both directions."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax

from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.evaluation.protocols import SentenceScore, by_sentence, by_step, by_stream
from ctx_jax.evaluation.scoring import BiLMScorer
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.typing import Params

ProtocolName = Literal["sentence", "stream", "bilm-tf"]
# Steps per call; affects speed only. Short where a row ends with its sentence, long where it carries on.
UNROLL_STEPS: dict[str, int] = {"sentence": 16, "stream": 128, "bilm-tf": 16}
BATCH = {"sentence": 64, "bilm-tf": 256}  # 256 is bilm-tf's own batch size, on which its result depends


@dataclass(frozen=True)
class Perplexity:
    """Loss and perplexities of a text under a model."""

    protocol: ProtocolName
    loss: float
    """Mean of both directions, in nats per target."""
    forward_perplexity: float
    backward_perplexity: float
    tokens: int
    """Number of targets in each direction: words, <UNK> and one sentence marker per sentence."""
    unknown: float
    """Share of the targets that are <UNK>."""
    batches: tuple[float, ...] = ()
    """The perplexity of each one-step batch; protocol bilm-tf only."""

    @property
    def perplexity(self) -> float:
        """exp(loss), the geometric mean of both directions."""
        return exp_or_inf(self.loss)


def perplexity(
    model: BiLM,
    params: Params,
    vocabulary: Vocabulary,
    sentences: Iterable[Sequence[str]],
    *,
    protocol: ProtocolName = "sentence",
    batch: int = 0,
    unroll_steps: int = 0,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Perplexity:
    """The perplexity of `sentences` (lists of words) with the exact softmax and without dropout.

    - `sentence`: each sentence starts from a zero state; `batch` and `devices` affect the speed, not the result.
    - `stream`: one row reads the text in order, state carried, as is usual for WikiText-2. `batch` has no effect.
    - `bilm-tf`: bilm-tf's own test, in `batch` rows. It stops as soon as no sentence is left for some row, so part of
      the text is not counted, and the result depends on `batch`.

    Args:
      params: {"encoder": ..., "head": {"softmax": ...}}.
      batch: rows; 0: 256 with `bilm-tf`, 64 otherwise.
      unroll_steps: steps per call, affects speed only; 0: a default for the protocol.
      devices: the devices that share the rows; default: as many devices of this machine as divide the rows.
      progress: called with the number of sentences just done.

    Memory does not grow with the text, except for one number per step with `bilm-tf`.

    Raises InputError for a text without sentences, or with fewer sentences than rows for `bilm-tf`.
    """
    scores = _scores(model, params, vocabulary, sentences, protocol, batch, unroll_steps, devices, progress)
    return summarize(scores, protocol)


def sentence_scores(
    model: BiLM,
    params: Params,
    vocabulary: Vocabulary,
    sentences: Iterable[Sequence[str]],
    *,
    protocol: Literal["sentence", "stream"] = "sentence",
    batch: int = 0,
    unroll_steps: int = 0,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Iterator[SentenceScore]:
    """The nats of each sentence, in the order of the text.

    Arguments as in `perplexity`; `summarize` of the scores gives its result. Protocol bilm-tf cuts sentences off, so it
    has no scores of sentences: InputError.
    """
    if protocol not in ("sentence", "stream"):
        raise InputError(f"sentences are scored by protocol sentence or stream, got {protocol!r}")
    return _scores(model, params, vocabulary, sentences, protocol, batch, unroll_steps, devices, progress)


def _scores(
    model: BiLM,
    params: Params,
    vocabulary: Vocabulary,
    sentences: Iterable[Sequence[str]],
    protocol: ProtocolName,
    batch: int,
    unroll_steps: int,
    devices: Sequence[jax.Device] | None,
    progress: Callable[[int], object],
) -> Iterator[SentenceScore]:
    if protocol not in UNROLL_STEPS:
        raise InputError(f"protocol must be one of {', '.join(UNROLL_STEPS)}, got {protocol!r}")
    rows = 1 if protocol == "stream" else batch or BATCH[protocol]
    steps = unroll_steps or UNROLL_STEPS[protocol]
    scorer = BiLMScorer(model, params, vocabulary, rows=rows, unroll_steps=steps, devices=devices)
    if protocol == "sentence":
        return by_sentence(scorer, sentences, progress)
    read = by_stream if protocol == "stream" else by_step
    return read(scorer, _counted(sentences, progress))


def _counted(sentences: Iterable[Sequence[str]], progress: Callable[[int], object]) -> Iterator[Sequence[str]]:
    for sentence in sentences:
        yield sentence
        progress(1)


def summarize(scores: Iterable[SentenceScore], protocol: ProtocolName = "sentence") -> Perplexity:
    """The perplexity of scored sentences, or of bilm-tf's scored steps; InputError if there are none."""
    forward = backward = 0.0
    tokens = unknown = 0
    batches: list[float] = []
    for score in scores:
        forward += score.forward
        backward += score.backward
        tokens += score.tokens
        unknown += score.unknown
        if protocol == "bilm-tf":
            batches.append(exp_or_inf(0.5 * (score.forward + score.backward) / score.tokens))
    if not tokens:
        raise InputError("perplexity needs at least one sentence, the text has none")
    return Perplexity(
        protocol,
        0.5 * (forward + backward) / tokens,
        exp_or_inf(forward / tokens),
        exp_or_inf(backward / tokens),
        tokens,
        unknown / tokens,
        tuple(batches),
    )


def exp_or_inf(nats: float) -> float:
    """exp(nats), or infinity where a float overflows (an untrained or diverged model)."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
