"""The readers that `mutations.py` damages files for: a new one is one more entry of `CASES`."""

import csv
import gzip
import json
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import evaluation_sets
import jax
import numpy as np
import sentence_folders
from mutations import Case
from test_allennlp import TINY, arrays_of
from tiny_transformers import BERT_ENTRIES, MODERN, random_params, split_tensors

import ctx_jax
from ctx_jax.data.columns import Columns
from ctx_jax.data.context_pairs import read_wic
from ctx_jax.data.labelled import read_sentences, read_texts
from ctx_jax.data.labelled_pairs import read_text_pairs
from ctx_jax.data.pair_sets import read_blimp, read_similarity
from ctx_jax.data.sense_files import read_coarse_wsd, read_framework, read_semcor
from ctx_jax.data.text_files import Reading, list_files, read_lines
from ctx_jax.encoders.elmo import allennlp, allennlp_files
from ctx_jax.encoders.stack.files import PROJECTIONS, STACK
from ctx_jax.encoders.static import write_binary, write_text
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.config import model_from_config
from ctx_jax.io.errors import CtxJaxError, InputError

_SIZES = {key: BERT_ENTRIES[key] for key in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")}
_SIZES |= {"num_hidden_layers": 1, "max_position_embeddings": 16}
_GROUPED = {**_SIZES, "num_key_value_heads": 1, "head_dim": 4, "rope_theta": 1e4}
ENTRIES: dict[str, dict[str, Any]] = {
    "t5": {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
           "relative_attention_num_buckets": 8, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.1},
    "deberta-v2": {**BERT_ENTRIES, "num_hidden_layers": 1, "relative_attention": True, "position_buckets": 4,
                   "pos_att_type": "c2p|p2c", "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    "qwen3": {**_GROUPED, "hidden_act": "silu"},
    "gemma3_text": {**_GROUPED, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 4,
                    "sliding_window": 4, "layer_types": ["sliding_attention"], "rope_local_base_freq": 1e4},
    "gte": {**BERT_ENTRIES, "num_hidden_layers": 1, "rope_theta": 1e4, "rope_scaling": {"type": "ntk", "factor": 2.0}},
}  # fmt: skip
"""Of a config.json, by architecture."""


def _make_huggingface(folder: Path) -> None:
    model = model_from_config(BERT_ENTRIES)
    params, heads = random_params(model)
    _write_into(folder, lambda new: huggingface.write(new, model, params, heads=heads))


def _make_modernbert(folder: Path) -> None:
    model = replace(MODERN, feed_forward_dropout=0.0)
    _write_into(folder, lambda new: huggingface.write(new, model, model.init(jax.random.key(0))))


def _make_architecture(architecture: str, folder: Path) -> None:
    """With a tiny model of one layer."""
    model = model_from_config({**ENTRIES[architecture], "model_type": architecture})
    params = model.init(jax.random.key(0))
    _write_into(folder, lambda new: huggingface.write(new, model, params, architecture=architecture))


def _make_shards(folder: Path) -> None:
    _make_huggingface(folder)
    split_tensors(folder)


def _make_allennlp(folder: Path) -> None:
    params = allennlp.params_from_arrays(TINY, arrays_of(TINY))
    _write_into(folder, lambda new: allennlp_files.write(new, TINY, params))


def _make_sentence_folder(folder: Path) -> None:
    """With every file that a module may have; its Transformer in a folder of its own, as in old ones."""
    dense = {"in_features": 2 * sentence_folders.BERT.dim, "out_features": 3, "bias": True, "use_residual": True}
    dense |= {"activation_function": "torch.nn.modules.activation.GELU"}
    with tempfile.TemporaryDirectory() as place:
        written = sentence_folders.write_folder(
            Path(place) / "new",
            pooling={"word_embedding_dimension": sentence_folders.BERT.dim, "pooling_mode": ["cls", "mean"]},
            after=[dense, None],
            body="0_Transformer",
            settings={"prompts": {"query": "query : "}, "default_prompt_name": "query", "truncate_dim": 2},
            body_settings={"max_seq_length": 9, "do_lower_case": True, "model_args": {}},
        )
        shutil.copytree(written, folder, dirs_exist_ok=True)


def _encode(folder: Path) -> list[np.ndarray]:
    """Damage may first show where a text is encoded."""
    encoder = ctx_jax.load(folder)
    try:
        list(encoder.encode(sentence_folders.TEXTS[:4], level="sentence"))
    except CtxJaxError as error:
        raise InputError(f"{folder}: {error}") from error
    return [np.asarray(leaf) for leaf in jax.tree.leaves({name: head.params for name, head in encoder.heads.items()})]


def _write_into(folder: Path, write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "new")
        for path in (Path(place) / "new").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())


def _parameters(found: Any) -> list[np.ndarray]:
    """Of a loaded encoder, its heads included."""
    trees = [found.params, {name: head.params for name, head in found.heads.items()}]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trees)]


