"""Tasks with a frozen encoder and by fine-tuning, by the commands that a user types; several seeds, kept line by line.

    python benchmarks/tasks.py RESULTS --data ../shared/data --encoders minilm=path/to/minilm elmo=runs/elmo \\
        --tasks sst2 cola stsb snli upos ner [--ways fine-tuned] [--limit 2000]

RESULTS is a folder for the runs and `results.jsonl`. A row that is there is not run again, so the script can be stopped
and started; at the end it prints a table. The settings are the defaults of `ctx-jax train`; `task_files.py` says what
trains, chooses the step and is measured, and `task_parity.py` is torch's side. `ner` is a BiLSTM-CRF with a convolution
over characters.
"""

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import task_files
import tyro

import ctx_jax
from ctx_jax import cli
from ctx_jax.commands.train import read
from ctx_jax.tasks.label_network import mix_metrics
from ctx_jax.training.run import run as run_to_its_end

Way = Literal["frozen", "fine-tuned"]


@dataclass(frozen=True)
class Options:
    """What is run."""

    results: tyro.conf.Positional[Path]
    data: Path
    """The folder of the data sets."""
    encoders: tuple[str, ...]
    """NAME=PATH each: a folder of Hugging Face or AllenNLP, or a run."""
    tasks: tuple[str, ...] = tuple(task_files.FLAGS)
    ways: tuple[Way, ...] = ("frozen", "fine-tuned")
    seeds: int = 3
    limit: int = 0
    """Train on so many texts or pairs, evenly spaced, or sentences, chosen by the seed; 0: all."""


def measured(options: Options, task: str, encoder: str, way: Way, seed: int) -> dict[str, Any]:
    """Train one run and measure it: the task's metric, seconds, and the mix."""
    name, _, path = encoder.partition("=")
    metric = task_files.task(task, options.data).metric
    (train, choose, test), columns = task_files.paths(task, options.data, options.results / "files", options.limit)
    run = options.results / f"{task}-{name}-{way}-{options.limit}-{seed}"
    command = [*task_files.FLAGS[task], "--encoder", path, "--evaluate.metric", metric]
    if command[0] == "tag":
        command += ["--data.examples", str(options.limit)]
    command += ["--frozen", "--data.cache", str(options.results / "cache")] if way == "frozen" else []
    command += ["--data.train", train, "--data.valid", choose, "--data.columns", columns]
    command += ["--run-dir", str(run), "--seed", str(seed), "--log.every", "100", "--checkpoint.keep", "1"]
    start = time.perf_counter()
    if not run_to_its_end(read(command)):  # stopped by a signal
        sys.exit("stopped; the same command goes on")
    seconds = time.perf_counter() - start
    with redirect_stdout(StringIO()) as printed:
        assert cli.main(["evaluate", str(run), test, "--json"]) == 0
    score = json.loads(printed.getvalue())[metric]
    return {"score": score, "seconds": seconds, "mix": mix_metrics(ctx_jax.load(run).run_params)}


def main(options: Options) -> None:
    """Run what is missing, and print the table."""
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {tuple(one["row"]): one for one in done}
    print("| task | encoder | way | mean, deviation over seeds | each | mix |")
    for task in options.tasks:
        for encoder in options.encoders:
            for way in options.ways:
                name = encoder.partition("=")[0]
                rows = [(task, name, way, options.limit, seed) for seed in range(options.seeds)]
                for row in rows:
                    if row not in known:
                        known[row] = {"row": row} | measured(options, task, encoder, way, row[-1])
                        with path.open("a") as file:
                            file.write(json.dumps(known[row]) + "\n")
                scores = 100 * np.array([known[row]["score"] for row in rows])
                spread = f" ± {scores.std(ddof=1):.2f}" if len(rows) > 1 else ""
                mix = np.mean([[*known[row]["mix"].values()] for row in rows], axis=0)
                each, weights = (" ".join(f"{value:.2f}" for value in values) for values in (scores, mix))
                print(f"| {task} | {name} | {way} | {scores.mean():.2f}{spread} | {each} | {weights} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
