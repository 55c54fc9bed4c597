"""The one place where the type of a run's model decides what is trained, and the run's files are opened for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax

from ctx_jax.checkpoints.run_files import ORIGIN, TEXTS, VOCABULARY
from ctx_jax.data.cache import Sentences, load_sentences
from ctx_jax.data.tokens import Tokens, cache_tokens
from ctx_jax.embedding.load import load
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer import huggingface
from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.encoders.transformer.inputs import SubwordReader
from ctx_jax.evaluation.masked_lm_eval import first_sentences, held_out
from ctx_jax.io.errors import InputError, InputTypeError, MissingFileError
from ctx_jax.tasks.bilm import BiLMTask, with_vocabulary
from ctx_jax.tasks.masked_lm import TransformerTask, adapt, with_tokenizer
from ctx_jax.tasks.preparing import check_texts, prepare_vocabulary, train_tokenizer
from ctx_jax.tokenizers import subword_files
from ctx_jax.tokenizers import subwords as subwords_of
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.config import TrainConfig
from ctx_jax.training.devices import is_first_host
from ctx_jax.training.task import Params, Task


def files_of(model: BiLM | Transformer, run_dir: Path) -> tuple[str, ...]:
    """The files of a run directory that say what the model's ids stand for, and what it came from."""
    match model:
        case BiLM():
            return (VOCABULARY, TEXTS)
        case Transformer():
            origin = (ORIGIN,) if (run_dir / ORIGIN).is_file() else ()
            return (subwords_of.FILE, subwords_of.CONFIG, TEXTS, *origin)
    raise InputTypeError(f"nothing trains a {type(model).__name__}")


def open_task(config: TrainConfig, run_dir: Path, say: Callable[[str], None], *, resumed: bool) -> Task:
    """The task of a run, its text read and its vocabulary built, or found in the directory of a resumed run.

    Of several hosts only the first one builds and writes; the others must come after it (`devices.first_host_first`).
    """
    match config.model:
        case BiLM():
            return _open_bilm(config, config.model, run_dir, say, resumed=resumed)
        case Transformer():
            return _open_transformer(config, config.model, run_dir, say, resumed=resumed)
    raise InputTypeError(f"nothing trains a {type(config.model).__name__}")


def complete(config: TrainConfig, old: TrainConfig) -> BiLM | Transformer:
    """The model of a command line, with what the run it goes on with has found out: the size of its vocabulary, the
    tokenizer's padding, the shape of what it started from."""
    match config.model, old.model:
        case BiLM(vocabulary=0), BiLM():
            return replace(config.model, vocabulary=old.model.vocabulary)
        case Transformer(), Transformer() if config.init and config.init == old.init:
            assert config.sequences is not None, "checked with the config"
            return adapt(config.model, old.model, config.sequences)
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
    check_texts(run_dir, {"train": train, "valid": valid}, resumed=resumed)
    return train, valid


def _open_transformer(
    config: TrainConfig, model: Transformer, run_dir: Path, say: Callable[[str], None], *, resumed: bool
) -> TransformerTask:
    assert config.sequences is not None and config.tokenizer is not None, "checked with the config"
    # What is given is looked at before the text is read, which may take an hour.
    imported = None
    given: Subwords | None = None
    if config.init and not resumed:
        imported_model, imported, given = _import(config.init)
        model = adapt(model, imported_model, config.sequences)
    elif config.tokenizer.file and not resumed:
        given = _read_tokenizer(config.tokenizer.file, causal=model.causal)
    if given is not None:
        with_tokenizer(model, config.sequences, given, imported=bool(config.init))
    train, valid = _texts(config, run_dir, say, resumed=resumed)
    # The first host's alone: training one twice need not give the same one.
    if not resumed and is_first_host():
        (given or train_tokenizer(config.tokenizer, train, say, causal=model.causal)).save(run_dir)
        huggingface.keep_architecture(run_dir, huggingface.kept_architecture(config.init) if config.init else None)
    subwords = subword_files.read_folder(run_dir)
    say(f"tokenizer of {len(subwords):,} tokens")
    model = with_tokenizer(model, config.sequences, subwords, imported=bool(config.init))

    def cut(text: Sentences) -> Tokens:
        return cache_tokens(text, subwords, config.data.cache or run_dir / "cache", report=say)

    measured = None if valid is None else first_sentences(cut(valid), config.evaluate.sentences)
    if measured is not None and config.evaluate.every:  # now, and not when the first evaluation is due
        with _naming("the validation text (--data.valid, --evaluate.sentences) cannot be measured"):
            held_out(measured, subwords, model, config.sequences)
    return TransformerTask(
        model, config.sequences, config.seed, cut(train), measured, subwords, valid, config.data.shuffle, imported
    )


def _import(folder: str) -> tuple[Transformer, Params, Subwords]:
    with _naming(f"--init {folder}"):
        encoder = load(folder)
        if not isinstance(encoder.model, Transformer) or not isinstance(encoder.reader, SubwordReader):
            raise InputError(f"it holds a {type(encoder.model).__name__}; a Transformer is needed")
        # On the host: as long as the run lasts, they would take the room of a second set on a device.
        return encoder.model, jax.device_get(encoder.params), encoder.reader.subwords


def _read_tokenizer(file: str, *, causal: bool) -> Subwords:
    """A causal run puts nothing around a text, as its training does not: texts come with an end token between."""
    with _naming(f"--tokenizer.file {file}"):
        given = subword_files.read(file)
        return given.without_special_tokens() if causal else given


@contextmanager
def _naming(flag: str) -> Iterator[None]:
    """Errors about what a flag gave, with the flag (or what was done with it) in front."""
    try:
        yield
    except FileNotFoundError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else error
        raise MissingFileError(f"{flag}: {reason}") from error
    except ValueError as error:
        raise InputError(f"{flag}: {error}") from error


def _open_bilm(
    config: TrainConfig, model: BiLM, run_dir: Path, say: Callable[[str], None], *, resumed: bool
) -> BiLMTask:
    train, valid = _texts(config, run_dir, say, resumed=resumed)
    words = prepare_vocabulary(config, run_dir, train, say, resumed=resumed)
    say(f"vocabulary of {len(words):,} words")
    model = with_vocabulary(model, words)
    return BiLMTask(model, config.data, config.seed, train, valid, words, config.evaluate.sentences)
