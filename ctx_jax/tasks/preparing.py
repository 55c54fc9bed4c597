"""What a run makes of its text before it begins, or finds in its directory: vocabulary, tokenizer, digests of texts.

Of several hosts only the first one builds and writes; the others must come after it (`devices.first_host_first`).
"""

import json
from collections.abc import Callable
from pathlib import Path

from ctx_jax.checkpoints.run_files import TEXTS, VOCABULARY, existing
from ctx_jax.data.cache import Sentences
from ctx_jax.io.errors import InputError
from ctx_jax.io.files import atomic_write
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers import subword_training
from ctx_jax.tokenizers import vocabulary as vocabularies
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.config import TrainConfig
from ctx_jax.training.devices import is_first_host


def train_tokenizer(wanted: TokenizerConfig, train: Sentences, say: Callable[[str], None], *, causal: bool) -> Subwords:
    """The tokenizer that a new run asks for, of its training text."""
    return subword_training.train(
        Progress("training a tokenizer", "sentences", len(train), say).track(train),
        wanted.kind,
        wanted.size,
        lowercase=wanted.lowercase,
        minimum_count=wanted.minimum_count,
        causal=causal,
    )


def prepare_vocabulary(
    config: TrainConfig, run_dir: Path, train: Sentences, say: Callable[[str], None], *, resumed: bool
) -> Vocabulary:
    """A resumed run keeps its own; a new one takes the file it is given, or counts words, and keeps a copy."""
    data = config.data
    if not resumed and is_first_host():
        if data.vocabulary:
            words = Vocabulary.read(data.vocabulary)
        else:
            text = Progress("counting words", "sentences", len(train), say).track(train)
            words = vocabularies.build(text, size=data.vocabulary_size or None, minimum_count=data.minimum_count)
        atomic_write(run_dir / VOCABULARY, words.text())
    return Vocabulary.read(existing(run_dir, VOCABULARY))


def check_texts(run_dir: Path, texts: dict[str, Sentences | None], *, resumed: bool) -> None:
    """Refuse to go on with a text that is not the one the run began with: a position in it would mean nothing.

    The other hosts compare theirs with the first one's.
    """
    found = {split: None if text is None else text.digest for split, text in texts.items()}
    if not resumed and is_first_host():
        atomic_write(run_dir / TEXTS, json.dumps(found) + "\n")
    path = existing(run_dir, TEXTS)
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [split for split, digest in found.items() if before[split] != digest]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not what this run wrote ({error!r}): begin anew in another --run-dir") from error
    if changed:
        split = changed[0]
        raise InputError(
            f"the {split} text is not the one this run began with: digest {before[split]} then, {found[split]} now. "
            "Give the text as it was, or choose another --run-dir"
        )
