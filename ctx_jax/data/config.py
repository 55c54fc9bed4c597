"""Where a run's text comes from and how it becomes batches: frozen dataclasses whose comments are the help."""

from dataclasses import dataclass
from typing import Literal

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
    (plain, .gz or .xz), or `tfds:NAME[/CONFIG][:SPLIT]`."""

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

    def __post_init__(self) -> None:
        check_at_least("data", self, prefetch=1)

    @property
    def word_rule(self) -> Rule:
        """How a sentence becomes words: the embedded corpus is prose whatever `rule` says."""
        return "prose" if self.train == "python-docs" else self.rule


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
        check_at_least("data", self, vocabulary_size=0, minimum_count=1, batch_size=1, unroll_steps=1)


def check_at_least(section: str, config: object, **bounds: int) -> None:
    """ConfigError for the first field of `config` under its bound."""
    for name, bound in bounds.items():
        if not getattr(config, name) >= bound:
            raise ConfigError(f"{section}.{name}", f"must be at least {bound}, got {getattr(config, name)}")
