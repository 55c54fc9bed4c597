"""`ctx-jax tokenizer FOLDER [--flags]`: train a subword tokenizer, or convert one, for several runs to use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.commands.flags import naming_flags
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
    """Maximum size of the vocabulary, special tokens included."""

    lowercase: bool = False
    """Convert text to lower case."""

    minimum_count: int = 2
    """How often a pair must occur to become a token (wordpiece, bpe)."""

    causal: bool = False
    """For next-token models: no special tokens around a text; `<|endoftext|>` is the only one in the vocabulary."""

    rule: Rule = "whitespace"
    """How the run will split words: `whitespace` leaves the text as it is, `prose` separates punctuation."""

    errors: Errors = "strict"
    """What to do with bytes that are not UTF-8."""

    convert: str = ""
    """Convert this tokenizer instead of training one: a vocab.txt, a vocab.json with merges.txt beside it, a folder, or
    a SentencePiece .model (special tokens that it lacks get new ids at the end)."""

    layout: Layout = "plain"
    """Ids of a converted .model. `plain`: as in the file. `xlm-r`: as in XLM-R, the file's plus one, with `<s> <pad>
    </s> <unk>` first and `<mask>` last."""


def main(arguments: Sequence[str]) -> int:
    """Train and write the tokenizer the command line asks for; 0 when done."""
    options = tyro.cli(TrainTokenizer, args=list(arguments), prog="ctx-jax tokenizer")
    with naming_flags(TrainTokenizer):
        if options.convert:
            refuse_options(options, TRAINING, "--convert, which trains nothing")
        with atomic_folder(options.folder) as folder:  # an existing folder is refused before the text is read
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
