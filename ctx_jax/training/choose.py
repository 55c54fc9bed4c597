"""The one place where the type of a run's model decides what is trained, and the run's files are opened for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ctx_jax.checkpoints import huggingface
from ctx_jax.checkpoints.digests import write_atomically
from ctx_jax.checkpoints.run_files import VOCABULARY, saved_vocabulary
from ctx_jax.data.cache import Sentences, load_sentences
from ctx_jax.data.progress import paced
from ctx_jax.data.tokens import Tokens, cache_tokens
from ctx_jax.embedding.load import load
from ctx_jax.embedding.reading import SubwordReader
from ctx_jax.models.bilm import BiLM
from ctx_jax.models.transformer_config import Transformer
from ctx_jax.text import subword_files, subword_training
from ctx_jax.text import subwords as subwords_of
from ctx_jax.text import vocabulary as vocabularies
from ctx_jax.text.subword_config import TokenizerConfig
from ctx_jax.text.subwords import Subwords
from ctx_jax.text.vocabulary import Vocabulary
from ctx_jax.training.bilm import BiLMTask, with_vocabulary
from ctx_jax.training.config import TrainConfig
from ctx_jax.training.devices import is_first_host
from ctx_jax.training.task import Task
from ctx_jax.training.transformer import TransformerTask, adapted, first_sentences, fitted, held_out

TEXTS = "texts.json"


def files_of(model: BiLM | Transformer) -> tuple[str, ...]:
    """The files of a run directory that say what the model's ids stand for."""
    return (VOCABULARY,) if isinstance(model, BiLM) else (subwords_of.FILE, subwords_of.CONFIG)


def open_task(config: TrainConfig, run_dir: Path, say: Callable[[str], None], *, resumed: bool) -> Task:
    """The task of a run, its text read and its vocabulary built, or found in the directory of a resumed run.

    Of several hosts only the first one builds and writes; the others must come after it (`devices.first_host_first`).
    """
    match config.model:
        case BiLM():
            return _open_bilm(config, config.model, run_dir, say, resumed=resumed)
        case Transformer():
            return _open_transformer(config, config.model, run_dir, say, resumed=resumed)
    raise TypeError(f"nothing trains a {type(config.model).__name__}")


def completed(config: TrainConfig, old: TrainConfig) -> BiLM | Transformer:
    """The model of a command line, with what the run it goes on with has found out: the size of its vocabulary, the
    tokenizer's padding, the shape of what it started from."""
    match config.model, old.model:
        case BiLM(vocabulary=0), BiLM():
            return replace(config.model, vocabulary=old.model.vocabulary)
        case Transformer(), Transformer() if config.init and config.init == old.init:
            assert config.sequences is not None, "checked with the config"
            return adapted(config.model, old.model, config.sequences)
        case Transformer(), Transformer():
            size = config.model.vocabulary or old.model.vocabulary
            return replace(config.model, vocabulary=size, pad_id=old.model.pad_id)
    return config.model


def _texts(
    config: TrainConfig, run_dir: Path, say: Callable[[str], None], *, resumed: bool
) -> tuple[Sentences, Sentences | None]:
    run_dir.mkdir(parents=True, exist_ok=True)
    train = load_sentences(config.data, "train", run_dir / "cache", report=say)
    assert train is not None, "every source has a training split"
    valid = load_sentences(config.data, "valid", run_dir / "cache", report=say)
    _same_texts(run_dir / TEXTS, {"train": train, "valid": valid}, resumed=resumed)
    return train, valid


