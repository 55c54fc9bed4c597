"""`ctx-jax evaluate RUN FILES... [--flags]`: what text costs a trained run."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.checkpoints.run_files import CONFIG, VOCABULARY, existing
from ctx_jax.commands.refusing import refuse
from ctx_jax.data.config import DataConfig, rule_of
from ctx_jax.data.corpora import Several, Source, TextFiles, resolve
from ctx_jax.data.text_files import Errors
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer.inputs import SubwordReader
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.evaluation import reports
from ctx_jax.evaluation.perplexity import ProtocolName
from ctx_jax.io import configs
from ctx_jax.io.errors import ExistingFileError, InputError, InputTypeError, MissingFileError
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.config import TrainConfig


@dataclass(frozen=True)
class Evaluate:
    """What text costs a trained run. A biLM's perplexity counts every token: words, <UNK> and the sentence markers. A
    Transformer is measured on masked tokens, always the same ones (causal: on every token), in the run's sequences; its
    text is indexed among the system's temporary files, for which TMPDIR names another folder."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES...")]
    """Text, read as the run's own was: files or globs (plain, .gz or .xz), or a corpus by name as in --data.valid,
    of which the validation split is taken (`python-docs:test` takes the one that no training ever looked at)."""

    protocol: ProtocolName = "sentence"
    """Of a biLM. `sentence`: each sentence from a zero state. `stream`: one lane in the text's order, state carried
    (WikiText-2). `bilm-tf`: the original's test, which leaves the end of the text out."""

    step: CheckpointStep = "best"
    """Which checkpoint: of the lowest validation loss, the last one, or a step's number."""

    batch: int = 0
    """Of a biLM: sentences at a time, 0 for 64; with protocol bilm-tf its lanes, whose number changes the result, 0 for
    the original's 256."""

    per_sentence: Path | None = None
    """Of a biLM: a new file for the log probabilities of each sentence, one JSON object a line (not with bilm-tf)."""

    pseudo_perplexity: bool = False
    """Of a masked Transformer, besides: each token of each sentence masked in turn, which takes as many readings."""

    errors: Errors | None = None
    """What to do with bytes that are not UTF-8: `strict` or `replace`, the run's own way where it is left out."""


def main(arguments: Sequence[str]) -> int:
    """Print the perplexities the command line asks for; 0 when done."""
    print(evaluate(tyro.cli(Evaluate, args=list(arguments), prog="ctx-jax evaluate")))
    return 0


def evaluate(options: Evaluate) -> str:
    """The table `main` prints. Raises what loading the run and reading the text raise, with what to change."""
    if not options.files:
        raise InputError("evaluate needs the text to measure: ctx-jax evaluate RUN FILES...")
    if options.per_sentence and options.protocol == "bilm-tf":
        raise InputError("--per-sentence needs --protocol sentence or stream: bilm-tf cuts sentences off at its end")
    if options.per_sentence:
        _check_new(options.per_sentence)
    if not (options.run / "checkpoints").is_dir():
        raise MissingFileError(
            f"{options.run} is no run directory: it has no checkpoints/. A Transformer's import is measured once a run "
            "has gone on from it: ctx-jax train ... --init FOLDER. AllenNLP's files hold no vocabulary to measure with"
        )
    config = configs.read(existing(options.run, CONFIG), TrainConfig)
    encoder = load(options.run, step=options.step)
    sources = _sources(config.data, options)
    title = f"{options.run}, step {options.step}"
    match encoder.model:
        case BiLM() as model:
            refuse(options, ("pseudo_perplexity",), f"a biLM, which {options.run} holds")
            found = reports.of_bilm(
                model,
                encoder.params,
                Vocabulary.read(existing(options.run, VOCABULARY)),
                sources,
                protocol=options.protocol,
                batch=options.batch,
                report=_tell,
                per_sentence=options.per_sentence,
            )
            return f"{title}, protocol {options.protocol}\n{found}"
        case Transformer() as model:
            refuse(options, ("protocol", "batch", "per_sentence"), f"a Transformer, which {options.run} holds")
            if model.causal:
                refuse(options, ("pseudo_perplexity",), f"a causal model, which {options.run} holds")
            assert isinstance(encoder.reader, SubwordReader) and config.sequences is not None
            found = reports.of_transformer(
                model,
                encoder.params,
                encoder.reader.subwords,
                config.sequences,
                Several(tuple(sources)),
                pseudo=options.pseudo_perplexity,
                report=_tell,
            )
            return f"{title}\n{found}"
    raise InputTypeError(f"nothing measures a {type(encoder.model).__name__}")


def _sources(data: DataConfig, options: Evaluate) -> list[Source]:
    """The texts, to be split into words by the run's own rule; ValueError where one is named twice."""
    rule = rule_of(data.train, data.rule)
    errors = options.errors or data.errors
    sources = [resolve(spec, "valid", rule=rule, sentences=data.sentences, errors=errors) for spec in options.files]
    read = [each for source in sources for each in (source.files if isinstance(source, TextFiles) else [source.name])]
    if twice := sorted({str(each) for each in read if read.count(each) > 1}):
        raise InputError(f"named twice: {', '.join(twice)}; name each text once")
    return sources


def _check_new(path: Path) -> None:
    if path.exists():
        raise ExistingFileError(f"--per-sentence {path} exists: name a new file, or remove this one")
    if not path.parent.is_dir():
        raise MissingFileError(f"--per-sentence {path}: there is no folder {path.parent}, make it first")


def _tell(line: str) -> None:
    """Progress, which is not part of what the command prints."""
    print(line, file=sys.stderr, flush=True)
