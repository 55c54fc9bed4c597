"""`ctx-jax embed ENCODER INPUT OUTPUT [--flags]`: the vectors of a text's lines, as a file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ctx_jax.commands.flags import naming_flags
from ctx_jax.data.text_files import Errors
from ctx_jax.embedding.embed_file import embed_file
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.embedding.mix_files import load_mix
from ctx_jax.heads.sentence import PoolingMode
from ctx_jax.io.errors import ConfigError


@dataclass(frozen=True)
class Embed:
    """Write vectors of a text, a sentence a line. Stopped and started again, it goes on where it was: finished parts
    lie in OUTPUT.partial/ until OUTPUT appears whole."""

    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run, a folder of AllenNLP, Hugging Face or `save_stack`, a file of word vectors, or hf://organisation/name."""

    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INPUT")]
    """Text, a sentence a line; plain, .gz, .xz or .zst. `-` is standard input. An empty line is an empty sentence."""

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """A new file. `.hdf5`, `.h5`: as AllenNLP's `elmo` command writes it, a dataset "0", "1", ... a line. `.npz`:
    "vectors" of all lines and the "offsets" of each. `.parquet`: a row a line, "text" and "vectors". Sentence vectors
    are one matrix "vectors" in the first two."""

    level: Literal["words", "tokens", "sentence"] = "words"
    """A vector for each word, each token of the encoder's own (special ones too), or each line."""

    layers: str = ""
    """`all`, `last`, `mix`, or numbers between commas, 0 first: `-1`, `0,6,12`. Default: all for words and tokens, the
    last for sentences, or those that a run was trained with."""

    mix: Path | None = None
    """A mix of the layers: a file of `save_mix` (.json, .safetensors), or a run of `classify`, `tag` or `pairs`."""

    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers in OUTPUT."""

    pieces: Literal["mean", "first", "last", "max"] | None = None
    """Words only: which of its pieces give a word its vector; default: as the folder says."""

    pooling: PoolingMode | None = None
    """Sentences only: default as the folder says, or the mean."""

    normalize: bool | None = None
    """Sentences only: vectors of length 1; default: as the folder says."""

    prompt: str | None = None
    """Sentences only: text in front of each line; default: the folder's."""

    prompt_name: str | None = None
    """Sentences only: one of the folder's prompts."""

    length: int | None = None
    """Sentences only: the longest text in tokens; the rest is cut off."""

    long: Literal["windows", "error", "cut"] | None = None
    """Sentences longer than the model's positions: overlapping windows, an error, or cut. Default: windows for words
    and tokens, cut for sentences."""

    batch_tokens: int | None = None
    """Tokens of a batch; affects speed and memory."""

    step: CheckpointStep = "best"
    """Which checkpoint of a run: `best`, `latest`, or a step number."""

    errors: Errors = "strict"
    """What to do with bytes that are not UTF-8."""

    overwrite: bool = False
    """Replace OUTPUT if it exists, and parts of other text or settings."""


NAMES = ("level", "dtype", "pieces", "pooling", "normalize", "prompt", "prompt_name", "length", "long", "batch_tokens")
"""The fields that `Encoder.encode` takes as they are."""


def main(arguments: Sequence[str]) -> int:
    """Write the file that the command line asks for; 0 when done."""
    options = tyro.cli(Embed, args=list(arguments), prog="ctx-jax embed")
    log = partial(print, file=sys.stderr, flush=True)
    with naming_flags(Embed):
        layers = parse_layers(options.layers)
        mix = None if options.mix is None else load_mix(options.mix)
        if mix is not None and layers is None:
            layers = "mix"
        done = embed_file(
            load(options.encoder, step=options.step),
            options.input,
            options.output,
            layers=layers,
            mix=mix,
            errors=options.errors,
            overwrite=options.overwrite,
            log=log,
            **{name: getattr(options, name) for name in NAMES},
        )
    print(f"{done.sentences:,} sentences written to {options.output}")
    return 0


def parse_layers(text: str) -> str | int | tuple[int, ...] | None:
    """`Encoder.encode`'s layers: "all", "last" or "mix", a number, or several between commas; None for ""."""
    if text in ("", "all", "last", "mix"):
        return text or None
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ConfigError("layers", f"must be all, last, mix, or numbers between commas, got {text!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]