def _make_tables(folder: Path) -> None:
    """A table of each kind: GloVe's text, word2vec's text and binary, and packed ones."""
    random = np.random.default_rng(0)
    words = ("the", "cat", "été", "東京", "New York", "a", *(f"w{number}" for number in range(40)))
    vectors = random.normal(size=(len(words), 6)).astype(np.float32)
    write_text(folder / "glove.txt", words, vectors, header=False)
    write_text(folder / "table.vec", words, vectors)
    write_binary(folder / "table.bin", [word.replace(" ", "_") for word in words], vectors)
    text = (folder / "glove.txt").read_bytes()
    (folder / "glove.gz").write_bytes(gzip.compress(text, mtime=0))
    (folder / "glove.xz").write_bytes(lzma.compress(text))
    with zipfile.ZipFile(folder / "glove.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("glove.txt"), text)


def _table(name: str) -> Case:
    return Case(f"table-{name}", name, _make_tables, lambda folder: ctx_jax.load(folder / name), _parameters)


def _make_mixes(folder: Path) -> None:
    mixing = {"weights": np.float32([0.5, -1.25, 3.0]), "gamma": np.float32(1.5)}
    for name in ("mix.json", "mix.safetensors"):
        ctx_jax.save_mix(folder / name, mixing)


def _mix(name: str) -> Case:
    numbers = None if name.endswith(".json") else lambda mixing: map(np.asarray, mixing.values())
    return Case(name, name, _make_mixes, lambda folder: ctx_jax.load_mix(folder / name), numbers)


def _make_stack(folder: Path) -> None:
    """A stack of two tables in the folder, one of them projected."""
    _make_tables(folder)
    write_text(folder / "narrow.vec", ["a", "b"], np.eye(2, 3, dtype=np.float32))
    members = [ctx_jax.load(folder / name) for name in ("narrow.vec", "table.vec")]
    ctx_jax.save_stack(folder / "stack", ctx_jax.stack(members, how="add"))


def _stack(name: str) -> Case:
    return Case(f"stack-{name}", f"stack/{name}", _make_stack, lambda folder: ctx_jax.load(folder / "stack"))


_ROWS = [('a fine film, "really"', "good"), ("ein schöner Film", "good"), ("東京 は", "bad"), ("a", "bad")] * 4


def _make_texts(folder: Path) -> None:
    """Labelled files of each kind, and plain text."""
    (folder / "texts.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in _ROWS), encoding="utf-8")
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *_ROWS])
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows((text, text[::-1], label) for text, label in _ROWS)
    pairs = "".join(f"{text}\t{text[::-1]}\t{label}\n" for text, label in _ROWS)
    (folder / "pairs.tsv").write_text(pairs, encoding="utf-8")
    (folder / "texts.tsv.gz").write_bytes(gzip.compress((folder / "texts.tsv").read_bytes(), mtime=0))
    objects = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in _ROWS)
    (folder / "texts.jsonl").write_text(objects, encoding="utf-8")
    words = "\n".join("".join(f"{word} {label}\n" for word in text.split()) for text, label in _ROWS)
    (folder / "words.txt").write_text(words, encoding="utf-8")
    lines = [
        "".join(f"{number}\t{word}\t_\tX\t_\t_\t0\t_\t_\t_\n" for number, word in enumerate(text.split(), 1))
        for text, _ in _ROWS
    ]
    (folder / "words.conllu").write_text("# newdoc\n" + "\n".join(lines) + "\n", encoding="utf-8")
    plain = "\n".join(text for text, _ in _ROWS) + "\n"
    (folder / "plain.txt").write_text(plain, encoding="utf-8")
    (folder / "plain.txt.gz").write_bytes(gzip.compress(plain.encode(), mtime=0))
    (folder / "plain.txt.xz").write_bytes(lzma.compress(plain.encode()))


def _labelled(name: str, columns: str) -> Case:
    item = columns.partition(",")[0]
    read, parsed = read_texts if item == "text" else read_sentences, Columns.parse(columns, item)
    return Case(f"labelled-{name}", name, _make_texts, lambda folder: list(read(str(folder / name), parsed)))


def _pairs(name: str) -> Case:
    columns = Columns.parse("first,second,label", "first", "second")
    return Case(
        f"labelled-{name}", name, _make_texts, lambda folder: list(read_text_pairs(str(folder / name), columns))
    )


