"""`ctx-jax tokenizer FOLDER [--flags]`: a subword tokenizer from text, or from a file, for runs to share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.data.corpora import resolve
from ctx_jax.data.text_files import Errors
from ctx_jax.io.files import atomic_folder
from ctx_jax.io.progress import Progress
from ctx_jax.tasks.options import refuse_options
from ctx_jax.tokenizers.sentencepiece_files import SUFFIXES as SENTENCEPIECE
from ctx_jax.tokenizers.sentencepiece_files import Layout, read_sentencepiece
from ctx_jax.tokenizers.subword_files import read
from ctx_jax.tokenizers.subword_training import Kind, train
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.words import Rule

TRAINING = ("train", "kind", "size", "lowercase", "minimum_count", "rule", "errors")
"""The fields below that only training reads."""


@dataclass(frozen=True)
class TrainTokenizer:
    """Write tokenizer.json and tokenizer_config.json of a subword tokenizer trained in one pass over a corpus."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A new folder for the files."""

    train: str = "python-docs"
    """The text: `python-docs`, files or globs separated by commas, or `tfds:NAME[/CONFIG][:SPLIT]`."""

    kind: Kind = "bpe"
    """BERT's `wordpiece`, RoBERTa's byte-level `bpe`, or SentencePiece's `unigram`. The same text gives the same `bpe`;
    the other two differ from training to training."""

    size: int = 16_384
    """Tokens of the vocabulary at most, special tokens included."""

    lowercase: bool = False
    """Make no difference between capitals and small letters."""

    minimum_count: int = 2
    """How often a pair must occur to become a token (wordpiece, bpe)."""

    causal: bool = False
    """For next-token models: nothing is put around a text, and `<|endoftext|>` is the only special token."""

    rule: Rule = "whitespace"
    """Words as the run will cut them: `whitespace` leaves the text as it is, `prose` cuts punctuation off."""

    errors: Errors = "strict"
    """What to do with bytes that are not UTF-8."""

    convert: str = ""
    """Instead of training: the tokenizer to write, a vocab.txt, a vocab.json with merges.txt beside it, a folder, or a
    SentencePiece .model, whose lacking special tokens get new ids at the end."""

    layout: Layout = "plain"
    """Of a converted .model: `plain` keeps the file's ids; `xlm-r` gives XLM-R's, which are the file's plus one, with
    `<s> <pad> </s> <unk>` in front and `<mask>` last."""


OPTIONS = TrainTokenizer


def main(arguments: Sequence[str]) -> int:
    """Train and write the tokenizer the command line asks for; 0 when done."""
    options = tyro.cli(TrainTokenizer, args=list(arguments), prog="ctx-jax tokenizer")
    if options.convert:
        refuse_options(options, TRAINING, "--convert, which trains nothing")
    with atomic_folder(options.folder) as folder:  # refused before the text is read
        subwords, origin = _converted(options) if options.convert else _trained(options)
        subwords.save(folder)
    print(f"{origin}, {len(subwords):,} tokens, in {options.folder}")
    return 0


def _converted(options: TrainTokenizer) -> tuple[Subwords, str]:
    path = Path(options.convert)
    sentencepiece = path.suffix in SENTENCEPIECE
    given = read_sentencepiece(path, layout=options.layout, add_missing=True) if sentencepiece else read(path)
    return given.without_special_tokens() if options.causal else given, f"tokenizer read from {path}"


def _trained(options: TrainTokenizer) -> tuple[Subwords, str]:
    source = resolve(options.train, "train", rule=options.rule, errors=options.errors)
    subwords = train(
        Progress(f"reading {source.name}", "sentences", log=print).track(source.documents()),
        options.kind,
        options.size,
        lowercase=options.lowercase,
        minimum_count=options.minimum_count,
        causal=options.causal,
    )
    return subwords, f"{options.kind} tokenizer trained on {source.name}"
