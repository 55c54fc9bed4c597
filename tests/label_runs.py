"""Small runs of tasks with labels, for several test files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.labelled import LabelledData
from ctx_jax.encoders.static import write_text
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.label_options import LabelEvaluate
from ctx_jax.tasks.tag_head import TagHead
from ctx_jax.tokenizers.subword_training import train as train_tokenizer
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.optimizer import AdamW

GOOD, BAD, OTHER = ("good", "great", "fine"), ("bad", "awful", "poor"), ("film", "plot", "it", "was", "the")
TAGS = {**dict.fromkeys(GOOD, "B-GOOD"), **dict.fromkeys(BAD, "I-BAD")}


CRF = {"head": TagHead("bilstm_crf", hidden=6, char_filters=3, char_dim=4, char_length=8), "scheme": "BIOES"}
"""Settings of a tagger with all that its head may have."""


def sentence(random: np.random.Generator, words: tuple[str, ...]) -> list[str]:
    found = random.choice(OTHER, random.integers(1, 7)).tolist()
    found.insert(int(random.integers(len(found) + 1)), str(random.choice(words)))
    return found


def make_place(folder: Path, depth: int = 2, tokens: int = 40) -> Path:
    """Labelled files, a small BERT of at most `tokens` subwords with random weights, and a table of word vectors."""
    random = np.random.default_rng(0)
    lines: list[str] = []
    for name, count in (("train", 40), ("dev", 16)):
        texts = [
            (sentence(random, words), label) for _ in range(count // 2) for words, label in ((GOOD, "1"), (BAD, "0"))
        ]
        lines += [" ".join(words) for words, _ in texts]
        (folder / f"{name}.tsv").write_text("".join(f"{' '.join(words)}\t{label}\n" for words, label in texts))
        (folder / f"{name}.txt").write_text(
            "\n".join("".join(f"{word} {TAGS.get(word, 'O')}\n" for word in words) for words, _ in texts)
        )
    for name in ("train", "dev"):
        write_pairs(folder, name, [row.split("\t") for row in (folder / f"{name}.tsv").read_text().splitlines()])
    subwords = train_tokenizer([line for line in lines for _ in range(3)], "wordpiece", tokens)
    model = Transformer(len(subwords), dim=16, depth=depth, heads=2, feed_forward=24, max_positions=24)
    huggingface.write(folder / "bert", model, model.init(jax.random.key(0)), subwords=subwords)
    vocabulary = sorted({*GOOD, *BAD, *OTHER})
    write_text(folder / "table.vec", vocabulary, random.normal(size=(len(vocabulary), 8)).astype(np.float32))
    return folder


def write_pairs(folder: Path, name: str, rows: list[list[str]]) -> None:
    """Pairs of texts with a label (whether theirs are equal), a number (how many words they share) or nothing, and
    texts with a number (of their words) or several labels (of their words)."""
    others = [rows[(number + 1 + number // 2 % 2) % len(rows)] for number in range(len(rows))]
    pairs = [(first, second) for (first, _), (second, _) in zip(rows, others, strict=True)]
    labels = [str(int(one == other)) for (_, one), (_, other) in zip(rows, others, strict=True)]
    shared = [len({*first.split()} & {*second.split()}) for first, second in pairs]
    files = {
        "pairs": [(*pair, label) for pair, label in zip(pairs, labels, strict=True)],
        "similar": [(*pair, str(number)) for pair, number in zip(pairs, shared, strict=True)],
        "ranked": pairs,
        "numbers": [(text, str(len(text.split()))) for text, _ in rows],
        "several": [(text, ",".join(sorted({*text.split()} & {"film", "plot", "it"}))) for text, _ in rows],
    }
    for kind, lines in files.items():
        (folder / f"{name}.{kind}.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))


FILES = {
    "classify": ("tsv", "text,label"),
    "tag": ("txt", "form,ner"),
    "pairs": ("pairs.tsv", "first,second,label"),
    "similar": ("similar.tsv", "first,second,label"),
    "ranked": ("ranked.tsv", "first,second"),
    "numbers": ("numbers.tsv", "text,label"),
    "several": ("several.tsv", "text,label"),
}


def config(
    place: Path,
    run_dir: Path,
    kind: type = ClassifyConfig,
    encoder: str = "bert",
    files: str = "",
    **changes: Any,
) -> TrainConfig:
    """A run of 4 steps; `files` names one of `FILES`, by default that of the task."""
    suffix, columns = FILES[files or kind.name]  # type: ignore[attr-defined]
    settings = {
        "encoder": str(place / encoder),
        "data": LabelledData(str(place / f"train.{suffix}"), str(place / f"dev.{suffix}"), columns),
        "batch_size": 8,
        "evaluate": LabelEvaluate(every=2),
        **changes,
    }
    return TrainConfig(
        task=kind(**settings),
        optimizer=AdamW(learning_rate=0.01, schedule="constant", warmup=0, layer_decay=0.9),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=2, keep=9),
        log=LogConfig(every=1),
        run_dir=str(run_dir),
        steps=4,
    )


def arrays(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(step)
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in jax.tree.leaves_with_path(params)}


def lines(run_dir: Path, split: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def with_task(settings: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(settings, task=replace(settings.task, **changes))
