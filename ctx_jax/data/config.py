"""Where a run's text comes from and how it becomes batches: frozen dataclasses whose comments are the help."""

import re
from dataclasses import dataclass, replace
from typing import Literal, Self

from ctx_jax.data.sentence_streams import Assignment
from ctx_jax.data.text_files import Errors
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.words import LineRule, Rule

Split = Literal["train", "valid"]


@dataclass(frozen=True)
class TextConfig:
    """The text of a language model's run."""

    train: str = "python-docs"
    """Training text: `python-docs` (the interpreter's own documentation), files or globs separated by commas
    (plain, .gz, .xz or .zst), or `tfds:NAME[/CONFIG][:SPLIT]`."""

    valid: str = ""
    """Validation text, written like `train`, or `python-docs:SPLIT`. Empty: the corpus' own validation split, which
    `tfds:NAME` must have; text files and `tfds:NAME:SPLIT` have none, so that without it there is no evaluation during
    training."""

    rule: Rule = "whitespace"
    """How a sentence becomes words: `whitespace` for text that is already tokenized, `prose` for raw English
    (punctuation is cut off). `python-docs` is always `prose`."""

    sentences: LineRule = "line"
    """`line`: each line is one sentence. `split`: each line is prose, to be split into sentences."""

    cache: str = ""
    """Folder of the indexed text, which several runs may share. Empty: `cache` in the run directory. A text that
    was touched is read again, and what was indexed before stays until it is deleted."""

    errors: Errors = "strict"
    """Bytes that are not UTF-8 and NUL characters: `strict` stops and names file, line and offset; `replace` puts
    U+FFFD in their place and goes on."""

    shuffle: bool = True
    """A new order of the text in every epoch; without it the order of the file."""

    prefetch: int = 2
    """Batches made ready ahead of the one being trained on."""

    languages: tuple[str, ...] = ()
    """Training texts of several languages in place of `train`, each as NAME=TEXT, TEXT written like `train`:
    `de=de.txt.xz fr=a.txt,b.txt`."""

    valid_languages: tuple[str, ...] = ()
    """Validation texts of `languages`, written like these, of all of them or some. The best step is the one with the
    least mean of the languages' losses."""

    exponent: float = 0.7
    """A language with n tokens gets a share of the rows proportional to n ** exponent, and the same of the text that a
    tokenizer is trained on: 1 as the texts are, 0 as much of each (multilingual BERT 0.7, XLM-R 0.3)."""

    def __post_init__(self) -> None:
        check_at_least("data", self, prefetch=1)
        if not 0 <= self.exponent <= 1:
            raise ConfigError("data.exponent", f"must be between 0 and 1, got {self.exponent}")
        texts, valid = self.language_texts(), _named("valid_languages", self.valid_languages)
        if unknown := sorted(valid.keys() - texts.keys()):
            known = ", ".join(texts) or "none"
            raise ConfigError("data.valid_languages", f"has {', '.join(unknown)}, and data.languages {known}")
        if self.languages and (self.train, self.valid) != ("python-docs", ""):
            field = "valid" if self.valid else "train"
            raise ConfigError(
                f"data.{field}",
                "is for one text, and data.languages names several: leave one of them out (of a configuration "
                "that names one text: --data.train python-docs --data.valid '')",
            )

    def language_texts(self) -> dict[str, Self]:
        """The settings of each language's text, as those of a run with this text alone; empty without `languages`."""
        texts, valid = _named("languages", self.languages), _named("valid_languages", self.valid_languages)
        return {
            name: replace(self, train=text, valid=valid.get(name, ""), languages=(), valid_languages=())
            for name, text in texts.items()
        }

    @property
    def word_rule(self) -> Rule:
        """How a sentence becomes words: the embedded corpus is prose whatever `rule` says."""
        return "prose" if self.train == "python-docs" and not self.languages else self.rule


@dataclass(frozen=True)
class BiLMData(TextConfig):
    """The text of a biLM's run, its vocabulary and its batches: rows of sentences that are read on from batch to
    batch."""

    vocabulary: str = ""
    """A vocabulary file as bilm-tf writes it, one word a line, most frequent first; `vocabulary_size` and
    `minimum_count` play no part then. Empty: built from `train`."""

    vocabulary_size: int = 0
    """The most words a built vocabulary may hold, `<S>`, `</S>` and `<UNK>` included. 0: no limit."""

    minimum_count: int = 1
    """A word seen less often than this is `<UNK>` as a target."""

    batch_size: int = 32
    """Rows of a batch (B), over all devices. Each is a stream of sentences of its own."""

    unroll_steps: int = 20
    """Steps of a batch (T): gradients stop at its ends, the LSTM's state goes on into the next batch."""

    directions: Literal["shared", "separate"] = "shared"
    """`shared`: both directions of a batch read the same sentences. `separate`: the original's two shuffles."""

    assignment: Assignment = "rows"
    """`rows`: row b of B reads sentences b, b + B, b + 2 B ... of the order, so that a process reads only its own.
    `shared`: the original's generator, where a row whose sentence ends takes the next one; every process then reads the
    whole corpus."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.languages:
            raise ConfigError(
                "data.languages",
                "is for masked_lm and causal_lm, whose languages share subwords; a biLM has one text: set data.train",
            )
        check_at_least("data", self, vocabulary_size=0, minimum_count=1, batch_size=1, unroll_steps=1)


def check_at_least(section: str, config: object, **bounds: int) -> None:
    """ConfigError for the first field of `config` under its bound."""
    for name, bound in bounds.items():
        if not getattr(config, name) >= bound:
            raise ConfigError(f"{section}.{name}", f"must be at least {bound}, got {getattr(config, name)}")


def _named(field: str, entries: tuple[str, ...]) -> dict[str, str]:
    """{name: text} of NAME=TEXT; ConfigError for another form, a name that occurs twice and the embedded corpus."""
    texts: dict[str, str] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not text or not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"data.{field}", f"needs NAME=TEXT, as in de=de.txt.xz, got {entry!r}")
        if name in texts:
            raise ConfigError(f"data.{field}", f"has {name} twice: name its files once, separated by commas")
        if text.startswith("python-docs"):
            raise ConfigError(
                f"data.{field}", f"takes files and tfds sets, got {entry!r}: set data.train for this text"
            )
        texts[name] = text
    return texts
