"""The one place where the type of a run's model decides what is trained, and the run's files are opened for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ctx_jax.checkpoints.digests import write_atomically
from ctx_jax.data.cache import Sentences, load_sentences
from ctx_jax.models.bilm import BiLM
from ctx_jax.text import vocabulary as vocabularies
from ctx_jax.text.vocabulary import Vocabulary
from ctx_jax.training.bilm import BiLMTask, with_vocabulary
from ctx_jax.training.config import TrainConfig
from ctx_jax.training.task import Task, saved_vocabulary

TEXTS = "texts.json"


def open_task(config: TrainConfig, run_dir: Path, say: Callable[[str], None], *, resumed: bool) -> Task:
    """The task of a run, its text read and its vocabulary built, or found in the directory of a resumed run."""
    match config.model:
        case BiLM():
            return _open_bilm(config, run_dir, say, resumed=resumed)
    raise TypeError(f"nothing trains a {type(config.model).__name__}")


def completed(model: BiLM, old: BiLM) -> BiLM:
    """The model of a command line, with what the run it goes on with has found out: the vocabulary's size."""
    match model, old:
        case BiLM(vocabulary=0), BiLM():
            return replace(model, vocabulary=old.vocabulary)
    return model


def _open_bilm(config: TrainConfig, run_dir: Path, say: Callable[[str], None], *, resumed: bool) -> BiLMTask:
    run_dir.mkdir(parents=True, exist_ok=True)
    train = load_sentences(config.data, "train", run_dir / "cache", report=say)
    assert train is not None, "every source has a training split"
    valid = load_sentences(config.data, "valid", run_dir / "cache", report=say)
    _same_texts(run_dir / TEXTS, {"train": train, "valid": valid}, resumed=resumed)
    words = _vocabulary(config, saved_vocabulary(run_dir), train, resumed=resumed)
    say(f"vocabulary of {len(words):,} words")
    model = with_vocabulary(config.model, words)
    return BiLMTask(model, config.data, config.seed, train, valid, words, config.evaluate.sentences)


def _vocabulary(config: TrainConfig, path: Path, train: Sentences, *, resumed: bool) -> Vocabulary:
    """A resumed run keeps its own; a new one takes the file it is given, or counts words, and keeps a copy."""
    if resumed:
        return Vocabulary.read(path)
    data = config.data
    if data.vocabulary:
        words = Vocabulary.read(data.vocabulary)
    else:
        words = vocabularies.build(train, size=data.vocabulary_size or None, minimum_count=data.minimum_count)
    write_atomically(path, "".join(f"{word}\n" for word in words.words))
    return words


def _same_texts(path: Path, texts: dict[str, Sentences | None], *, resumed: bool) -> None:
    """Refuse to go on with a text that is not the one the run began with: a position in it would mean nothing."""
    found = {split: None if text is None else text.digest for split, text in texts.items()}
    if not resumed:
        write_atomically(path, json.dumps(found) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for split, digest in found.items():
        if before[split] != digest:
            raise ValueError(
                f"the {split} text is not the one this run began with: digest {before[split]} then, {digest} now. "
                "Give the text as it was, or choose another --run-dir"
            )
