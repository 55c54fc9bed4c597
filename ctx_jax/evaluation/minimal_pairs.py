"""Grammar by minimal pairs, BLiMP (Warstadt et al. 2020): whether a language model finds the good sentence likelier."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ctx_jax.checkpoints.run_files import VOCABULARY
from ctx_jax.data.pair_sets import read_blimp
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.evaluation.perplexity import sentence_scores
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.sentence_likelihood import log_probabilities, pseudo_log_likelihoods
from ctx_jax.io.errors import InputError
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import Rule, split_words
from ctx_jax.typing import Log

_LOGGER = logging.getLogger("ctx_jax")

TIE = 1e-5
"""Scores that differ by no more than this share of the larger one are equal: they are sums in float32."""

_Scores = Mapping[str, float]  # of one sentence by name, the greater the likelier
_Scorer = Callable[[Iterable[Sequence[str]]], Iterator[_Scores]]


class _Tally(NamedTuple):
    """What became of pairs."""

    right: int
    ties: int
    pairs: int

    def metrics(self) -> dict[str, float]:
        return {"accuracy": self.right / self.pairs, "ties": self.ties / self.pairs}


def blimp(
    encoder: Encoder,
    path: str | Path,
    *,
    paradigms: Collection[str] | None = None,
    limit: int | None = None,
    vocabulary: Vocabulary | None = None,
    rule: Rule | None = None,
    log: Log = _LOGGER.info,
) -> Result:
    """BLiMP by the encoder's own language model: the share of pairs whose good sentence has the greater score.

        result = blimp(encoder, "blimp_part.tar.xz", paradigms=["anaphor_gender_agreement"])
        result.scores["within_word_l2r"]["accuracy"]; result.parts["anaphor_gender_agreement"].scores

    The ways of scoring: of a masked model "original" and "within_word_l2r" (`PseudoLogLikelihood`); of a biLM the log
    probabilities "forward", "backward" and their "sum"; of a causal model "log_probability". Equal scores (`TIE`) count
    as wrong; "ties" is their share. "paradigm_accuracy" is the mean over paradigms. Of a biLM the counts say how many
    words there were and how many of them its softmax does not have ("unknown").

    Args:
      path: a folder of BLiMP's `.jsonl` files, a tar archive of it, or one of them.
      paradigms: only these; limit: only the first pairs of each.
      vocabulary: the words of a biLM's softmax; None: `vocabulary.txt` of the run that it was loaded from.
      rule: how a sentence is split into words; None: the encoder's own, but "prose" for a biLM whose rule is white
        space, as it has punctuation apart in training.
      log: gets the progress.

    Raises InputError for an encoder without the head of a language model, and for a biLM without its vocabulary.
    """
    pairs = read_blimp(path, paradigms=paradigms, limit=limit)
    counts: Counter[str] = Counter()
    score = _scorer(encoder, vocabulary, counts)
    if rule is None:
        own = encoder.processor.rule
        rule = "prose" if isinstance(encoder.model, BiLM) and own == "whitespace" else own
    words = (split_words(text, rule) for several in pairs.values() for pair in several for text in pair)
    progress = Progress("scoring", "sentences", 2 * sum(map(len, pairs.values())), log)
    scores = iter(progress.track(score(words)))
    tallies = {name: _tallies(scores, len(several)) for name, several in pairs.items()}
    parts = {
        name: Result({key: tally.metrics() for key, tally in own.items()}, {"pairs": len(pairs[name])})
        for name, own in tallies.items()
    }
    together: dict[str, dict[str, float]] = {}
    for key in next(iter(tallies.values())):
        several = [own[key] for own in tallies.values()]
        whole = _Tally(*(sum(values) for values in zip(*several, strict=True)))
        mean = sum(tally.right / tally.pairs for tally in several) / len(several)
        together[key] = whole.metrics() | {"paradigm_accuracy": mean}
    sizes = {"pairs": sum(map(len, pairs.values())), "paradigms": len(pairs)}
    return Result(together, sizes | counts, parts=parts)


def _tallies(scores: Iterator[_Scores], pairs: int) -> dict[str, _Tally]:
    """Of the next pairs, by way of scoring."""
    right: dict[str, int] = {}
    ties: dict[str, int] = {}
    for _ in range(pairs):
        good, bad = next(scores), next(scores)
        for name in good:
            margin = TIE * max(abs(good[name]), abs(bad[name]))
            right[name] = right.get(name, 0) + (good[name] - bad[name] > margin)
            ties[name] = ties.get(name, 0) + (abs(good[name] - bad[name]) <= margin)
    return {name: _Tally(right[name], ties[name], pairs) for name in right}


def language_model_head(encoder: Encoder) -> str | None:
    """The name of the head by which an encoder gives sentences their scores; None if it has none."""
    match encoder.model:
        case BiLM():
            name = "softmax"
        case Transformer(causal=False):
            name = "masked_lm"
        case Transformer(causal=True):
            name = "causal_lm"
        case _:
            return None
    return name if name in encoder.heads else None


def _scorer(encoder: Encoder, vocabulary: Vocabulary | None, counts: Counter[str]) -> _Scorer:
    model: Any = encoder.model
    match language_model_head(encoder):
        case "softmax":
            return partial(_bilm, encoder, _vocabulary(encoder) if vocabulary is None else vocabulary, counts)
        case "masked_lm":
            return partial(_masked, encoder, model)
        case "causal_lm":
            return partial(_causal, encoder, model)
    raise InputError(
        "minimal pairs need a language model: an encoder with the head masked_lm, causal_lm (of a causal model) or "
        f"softmax (of a biLM); this {type(model).__name__} has the heads {sorted(encoder.heads)}"
    )


def _bilm(
    encoder: Encoder, vocabulary: Vocabulary, counts: Counter[str], sentences: Iterable[Sequence[str]]
) -> Iterator[_Scores]:
    assert isinstance(encoder.model, BiLM), "the scorer of a biLM"
    for score in sentence_scores(encoder.model, encoder.run_params, vocabulary, sentences):
        counts.update(words=score.tokens - 1, unknown=score.unknown)
        forward, backward = -score.forward, -score.backward
        yield {"forward": forward, "backward": backward, "sum": forward + backward}


def _masked(encoder: Encoder, model: Transformer, sentences: Iterable[Sequence[str]]) -> Iterator[_Scores]:
    head, subwords = encoder.heads["masked_lm"].module, encoder.processor.subwords  # type: ignore[attr-defined]
    for found in pseudo_log_likelihoods(model, encoder.run_params, subwords, sentences, head=head):
        yield found._asdict()


def _causal(encoder: Encoder, model: Transformer, sentences: Iterable[Sequence[str]]) -> Iterator[_Scores]:
    head, subwords = encoder.heads["causal_lm"].module, encoder.processor.subwords  # type: ignore[attr-defined]
    for found in log_probabilities(model, encoder.run_params, subwords, sentences, head=head):
        yield {"log_probability": found}


def _vocabulary(encoder: Encoder) -> Vocabulary:
    """That of the run the biLM was loaded from."""
    folder = encoder.source.paths.get("path")
    if folder is None or not (path := Path(folder) / VOCABULARY).is_file():
        raise InputError(
            "minimal pairs by a biLM need the words of its softmax, and it was not loaded from a run: give "
            'vocabulary=Vocabulary.read("vocabulary.txt")'
        )
    return Vocabulary.read(path)
