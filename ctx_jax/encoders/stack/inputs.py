"""The input processor of a stack: the same words for every member (see `encoders.base.InputProcessor`).

Letters: B sentences, T words.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ctx_jax.checkpoints.run_files import member_name
from ctx_jax.encoders.base import InputProcessor, Level, WordPieces, sentences_to_words
from ctx_jax.encoders.facts import Described
from ctx_jax.encoders.whole_words import WholeWordInputs
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.words import Rule, split_words, word_offsets


class SplitSentence(NamedTuple):
    """A sentence's words, and how each member's processor splits them."""

    words: list[str]
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class StackInputs:
    """Words to the inputs of every member, each under the member's name: "member_0/token_ids".

    The size of a sentence is the largest that a member counts, in words or tokens, and `longest` the smallest of the
    members' limits: a sentence of at most that size fits every member. With two members of different limits a sentence
    can be refused although each would take it.

    Members split words into pieces of different kinds, so there are no tokens that all have: the level "tokens" is
    refused, unless all members read whole words. With `whole_texts` it is that of the words too, and a text is its
    words.
    """

    processors: tuple[InputProcessor, ...]
    rule: Rule = "whitespace"
    contextual: bool = False
    """Layer 0 holds a layer that depends on a word's context."""
    whole_texts: bool = False
    special_tokens: ClassVar[tuple[int, int]] = (0, 0)

    @property
    def pieces(self) -> WordPieces:
        """That of the first member with pieces."""
        return next((each.pieces for each in self.processors if has_pieces(each)), "mean")

    @property
    def digest(self) -> str:
        """SHA-256 of the members' digests and the settings."""
        settings = (self.rule, str(self.contextual), str(self.whole_texts))
        return hashlib.sha256(" ".join((*settings, *(each.digest for each in self.processors))).encode()).hexdigest()

    @property
    def longest(self) -> int | None:
        """The smallest of the members' limits; None: no member has one."""
        return min((each.longest for each in self.processors if each.longest is not None), default=None)

    @property
    def words_per_row(self) -> int:
        """The members' smallest; 1 if layer 0 depends on context."""
        return 1 if self.contextual else min(each.words_per_row for each in self.processors)

    @property
    def files(self) -> tuple[str, ...]:
        """The members', in a folder for each."""
        return tuple(f"{name}/{file}" for name, each in self._named() for file in each.files)

    def save(self, folder: Path) -> None:
        """Writes the members' files, in a folder for each."""
        for name, each in self._named():
            (folder / name).mkdir(exist_ok=True)
            each.save(folder / name)

    def describe(self) -> dict[str, Any]:
        """The rule, and what each member's processor says of itself."""
        members = {name: each.describe() if isinstance(each, Described) else {} for name, each in self._named()}
        kinds = ", ".join(str(member.get("kind", "another")) for member in members.values())
        return {"kind": f"stack of {kinds}", "rule": self.rule, "longest": self.longest, "members": members}

    def arrays(
        self,
        sentences: Sequence[Sequence[str]],
        *,
        rows: int | None = None,
        length: int | None = None,
        tokens: int | None = None,
    ) -> dict[str, np.ndarray]:
        """The inputs of every member; `tokens` is for those with pieces. Raises as the members."""
        if tokens is not None and not any(map(has_pieces, self.processors)):
            raise InputError(f"tokens={tokens} counts pieces of words, but all members read whole words: leave it out")
        return self._joined(
            each.arrays(sentences, rows=rows, length=length, tokens=tokens if has_pieces(each) else None)
            for each in self.processors
        )

    def token_arrays(
        self, sentences: list[str] | list[list[str]], *, rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """As `arrays`, where all members read whole words; strings are split by `rule`."""
        self._check("tokens")
        return self.arrays(sentences_to_words(sentences, self.rule), rows=rows, length=length)

    def split(self, sentences: list[str] | list[list[str]], level: Level = "words") -> list[SplitSentence]:
        """The words of every sentence, split once by each member; strings are split into words by `rule`. InputError
        for the level "tokens" if a member has pieces, unless the processor is that of whole texts."""
        self._check(level)
        words = sentences_to_words(sentences, self.rule)
        parts = [each.split(words) for each in self.processors]
        return [SplitSentence(own, tuple(part[i] for part in parts)) for i, own in enumerate(words)]

    def sizes(self, sentences: Sequence[SplitSentence]) -> list[int]:
        """The largest size that a member counts, of each sentence."""
        return [max(counts) for counts in zip(*self._sizes(sentences), strict=True)]

    def prepare(self, sentences: Sequence[SplitSentence]) -> None:
        """Lets every member prepare."""
        for i, each in enumerate(self.processors):
            each.prepare([sentence.parts[i] for sentence in sentences])

    def cut(self, sentence: SplitSentence, length: int) -> SplitSentence:
        """The first words, so many that they have at most the size `length` for every member, so that all have the
        same. A first word that is longer than that keeps its first pieces."""
        if self.sizes([sentence])[0] <= length:
            return sentence
        fits, beyond, found = 0, len(sentence.words) + 1, sentence
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            tried = sentence if middle == len(sentence.words) else self.split([sentence.words[:middle]])[0]
            if self.sizes([tried])[0] <= length:
                fits, found = middle, tried
            else:
                beyond = middle
        if fits or not sentence.words:
            return found
        first = self.split([sentence.words[:1]])[0]
        parts = zip(self.processors, first.parts, strict=True)
        return SplitSentence(first.words, tuple(each.cut(part, length) for each, part in parts))

    def pad(self, sentences: Sequence[SplitSentence], rows: int, length: int) -> dict[str, np.ndarray]:
        """The inputs of every member, with B = `rows` and T = `length`."""
        return self._joined(
            each.pad([sentence.parts[i] for sentence in sentences], rows, length)
            for i, each in enumerate(self.processors)
        )

    @property
    def overhead(self) -> int:
        """The largest of the members'."""
        return max(each.overhead for each in self.processors)

    def unit_sizes(self, sentence: SplitSentence) -> np.ndarray:
        """Of each word, the most tokens that a member has for it."""
        sizes = [each.unit_sizes(part) for each, part in zip(self.processors, sentence.parts, strict=True)]
        found: np.ndarray = np.max(sizes, axis=0)
        return found

    def part(self, sentence: SplitSentence, first: int, stop: int) -> SplitSentence:
        """Some of the words."""
        parts = zip(self.processors, sentence.parts, strict=True)
        return SplitSentence(sentence.words[first:stop], tuple(each.part(part, first, stop) for each, part in parts))

    def offsets(self, sentences: list[str] | list[list[str]], level: Level = "words") -> list[np.ndarray]:
        """Where the words stand in each sentence."""
        return [word_offsets(sentence, self.rule) for sentence in sentences]

    def with_pieces(self, pieces: WordPieces) -> "StackInputs":
        """With this choice for every member."""
        return replace(self, processors=tuple(each.with_pieces(pieces) for each in self.processors))

    def of_texts(self, *, empty: bool = True) -> "StackInputs":
        """With `whole_texts`."""
        return replace(self, whole_texts=True)

    def prompt_length(self, prompt: str, length: int | None) -> int:
        """The words of the prompt, at most `length`."""
        words = len(split_words(prompt, self.rule))
        return words if length is None else min(words, length)

    def _named(self) -> Iterator[tuple[str, InputProcessor]]:
        return ((member_name(i), each) for i, each in enumerate(self.processors))

    def _sizes(self, sentences: Sequence[SplitSentence]) -> list[list[int]]:
        return [each.sizes([sentence.parts[i] for sentence in sentences]) for i, each in enumerate(self.processors)]

    def _check(self, level: Level) -> None:
        if level == "tokens" and not self.whole_texts:
            for name, each in self._named():
                if has_pieces(each):
                    raise InputError(
                        f'level="tokens" is not for this stack: the pieces of {name} are not those of the others. Use '
                        'level="words"'
                    )

    def _joined(self, inputs: Iterator[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {f"{member_name(i)}/{name}": array for i, own in enumerate(inputs) for name, array in own.items()}


def has_pieces(processor: InputProcessor) -> bool:
    """Whether a processor splits words into pieces, as far as it shows: one of whole words says so by its class."""
    if isinstance(processor, StackInputs):
        return any(map(has_pieces, processor.processors))
    return not isinstance(processor, WholeWordInputs)
