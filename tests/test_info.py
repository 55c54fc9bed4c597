"""`ctx-jax info` and `repr`: what they say of a path, compared with the files' own content."""

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest
from mutation_cases import CASES
from mutations import Case, mutated
from safetensors.numpy import load_file, save_file
from test_encoder import TINY, write_run
from tiny_tokenizers import WORDS, put
from tiny_transformers import BERT_ENTRIES, random_params
from toys.bag_of_characters import FAMILY, BagOfCharacters, ByteInputs

import ctx_jax
from ctx_jax import cli
from ctx_jax.checkpoints.run_files import CONFIG
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.inspection import inspect
from ctx_jax.encoders.static import write_binary, write_text
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.config import model_from_config
from ctx_jax.io import configs
from ctx_jax.tasks import TrainConfig

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def make_bert(folder: Path) -> Path:
    """A BERT with all its heads, and one that is not read."""
    entries = {**BERT_ENTRIES, "vocab_size": len(WORDS)}
    model = model_from_config(entries)
    params, heads = random_params(model)
    huggingface.write(folder, model, params, heads={name: heads[name] for name in ("pooler", "next_sentence")})
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"strange.weight": np.ones((2, 3), np.float16)}, folder / "model.safetensors")
    config = {**entries, "use_cache": True, "is_decoder": False, "made_by": "hand"}
    tokenizer = {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}
    names = {"vocab.txt": "".join(f"{word}\n" for word in WORDS), "config.json": config, "modules.json": MODULES}
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": model.width, "pooling_mode_mean_tokens": True}
    return put(folder, names | {"tokenizer_config.json": tokenizer, "1_Pooling/config.json": pooling})


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The status and the object of `ctx-jax info --json`; the plain text is printed too."""
    status = cli.main(["info", str(path), "--json"])
    printed = capsys.readouterr().out
    assert cli.main(["info", str(path)]) == status
    assert printed.count("\n") == 1 and len(capsys.readouterr().out.splitlines()) > 2
    found: dict[str, Any] = json.loads(printed)
    assert found["path"] == str(path) and (status == 1) == bool(found["problems"])
    return status, found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_huggingface_folder_is_described_as_its_files_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bert(tmp_path / "bert")
    status, found = info(folder, capsys)
    assert status == 0
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    assert (found["format"], found["model_type"], found["family"]) == ("huggingface", "bert", "Transformer")
    assert (found["width"], found["layers"]) == (config["hidden_size"], config["num_hidden_layers"] + 1)
    assert found["vocabulary"] == len(WORDS) == found["tokenizer"]["tokens"]
    assert found["tensors"]["count"] == len(tensors)
    assert found["tensors"]["numbers"] == sum(tensor.size for tensor in tensors.values())
    assert found["tensors"]["types"] == {"F32": found["tensors"]["numbers"] - 6, "F16": 6}
    of_heads = sum(tensor.size for name, tensor in tensors.items() if not name.startswith(("bert.e", "strange")))
    assert sum(head["parameters"] for head in found["heads"].values()) == of_heads
    assert found["parameters"] == found["tensors"]["numbers"] - 6 - of_heads
    assert found["left_out"] == ["strange.weight"]
    assert found["modules"] == [module["type"] for module in MODULES]
    assert (found["tokenizer"]["class"], found["tokenizer"]["file"]) == ("BertTokenizer", "vocab.txt")
    special = {entry["token"]: entry["id"] for entry in found["tokenizer"]["special_tokens"].values()}
    assert special == {token: WORDS.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    assert sorted(key for keys in found["keys"].values() for key in keys) == sorted(config)
    assert found["keys"]["unknown"] == ["made_by"] and found["keys"]["harmless"] == ["use_cache"]
    assert found["keys"]["neutral"] == ["is_decoder"]
    files = {path.relative_to(folder).as_posix(): digest(path) for path in folder.rglob("*.*")}
    assert found["digests"] == {"files": files, "encoder": encoder_digest(ctx_jax.load(folder))}


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("tokenizer_config.json", '{"tokenizer_class": "BertJapaneseTokenizer"}', {"tokenizer", "tensors", "keys"}),
        ("tokenizer_config.json", "[]", {"width", "tensors", "keys"}),
        ("model.safetensors", "cut", {"width", "tokenizer", "keys"}),
        ("config.json", "{", {"tensors", "modules"}),
        ("config.json", json.dumps({**BERT_ENTRIES, "model_type": "t5"}), {"tensors", "tokenizer"}),
        ("config.json", json.dumps({**BERT_ENTRIES, "is_decoder": True}), {"tensors", "tokenizer", "keys"}),
        ("modules.json", "{}", {"width", "tensors", "keys"}),
        ("modules.json", "[1", {"width", "tensors", "keys"}),
    ],
)
def test_what_is_refused_is_described_as_far_as_it_goes(
    name: str, content: str, kept: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_bert(tmp_path / "bert")
    (folder / name).write_text(content)
    status, found = info(folder, capsys)
    assert status == 1
    assert found.keys() >= kept and found["format"] == "huggingface"
    assert any(str(folder) in problem for problem in found["problems"])
    assert found["digests"]["files"][name] == digest(folder / name)
    if "Japanese" in content:
        assert found["tokenizer"]["class"] == "BertJapaneseTokenizer"


def test_a_run_is_described_with_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_run(run, TINY, "prose", {10: 2.0, 20: 1.0, 30: 3.0})
    (run / CONFIG).write_text(configs.text(TrainConfig(steps=77)))
    status, found = info(run, capsys)
    assert status == 0
    assert (found["format"], found["family"]) == ("run", "BiLM")
    assert found["task"] == {"type": "BiLMConfig", "steps": 77}
    assert found["checkpoints"] == {"steps": [10, 20, 30], "latest": 30}
    assert found["best"] == {"step": 20, "metrics": {"loss": 1.0}}
    assert found["model"]["filters"] == [[1, 4], [2, 8]]
    assert found["tokenizer"]["rule"] == "prose" and found["heads"]["softmax"]["parameters"] == 5 * 5 + 5
    names = ("config.json", "encoder.json", "vocabulary.txt", *(f"checkpoints/{n}.sha256.json" for n in (10, 20, 30)))
    assert found["digests"]["files"] == {name: digest(run / name) for name in names}

    metrics = run / "checkpoints" / "20" / "metrics" / "metrics"
    metrics.write_text("{}")
    status, found = info(run, capsys)
    assert status == 1 and str(metrics) in found["problems"][0]
    assert found["checkpoints"]["steps"] == [10, 20, 30] and found["width"] == 10 and "best" not in found


def test_a_run_without_a_checkpoint_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", TINY, "prose", {})
    status, found = info(tmp_path / "run", capsys)
    assert status == 1 and found["checkpoints"] == {"steps": [], "latest": None} and found["width"] == 10


def test_an_allennlp_folder_is_described_as_its_files_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(case for case in CASES if case.name == "allennlp-options").make_folder(tmp_path)
    options, sizes = json.loads((tmp_path / "options.json").read_text()), list[int]()
    with h5py.File(tmp_path / "weights.hdf5") as file:
        file.visititems(lambda _, node: sizes.append(node.size) if isinstance(node, h5py.Dataset) else None)
    status, found = info(tmp_path, capsys)
    assert status == 0
    assert (found["format"], found["family"]) == ("allennlp", "BiLM")
    assert found["tensors"]["numbers"] == found["parameters"] == sum(sizes)
    assert found["tensors"]["count"] == len(sizes)
    assert found["width"] == 2 * options["lstm"]["projection_dim"]
    assert found["tokenizer"]["max_characters"] == options["char_cnn"]["max_characters_per_token"]
    assert found["digests"]["files"] == {name: digest(tmp_path / name) for name in ("options.json", "weights.hdf5")}

    (tmp_path / "weights.hdf5").write_bytes(b"no HDF5")
    status, found = info(tmp_path, capsys)
    assert status == 1 and str(tmp_path / "weights.hdf5") in found["problems"][0]
    assert found["width"] == 2 * options["lstm"]["projection_dim"] and "weights.hdf5" in found["digests"]["files"]


@pytest.mark.parametrize("binary", [False, True])
def test_a_table_is_described_and_hashed_once(binary: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, words = tmp_path / "table", ["the", "cat", "sat"]
    (write_binary if binary else write_text)(path, words, np.ones((3, 4), np.float32))
    status, found = info(path, capsys)
    assert status == 0
    assert found["layout"] == {"kind": "binary" if binary else "text", "width": 4, "count": 3}
    assert (found["family"], found["width"], found["vocabulary"], found["layers"]) == ("StaticTable", 4, 3, 1)
    assert found["tokenizer"]["tokens"] == 3 and found["model"]["unknown"] == "zero"
    assert found["digests"] == {"files": {"table": digest(path)}}

    path.write_bytes((793712314).to_bytes(4, "little") + b"\x0c" * 60)
    status, found = info(path, capsys)
    assert status == 1 and str(path) in found["problems"][0] and found["digests"]["files"] == {"table": digest(path)}


@pytest.mark.parametrize("name", ["nothing", "README.md", "empty"])
def test_what_is_no_encoder_is_a_problem(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("A text about nothing.\n")
    (tmp_path / "empty").mkdir()
    status, found = info(tmp_path / name, capsys)
    assert status == 1 and str(tmp_path / name) in found["problems"][0] and "format" not in found


def test_a_family_that_says_nothing_of_itself_is_described_in_general(tmp_path: Path) -> None:
    write_run(tmp_path / "run", TINY, "prose", {1: 1.0})
    found = inspect(tmp_path / "run", families=(FAMILY,))
    assert len(found["problems"]) == 1 and found["checkpoints"]["steps"] == [1], "a model of another family"
    toy = BagOfCharacters()
    encoder = ctx_jax.Encoder(toy, toy.init(jax.random.key(0)), ByteInputs())
    assert "BagOfCharacters" in repr(encoder) and f"{257 * 16 + 16 * 16 + 16:,}" in repr(encoder)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.name.startswith(("labelled", "text"))], ids=lambda case: case.name
)
def test_damaged_files_are_described_or_a_problem(case: Case, tmp_path: Path) -> None:
    case.make_folder(tmp_path)
    data = (tmp_path / case.file).read_bytes()
    for seed in range(10):
        (tmp_path / case.file).write_bytes(mutated(data, case.file, seed))
        found = inspect(tmp_path / case.file if case.name.startswith("table") else tmp_path)
        assert json.dumps(found) and all(str(tmp_path) in problem for problem in found["problems"])


def test_repr_is_three_lines_without_arrays(tmp_path: Path) -> None:
    encoder = ctx_jax.load(make_bert(tmp_path / "bert"))
    lines = repr(encoder).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) < 200
    count = sum(leaf.size for leaf in jax.tree.leaves(encoder.params))
    assert f"{count:,}" in lines[0] and "Transformer" in lines[0]
    assert "[CLS]" in lines[1] and "pooler" in lines[2]
    assert "array" not in repr(encoder) + repr(encoder.heads)
    assert f"{8 * 8 + 8}" in repr(encoder.heads["pooler"]) and "Pooler" in repr(encoder.heads["pooler"])


@pytest.mark.parametrize("name", ["sentence-transformers/all-MiniLM-L6-v2", "bert-base-uncased", "org/model-v1.5"])
def test_a_name_of_the_hub_is_told_from_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"say hf://{name}"):
        ctx_jax.load(name)
    if "/" in name:  # a folder that is there makes it a path
        Path(name).parent.mkdir()
        with pytest.raises(FileNotFoundError, match=name) as error:
            ctx_jax.load(name)
        assert "hf:" not in str(error.value)


@pytest.mark.parametrize("name", ["glove.6B.300d.txt", "runs", "/nowhere/bert-base", "../up/bert-base", "glove-50.txt"])
def test_other_paths_are_taken_for_no_name_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        ctx_jax.load(name)
    assert name in str(error.value) and "hf:" not in str(error.value)
