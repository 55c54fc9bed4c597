"""Senses of all words of a text by the nearest centroid of SemCor (Peters et al. 2018, section 5.3), at every layer.

Letters: L layers, K senses, D width.
"""

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctx_jax.data.sense_files import FRAMEWORK_DATA, SenseSentence, SenseTag, read_framework, read_semcor
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.outputs import LayerChoice
from ctx_jax.evaluation.nearest_senses import nearest
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.sense_scores import framework_scores
from ctx_jax.evaluation.target_vectors import LayerVectors, Targets
from ctx_jax.io.errors import InputError
from ctx_jax.typing import Log

_LOGGER = logging.getLogger("ctx_jax")
TEST_SETS = ("senseval2", "senseval3", "semeval2007")
_MOST_FREQUENT = "most_frequent"
_COUNTS = ("instances", "unseen", "backed_off", "unanswered")

Lemma = tuple[str, str]
"""A lemma and its part of speech."""


@dataclass
class SenseInventory:
    """What SemCor says of the senses of lemmas: how often each occurs, and the mean of its vectors."""

    counts: dict[Lemma, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _sums: dict[str, np.ndarray] = field(default_factory=dict)  # [L, D] of each sense

    def count(self, tag: SenseTag) -> None:
        """Count an occurrence."""
        self.counts[tag.lemma, tag.part_of_speech].update(tag.senses)

    def add(self, tag: SenseTag, vectors: np.ndarray) -> None:
        """Add the vectors [L, D] of an occurrence to each of its senses."""
        for sense in tag.senses:
            if sense in self._sums:
                self._sums[sense] += vectors
            else:
                self._sums[sense] = vectors.copy()

    def senses(self, lemma: Lemma) -> list[str]:
        """The senses of a lemma, the most frequent first; of equals the one that came first. None if it is unseen."""
        return [sense for sense, _ in self.counts[lemma].most_common()] if lemma in self.counts else []

    def most_frequent(self, lemma: str) -> str | None:
        """The most frequent sense of a lemma as any part of speech."""
        together: Counter[str] = Counter()
        for part in ("NOUN", "VERB", "ADJ", "ADV"):
            together += self.counts.get((lemma, part), Counter())
        return together.most_common(1)[0][0] if together else None

    def answer(self, lemma: Lemma, vectors: np.ndarray) -> list[str]:
        """At each layer of an occurrence [L, D], the sense with the nearest mean; `lemma` must be one with senses."""
        senses = self.senses(lemma)
        if len(senses) == 1:
            return senses * len(vectors)
        means = np.stack([self._sums[sense] for sense in senses])  # [K, L, D]; a cosine needs no division
        return [senses[int(nearest(query[None], means[:, i])[0])] for i, query in enumerate(vectors)]


def all_words_wsd(
    encoder: Encoder,
    folder: str | Path,
    *,
    tests: Sequence[str] = TEST_SETS,
    layers: LayerChoice = "all",
    semcor: str | Path | None = None,
    log: Log = _LOGGER.info,
) -> Result:
    """SemCor to the test sets of the framework of Raganato et al. (2017): F1, precision and recall of each and of all.

        result = all_words_wsd(encoder, "wsd")                # semcor3.0.tar.xz, senseval2.data.xml.xz ... lie there
        result.parts["senseval2"].scores["3"]["f1"]           # layer 3

    An occurrence gets the sense of its lemma and part of speech whose mean vector in SemCor is nearest. Where SemCor
    has none, it gets SemCor's most frequent sense of the lemma as any part of speech, and no answer if there is none
    either: the counts say how often ("unseen", "backed_off", "unanswered"). The baseline "most_frequent" answers the
    most frequent sense everywhere.

    `semcor`: the folder or archive of SemCor 3.0, or the framework's `semcor.data.xml`, beside which is
    `semcor.gold.key.txt`; None: the one called `semcor3.0...` in `folder`, or else the framework's. `layers` as in
    `Encoder.encode`, and of several also their plain mean. Memory holds one vector a layer and sense of the tests'
    lemmas. `log` gets the progress.
    """
    if not tests:
        raise InputError(f"tests needs a name, got none: {', '.join(TEST_SETS)}")
    folder = Path(folder)
    sentences = {name: read_framework(folder, name) for name in tests}
    wanted = {(tag.lemma, tag.part_of_speech) for each in sentences.values() for one in each for tag in one.tags}
    read = LayerVectors(encoder, layers, log)
    inventory = _read_inventory(read, _semcor(folder, semcor), wanted)
    own = {name: _answered(read, inventory, each) for name, each in sentences.items()}
    parts = {name: _scored(found) for name, found in own.items()}
    whole = _scored(_together(own))
    return Result(whole.scores, whole.counts, whole.baselines, parts)


def _semcor(folder: Path, source: str | Path | None) -> Iterable[SenseSentence]:
    """SemCor's sentences, of `source` or as `all_words_wsd` finds it in the folder."""
    if source is None:
        known = sorted(folder.glob("semcor3.0*")) or sorted(folder.glob(f"semcor{FRAMEWORK_DATA}*"))
        source = known[0] if known else folder / "semcor3.0"
    name, is_framework, _ = Path(source).name.partition(FRAMEWORK_DATA)
    return read_framework(Path(source).parent, name) if is_framework else read_semcor(source)


def _read_inventory(
    read: LayerVectors, sentences: Iterable[SenseSentence], wanted: Collection[Lemma]
) -> SenseInventory:
    """SemCor's counts of all lemmas, and the vectors of those that are `wanted`."""
    inventory = SenseInventory()
    waiting: deque[list[SenseTag]] = deque()

    def targets() -> Iterator[Targets]:
        for words, tags in sentences:
            for tag in tags:
                inventory.count(tag)
            if own := [tag for tag in tags if (tag.lemma, tag.part_of_speech) in wanted]:
                waiting.append(own)
                yield Targets(words, [(tag.start, tag.stop) for tag in own])

    for vectors in read(targets()):
        for tag, each in zip(waiting.popleft(), vectors, strict=True):
            inventory.add(tag, each)
    return inventory


class _Answered(NamedTuple):
    """Gold senses by instance, answers by layer or baseline and instance, and how many there were of what."""

    gold: dict[str, tuple[str, ...]]
    answers: dict[str, dict[str, list[str]]]
    counts: Counter[str]


def _answered(read: LayerVectors, inventory: SenseInventory, sentences: Sequence[SenseSentence]) -> _Answered:
    """The answers for a test set."""
    found = _Answered({}, {name: {} for name in (*read.names, _MOST_FREQUENT)}, Counter(dict.fromkeys(_COUNTS, 0)))
    tagged = [sentence for sentence in sentences if sentence.tags]
    spans = (Targets(words, [(tag.start, tag.stop) for tag in tags]) for words, tags in tagged)
    for sentence, vectors in zip(tagged, read(spans), strict=True):
        for tag, own in zip(sentence.tags, vectors, strict=True):
            found.gold[tag.identifier] = tag.senses
            found.counts["instances"] += 1
            lemma = (tag.lemma, tag.part_of_speech)
            if senses := inventory.senses(lemma):
                given = [*inventory.answer(lemma, own), senses[0]]
            elif fallback := inventory.most_frequent(tag.lemma):
                found.counts.update(("unseen", "backed_off"))
                given = [fallback] * len(found.answers)
            else:
                found.counts.update(("unseen", "unanswered"))
                continue
            for answers, sense in zip(found.answers.values(), given, strict=True):
                answers[tag.identifier] = [sense]
    return found


def _together(several: Mapping[str, _Answered]) -> _Answered:
    """All test sets as one; instances of two may have the same name."""
    whole = _Answered({}, defaultdict(dict), Counter())
    for name, found in several.items():
        whole.gold.update({f"{name} {instance}": senses for instance, senses in found.gold.items()})
        for layer, answers in found.answers.items():
            whole.answers[layer].update({f"{name} {instance}": given for instance, given in answers.items()})
        whole.counts.update(found.counts)
    return whole


def _scored(found: _Answered) -> Result:
    scores = {name: framework_scores(found.gold, given) for name, given in found.answers.items()}
    baseline = {_MOST_FREQUENT: scores.pop(_MOST_FREQUENT)}
    return Result(scores, {name: found.counts[name] for name in _COUNTS}, baseline)
