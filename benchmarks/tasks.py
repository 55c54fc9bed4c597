"""Classification and tagging with our encoders, by the commands that a user types; several seeds, kept line by line.

    python benchmarks/tasks.py RESULTS --data ../shared/data --minilm minilm --bilm runs/quickstart

RESULTS is a folder for the runs and `results.jsonl`. A row that is there is not run again, so the script can be stopped
and started; at the end it prints the table of `README.md`: mean, least and most over the seeds, and the mix.

`random` is an encoder of the same shape with random weights; `table` are MiniLM's own vectors of single words, written
as a word2vec file; the majority class and the most frequent tag of each word need no training.
"""

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

import ctx_jax
from ctx_jax import cli
from ctx_jax.commands.train import read
from ctx_jax.data.labelled import Columns, read_sentences, read_texts
from ctx_jax.encoders.static import write_text
from ctx_jax.encoders.transformer import huggingface
from ctx_jax.tasks.label_network import mix_metrics
from ctx_jax.training.run import run as run_to_its_end


@dataclass(frozen=True)
class Options:
    """What is run."""

    results: tyro.conf.Positional[Path]
    data: Path
    """A folder with `cls/sst2` and `pos/en_ewt`."""
    minilm: Path
    """The MiniLM's Hugging Face folder."""
    bilm: Path
    """A run of `quickstart`."""
    seeds: int = 3
    only: str = ""
    """Rows whose name begins so."""


class Row(NamedTuple):
    """One row of the table."""

    name: str
    task: str  # sst2 or upos
    encoder: Path
    flags: tuple[str, ...] = ("--frozen",)
    seeds: int = 0  # 0: all


def files(options: Options, task: str) -> tuple[str, str, str]:
    """Training, validation and test file: SST-2 is measured on the set that chose the step, as the bar is."""
    folder, suffix = {"sst2": ("cls/sst2", "tsv"), "upos": ("pos/en_ewt", "conllu")}[task]
    train, dev, test = (str(options.data / folder / f"{name}.{suffix}.xz") for name in ("train", "dev", "test"))
    return train, dev, dev if task == "sst2" else test


def rows(options: Options) -> Iterator[Row]:
    """All rows of the table."""
    encoders = prepared(options)
    minilm, bilm = ctx_jax.load(options.minilm).model, ctx_jax.load(options.bilm).model
    yield Row("sst2 minilm frozen", "sst2", options.minilm)
    yield Row("sst2 random frozen", "sst2", encoders["random"])
    yield Row("sst2 table", "sst2", encoders["table"])
    yield Row("sst2 bilm frozen", "sst2", options.bilm)
    yield Row("upos minilm mix", "upos", options.minilm)
    yield Row("upos table", "upos", encoders["table"])
    yield Row("upos bilm mix", "upos", options.bilm)
    for layer in range(bilm.num_layers):
        yield Row(f"upos bilm layer {layer}", "upos", options.bilm, ("--frozen", "--layers", str(layer)), 1)
    yield Row("upos random bilm mix", "upos", encoders["random_bilm"], seeds=1)
    yield Row("upos random mix", "upos", encoders["random"], seeds=1)
    yield Row("sst2 minilm fine-tuned", "sst2", options.minilm, ())
    for layer in range(minilm.num_layers):
        yield Row(f"upos minilm layer {layer}", "upos", options.minilm, ("--frozen", "--layers", str(layer)), 1)
        yield Row(f"sst2 minilm layer {layer}", "sst2", options.minilm, ("--frozen", "--layers", str(layer)), 1)


def prepared(options: Options) -> dict[str, Path]:
    """The encoders that are made here: of random weights, and a table."""
    places = {name: options.results / name for name in ("random", "random_bilm", "table.vec")}
    encoder = ctx_jax.load(options.minilm)
    if not places["random"].exists():
        params = encoder.model.init(jax.random.key(0))
        huggingface.write(places["random"], encoder.model, params, subwords=encoder.processor.subwords)
    if not places["random_bilm"].exists():
        flags = [
            "--steps",
            "1",
            "--optimizer.learning-rate",
            "0",
            "--evaluate.ngrams",
            "0",
            "--evaluate.neighbours",
            "0",
        ]
        assert cli.main(["train", "quickstart", "--run-dir", str(places["random_bilm"]), *flags]) == 0
    if not places["table.vec"].exists():
        words = {word for sentence in sentences(options) for word in sentence.item}
        words |= {word for text in texts(options) for word in text.item.split()}
        listed = sorted(words)
        write_text(places["table.vec"], listed, encoder.word_vectors(listed))
    return {"random": places["random"], "random_bilm": places["random_bilm"], "table": places["table.vec"]}