def _open_transformer(
    config: TrainConfig, model: Transformer, run_dir: Path, say: Callable[[str], None], *, resumed: bool
) -> TransformerTask:
    assert config.sequences is not None and config.tokenizer is not None, "checked with the config"
    train, valid = _texts(config, run_dir, say, resumed=resumed)
    imported = None
    given: Subwords | None = None
    if config.init and not resumed:
        encoder = load(config.init)
        if not isinstance(encoder.model, Transformer) or not isinstance(encoder.reader, SubwordReader):
            raise ValueError(f"--init {config.init} holds a {type(encoder.model).__name__}; a Transformer is needed")
        model, imported = adapted(model, encoder.model, config.sequences), encoder.params
        given = encoder.reader.subwords
    # The first host's alone: training one twice need not give the same one.
    if not resumed and is_first_host():
        (given or _subwords(config.tokenizer, train, say, causal=model.causal)).save(run_dir)
        huggingface.keep_architecture(run_dir, huggingface.kept_architecture(config.init) if config.init else None)
    subwords = subword_files.read_folder(run_dir)
    say(f"tokenizer of {len(subwords):,} tokens")
    model = fitted(model, config.sequences, subwords, imported=bool(config.init))

    def cut(text: Sentences) -> Tokens:
        return cache_tokens(text, subwords, config.data.cache or run_dir / "cache", report=say)

    measured = None if valid is None else first_sentences(cut(valid), config.evaluate.sentences)
    if measured is not None:
        try:
            held_out(measured, subwords, model, config.sequences)
        except ValueError as error:  # now, and not when the first evaluation is due
            raise ValueError(
                f"the validation text cannot be measured: {error}. Give a larger --data.valid or --evaluate.sentences"
            ) from error
    return TransformerTask(
        model, config.sequences, config.seed, cut(train), measured, subwords, valid, config.data.shuffle, imported
    )


def _subwords(wanted: TokenizerConfig, train: Sentences, say: Callable[[str], None], *, causal: bool) -> Subwords:
    """The tokenizer of a new run: read from the file it is given, or trained on its text.

    That of a causal run puts nothing around a text, as its training does not: texts come with an end token between.
    """
    if wanted.file:
        given = subword_files.read(wanted.file)
        return given.bare() if causal else given
    return subword_training.train(
        paced(train, "training a tokenizer", "sentences", say, len(train)),
        wanted.kind,
        wanted.size,
        lowercase=wanted.lowercase,
        minimum_count=wanted.minimum_count,
        causal=causal,
    )


def _open_bilm(
    config: TrainConfig, model: BiLM, run_dir: Path, say: Callable[[str], None], *, resumed: bool
) -> BiLMTask:
    train, valid = _texts(config, run_dir, say, resumed=resumed)
    words = _vocabulary(config, saved_vocabulary(run_dir), train, say, resumed=resumed)
    say(f"vocabulary of {len(words):,} words")
    model = with_vocabulary(model, words)
    return BiLMTask(model, config.data, config.seed, train, valid, words, config.evaluate.sentences)


def _vocabulary(
    config: TrainConfig, path: Path, train: Sentences, say: Callable[[str], None], *, resumed: bool
) -> Vocabulary:
    """A resumed run keeps its own; a new one takes the file it is given, or counts words, and keeps a copy."""
    data = config.data
    if not resumed and is_first_host():
        if data.vocabulary:
            words = Vocabulary.read(data.vocabulary)
        else:
            text = paced(train, "counting words", "sentences", say, len(train))
            words = vocabularies.build(text, size=data.vocabulary_size or None, minimum_count=data.minimum_count)
        write_atomically(path, words.text())
    return Vocabulary.read(path)


def _same_texts(path: Path, texts: dict[str, Sentences | None], *, resumed: bool) -> None:
    """Refuse to go on with a text that is not the one the run began with: a position in it would mean nothing.

    The other hosts compare theirs with the first one's.
    """
    found = {split: None if text is None else text.digest for split, text in texts.items()}
    if not resumed and is_first_host():
        write_atomically(path, json.dumps(found) + "\n")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [split for split, digest in found.items() if before[split] != digest]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what this run wrote ({error!r}): begin anew in another --run-dir") from error
    for split in changed:
        raise ValueError(
            f"the {split} text is not the one this run began with: digest {before[split]} then, {found[split]} now. "
            "Give the text as it was, or choose another --run-dir"
        )