def _plain(name: str) -> Case:
    how = Reading(rule="prose", sentences="split")

    def load(folder: Path) -> Any:
        files = list_files(str(folder / name))
        return [words for path in files for line in read_lines(path, "strict") for words in how.read(line)]

    return Case(f"text-{name}", name, _make_texts, load)


def _make_sets(folder: Path) -> None:
    """Data sets that encoders are measured with."""
    coarse = evaluation_sets.write_coarse(folder, ["wug"])
    evaluation_sets.write_tar(coarse, folder / "coarse.tar.xz")
    evaluation_sets.write_semcor(folder)
    evaluation_sets.write_framework(folder)
    evaluation_sets.write_wic(folder / "wic.jsonl.xz", [("wug", "a wug .", "wugs .", 1), ("dax", "a dax", "b dax", 0)])
    evaluation_sets.write_release(folder / "WiC")
    evaluation_sets.write_superglue(folder / "val.jsonl")
    evaluation_sets.write_blimp(folder / "blimp", {"a": [("the wug runs .", "the wug run .")] * 3})
    (folder / "pairs.txt").write_text("wug dax 3.5\nwug\tfep\t1\n")


_SETS: dict[str, Callable[[Path], Any]] = {  # file, how its data set is read
    "Coarse/wug/train.data.txt": lambda folder: read_coarse_wsd(folder / "Coarse"),
    "Coarse/wug/classes_map.txt": lambda folder: read_coarse_wsd(folder / "Coarse"),
    "coarse.tar.xz": lambda folder: read_coarse_wsd(folder / "coarse.tar.xz"),
    "semcor3.0/brown1/tagfiles/br-x01": lambda folder: list(read_semcor(folder / "semcor3.0")),
    "senseval2.data.xml.xz": lambda folder: read_framework(folder, "senseval2"),
    "senseval2.gold.key.txt": lambda folder: read_framework(folder, "senseval2"),
    "wic.jsonl.xz": lambda folder: read_wic(folder / "wic.jsonl.xz"),
    "WiC/dev/dev.data.txt": lambda folder: read_wic(folder / "WiC"),
    "val.jsonl": lambda folder: read_wic(folder / "val.jsonl"),
    "blimp/a.jsonl": lambda folder: read_blimp(folder / "blimp"),
    "pairs.txt": lambda folder: read_similarity(folder / "pairs.txt"),
}


CASES = (
    Case("huggingface-config", "config.json", _make_huggingface, huggingface.read),
    Case("huggingface-config-modernbert", "config.json", _make_modernbert, huggingface.read),
    *(
        Case(f"huggingface-config-{name}", "config.json", partial(_make_architecture, name), huggingface.read)
        for name in ENTRIES
    ),
    Case("huggingface-tensors", "model.safetensors", _make_huggingface, huggingface.read, _parameters),
    Case("huggingface-index", "model.safetensors.index.json", _make_shards, huggingface.read),
    Case("huggingface-shard", "b.safetensors", _make_shards, huggingface.read, _parameters),
    Case("sentence-modules", "modules.json", _make_sentence_folder, _encode),
    Case("sentence-settings", "config_sentence_transformers.json", _make_sentence_folder, _encode),
    Case("sentence-transformer", "0_Transformer/sentence_bert_config.json", _make_sentence_folder, _encode),
    Case("sentence-tokenizer", "0_Transformer/tokenizer_config.json", _make_sentence_folder, _encode),
    Case("sentence-pooling", "1_Pooling/config.json", _make_sentence_folder, _encode),
    Case("sentence-dense", "2_Dense/config.json", _make_sentence_folder, _encode),
    Case("sentence-dense-tensors", "2_Dense/model.safetensors", _make_sentence_folder, _encode, list),
    Case("allennlp-options", "options.json", _make_allennlp, ctx_jax.load),
    Case("allennlp-weights", "weights.hdf5", _make_allennlp, ctx_jax.load, _parameters),
    *map(_table, ("glove.txt", "table.vec", "table.bin", "glove.gz", "glove.xz", "glove.zip")),
    *map(_mix, ("mix.json", "mix.safetensors")),
    *map(_stack, (STACK, PROJECTIONS)),
    *(_labelled(name, "text,label") for name in ("texts.tsv", "texts.csv", "texts.jsonl", "texts.tsv.gz")),
    *(_labelled(*kind) for kind in (("words.txt", "form,ner"), ("words.conllu", "form,upos"))),
    *map(_pairs, ("pairs.tsv", "pairs.csv")),
    *map(_plain, ("plain.txt", "plain.txt.gz", "plain.txt.xz")),
    *(Case(f"text-set-{Path(file).name}", file, _make_sets, read) for file, read in _SETS.items()),
)