def sentences(options: Options, number: int = 0) -> list[Any]:
    """The sentences of one of the UPOS files."""
    return list(read_sentences(files(options, "upos")[number], Columns.parse("form,upos", "form")))


def texts(options: Options, number: int = 0) -> list[Any]:
    """The texts of one of the SST-2 files."""
    return list(read_texts(files(options, "sst2")[number], Columns.parse("text,label", "text")))


def floors(options: Options) -> dict[str, float]:
    """What needs no vectors: the most frequent label, and the most frequent tag of each word."""
    train, test = Counter(text.label for text in texts(options)), texts(options, 2)
    tags: dict[str, Counter] = defaultdict(Counter)
    for sentence in sentences(options):
        for word, tag in zip(sentence.item, sentence.label, strict=True):
            tags[word][tag] += 1
    most = sum(tags.values(), Counter()).most_common(1)[0][0]
    pairs = [pair for one in sentences(options, 2) for pair in zip(one.item, one.label, strict=True)]
    by_word = [(tags[word].most_common(1)[0][0] if word in tags else most) == tag for word, tag in pairs]
    return {
        "sst2 majority": sum(text.label == train.most_common(1)[0][0] for text in test) / len(test),
        "upos majority": sum(tag == most for _, tag in pairs) / len(pairs),
        "upos most frequent tag of the word": sum(by_word) / len(by_word),
    }


def measured(options: Options, row: Row, seed: int) -> dict[str, Any]:
    """Train one run and measure it."""
    train, dev, test = files(options, row.task)
    run = options.results / f"{row.name.replace(' ', '-')}-{seed}"
    command = [{"sst2": "classify", "upos": "tag"}[row.task], "--encoder", str(row.encoder), *row.flags]
    command += ["--data.train", train, "--data.valid", dev, "--data.cache", str(options.results / "cache")]
    command += ["--run-dir", str(run), "--seed", str(seed), "--log.every", "200", "--checkpoint.keep", "1"]
    start = time.perf_counter()
    if not run_to_its_end(read(command)):  # stopped by a signal
        sys.exit("stopped; the same command goes on")
    seconds = time.perf_counter() - start
    with redirect_stdout(StringIO()) as printed:
        assert cli.main(["evaluate", str(run), test, "--json"]) == 0
    encoder = ctx_jax.load(run)
    return json.loads(printed.getvalue()) | {"seconds": seconds, "mix": mix_metrics(encoder.run_params)}


def main(options: Options) -> None:
    """Run what is missing, and print the table."""
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(one["row"], one["seed"]): one for one in done}
    names = []
    for row in rows(options):
        names.append(row.name)
        for seed in range(row.seeds or options.seeds) if row.name.startswith(options.only) else ():
            if (row.name, seed) not in known:
                found = {"row": row.name, "seed": seed} | measured(options, row, seed)
                known[row.name, seed] = found
                with path.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    for name, share in floors(options).items():
        print(f"| {name} | {share:.2%} | | |")
    for name in names:
        own = [one for (row, _), one in known.items() if row == name]
        if own:
            shares = [one["accuracy"] for one in own]
            mixes = np.mean([[*one["mix"].values()] for one in own], axis=0)
            mix = " ".join(f"{value:.2f}" for value in np.atleast_1d(mixes)) if own[0]["mix"] else ""
            spread = f"{min(shares):.2%} to {max(shares):.2%}"
            seconds = np.mean([one["seconds"] for one in own])
            print(f"| {name} | {np.mean(shares):.2%} | {spread} | {seconds:.0f} s | {mix} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
