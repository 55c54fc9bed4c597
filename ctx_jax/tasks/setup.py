"""Set-up of language-model tasks: read the texts, check their digests, and build the vocabulary or tokenizer.

Only the first process of a job builds and writes; the others must call these functions after it
(`distributed.processes.first_process_first`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ctx_jax.checkpoints.run_files import TEXTS, VOCABULARY, Origin, existing
from ctx_jax.data.cache import Sentences, load_sentences
from ctx_jax.data.config import BiLMData, TextConfig
from ctx_jax.data.languages import LanguageSentences
from ctx_jax.distributed.processes import is_first_process
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.io.errors import ConfigError, InputError, MissingSettingFileError, listed
from ctx_jax.io.files import atomic_write
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers import subword_files, subword_training
from ctx_jax.tokenizers import vocabulary as vocabularies
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.task import TaskContext
from ctx_jax.typing import Log


@dataclass(frozen=True)
class EvaluateConfig:
    """How often the validation text is measured, and how much of it."""

    every: int = 1000
    """Steps between evaluations, besides one at the end. 0: never."""

    sentences: int = 0
    """How many sentences of the validation text to use; 0: all. Do not change it when resuming: losses of different
    sentences do not compare, and the best checkpoint is chosen by them."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ConfigError(f"evaluate.{name}", f"must be at least 0, got {value}")


def origin_of(encoder: Encoder, path: str, log: Log) -> Origin:
    """What a run keeps of the encoder that it starts from, read from `path`. Modules that read heads (dense layers, a
    mix of layers) are left out, for which a run has no place, and `log` says so."""
    sentence = encoder.sentence
    if sentence is not None and (without := sorted({*sentence.heads, *sentence.unsupported})):
        log(f"{path}: the run keeps none of its sentence modules, since it has no place for {listed(without)}")
        sentence = None
    return Origin(encoder.architecture, sentence)


def check_steps(steps: int) -> None:
    """ConfigError for a run without a number of steps."""
    if steps < 1:
        raise ConfigError("steps", f"must be at least 1, got {steps}: a language model has no number of epochs")


def read_texts(data: TextConfig, context: TaskContext) -> tuple[Sentences, Sentences | None]:
    """The cached training text and validation text (None without one); ConfigError if a resumed run's text changed."""
    context.run_dir.mkdir(parents=True, exist_ok=True)
    train = load_sentences(data, "train", context.run_dir / "cache", log=context.log)
    assert train is not None, "every source has a training split"
    valid = load_sentences(data, "valid", context.run_dir / "cache", log=context.log)
    texts = {"data.train": train, "data.valid": valid}
    check_digests(context, {field: None if text is None else text.digest for field, text in texts.items()})
    return train, valid


def check_digests(context: TaskContext, digests: dict[str, str | None]) -> None:
    """Compare the digests of what settings name, {setting: digest}, with those of the original run: a data position is
    only valid for the same text. In a new run the other processes compare theirs with the first one's."""
    if not context.resumed and is_first_process():
        atomic_write(context.run_dir / TEXTS, json.dumps(digests) + "\n")
    path = existing(context.run_dir, TEXTS)
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [field for field, digest in digests.items() if before[field] != digest]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not what this run wrote ({error!r}): start again in another run_dir") from error
    if changed:
        field = changed[0]
        raise ConfigError(
            field,
            f"is not the one this run was started with: digest {before[field]} then, {digests[field]} now. Restore "
            "it, or choose another run_dir",
        )


def prepare_vocabulary(data: BiLMData, train: Sentences, context: TaskContext) -> Vocabulary:
    """Of a new run, the vocabulary of `data.vocabulary` or of the counted words, copied to the run directory; a resumed
    run reads that copy."""
    if not context.resumed and is_first_process():
        if data.vocabulary:
            words = Vocabulary.read(data.vocabulary)
        else:
            text = Progress("counting words", "sentences", len(train), context.log).track(train)
            words = vocabularies.build(text, size=data.vocabulary_size or None, minimum_count=data.minimum_count)
        atomic_write(context.run_dir / VOCABULARY, words.text())
    words = Vocabulary.read(existing(context.run_dir, VOCABULARY))
    context.log(f"vocabulary of {len(words):,} words")
    return words


def prepare_tokenizer(
    wanted: TokenizerConfig,
    given: Subwords | None,
    train: Sentences | LanguageSentences,
    context: TaskContext,
    *,
    causal: bool,
) -> Subwords:
    """Of a new run, the tokenizer `given` or a trained one, saved to the run directory; a resumed run reads it there.

    Only the first process trains it, since two trainings may give different tokenizers.
    """
    if not context.resumed and is_first_process():
        made = given or subword_training.train(
            Progress("training a tokenizer", "sentences", len(train), context.log).track(train),
            wanted.kind,
            wanted.size,
            lowercase=wanted.lowercase,
            minimum_count=wanted.minimum_count,
            causal=causal,
        )
        made.save(context.run_dir)
    subwords = subword_files.read_folder(context.run_dir)
    context.log(f"tokenizer of {len(subwords):,} tokens")
    return subwords


@contextmanager
def naming_setting(field: str, value: str = "") -> Iterator[None]:
    """Turn FileNotFoundError and ValueError into errors that name the setting `field`."""
    about = f"{value}: " if value else ""
    try:
        yield
    except FileNotFoundError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else error
        raise MissingSettingFileError(field, f"{about}{reason}") from error
    except ValueError as error:
        raise ConfigError(field, f"{about}{error}") from error
