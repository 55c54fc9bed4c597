"""Models by their name on the Hub, against a stand-in for it: what is fetched, what is cached, errors, uploads."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hub_server import COMMIT, Hub, serving
from label_runs import make_place
from sentence_folders import write_folder
from tiny_transformers import split_tensors

import ctx_jax
from ctx_jax import cli
from ctx_jax.data.config import TextConfig
from ctx_jax.data.labelled import LabelledData
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.heads import Head, Labelling, Pooler, SequenceHead
from ctx_jax.io.errors import InputError, MissingFileError, MissingPackageError
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.tasks.model_card import CardOptions, model_card
from ctx_jax.tasks.pairs import PairsConfig

constants: Any = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


def same(one: Any, two: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_only_what_is_read_is_fetched_and_then_cached(
    hub: Hub, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(place / "bert", folder)
    for name in (
        "pytorch_model.bin",
        "tf_model.h5",
        "model.fp16.safetensors",
        "onnx/model.safetensors",
        "onnx/config.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"heavy")
    (folder / "README.md").write_text("words")
    hub.add("lab/bert", folder)
    encoder = ctx_jax.load("hf://lab/bert@v1")
    same(encoder, ctx_jax.load(place / "bert"))
    assert encoder.source.paths == {"path": "hf://lab/bert@v1"}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {*hub.fetched} == wanted and len(hub.fetched) == len(wanted)
    same(ctx_jax.load(Path("hf://lab/bert")), encoder)  # pathlib makes one slash of two
    same(ctx_jax.load(f"hf://lab/bert@{COMMIT}"), encoder)
    assert len(hub.fetched) == len(wanted)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same(ctx_jax.load("hf://lab/bert"), encoder)
    with pytest.raises(MissingFileError, match="HF_HUB_OFFLINE"):
        ctx_jax.load("hf://lab/other")


def test_all_shards_and_the_modules_of_sentence_transformers_are_fetched(hub: Hub, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(place / "bert", folder)
    split_tensors(folder)
    (folder / "other-00001.safetensors").write_bytes(b"of no index")
    hub.add("lab/sharded", folder)
    same(ctx_jax.load("hf://lab/sharded"), ctx_jax.load(place / "bert"))
    assert {"a.safetensors", "b.safetensors"} <= {*hub.fetched} and "other-00001.safetensors" not in hub.fetched

    dense = {"in_features": 8, "out_features": 5, "activation_function": "torch.nn.modules.activation.Tanh"}
    write_folder(tmp_path / "st", body="0_Transformer", after=(dense, None), settings={"prompts": {"query": "q: "}})
    (tmp_path / "st" / "openvino").mkdir()
    (tmp_path / "st" / "openvino" / "model.safetensors").write_bytes(b"of another program")
    hub.add("lab/st", tmp_path / "st")
    found, own = ctx_jax.load("hf://lab/st"), ctx_jax.load(tmp_path / "st")
    assert found.sentence == own.sentence and found.heads.keys() == own.heads.keys() == {"2_Dense"}
    same(found, own)
    assert not any("openvino" in path for path in hub.fetched)


def test_a_cache_that_another_program_filled_is_not_taken_for_whole(
    hub: Hub, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers fetches a sentence-transformers folder without its modules."""
    library: Any = pytest.importorskip("huggingface_hub")
    write_folder(tmp_path / "st", settings={"prompts": {"query": "q: "}})
    hub.add("lab/st", tmp_path / "st")
    hub.add("lab/bert", place / "bert")
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    for name in ("lab/st", "lab/bert"):
        for file in (*files, *(("special_tokens_map.json", "added_tokens.json") if name == "lab/st" else ())):
            with contextlib.suppress(library.errors.EntryNotFoundError):
                library.hf_hub_download(name, file)
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(MissingFileError, match="does not say whether the model has modules.json"):
            ctx_jax.load("hf://lab/st")
    for file in ("modules.json", "special_tokens_map.json", "added_tokens.json"):  # as sentence-transformers asks
        with contextlib.suppress(library.errors.EntryNotFoundError):
            library.hf_hub_download("lab/bert", file)
    whole = ctx_jax.load("hf://lab/st")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same(ctx_jax.load("hf://lab/bert"), ctx_jax.load(place / "bert"))
    assert ctx_jax.load("hf://lab/st").sentence == whole.sentence is not None


def test_names_in_a_repository_s_files_are_no_patterns(hub: Hub, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(place / "bert", folder)
    split_tensors(folder)
    index = folder / "model.safetensors.index.json"
    entries = json.loads(index.read_text())["weight_map"]
    for name in ("evil.safetensors", "evil.bin", "sub/spiece.model"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"heavy")
    for name, words in (("e*.safetensors", "lacks e"), ("*.bin", "no safetensors"), ("evil.bin", "no safetensors")):
        index.write_text(json.dumps({"weight_map": {**entries, "more": name}}))
        hub.add(f"lab/bert{len(hub.models)}", folder)
        with pytest.raises((InputError, MissingFileError), match=words):
            ctx_jax.load(f"hf://lab/bert{len(hub.models) - 1}")
    write_folder(tmp_path / "st")
    modules = json.loads((tmp_path / "st" / "modules.json").read_text())
    (tmp_path / "st" / "modules.json").write_text(json.dumps([modules[0], {**modules[1], "path": "*"}]))
    hub.add("lab/st", tmp_path / "st")
    with pytest.raises(MissingFileError):
        ctx_jax.load("hf://lab/st")
    assert not any("evil" in path or "sub" in path or "Pooling" in path for path in hub.fetched)


def test_what_cannot_be_fetched_says_what_to_do(
    hub: Hub, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    shutil.copy(place / "bert" / "config.json", tmp_path / "old")
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add("lab/old", tmp_path / "old")
    for path, error, words in (
        ("hf://lab/old", MissingFileError, "lacks model.safetensors: only safetensors are read"),
        ("hf://lab/none", MissingFileError, "no model lab/none, or it is private"),
        ("hf://lab/old@v9", MissingFileError, "no revision v9"),
        ("hf://a/b/c", InputError, "hf://a/b/c is no name"),
        ("hf://", InputError, "hf://organisation/name"),
    ):
        with pytest.raises(error, match=words):
            ctx_jax.load(path)
    hub.refused = True
    with pytest.raises(MissingFileError, match="hf://lab/new"):
        ctx_jax.load("hf://lab/new")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(MissingFileError, match="cannot be reached"):
        ctx_jax.load("hf://lab/new")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'ctx-jax\[hub\]'"):
        ctx_jax.load("hf://lab/new")


def test_commands_tasks_and_stacks_take_the_name(
    hub: Hub, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bert = huggingface.read(place / "bert")
    processor: Any = ctx_jax.load(place / "bert").processor
    head = SequenceHead(("bad", "good"))
    heads = {"pooler": Head(Pooler(), Pooler().init(jax.random.key(0), width=16))}
    heads["classifier"] = Head(head, head.init(jax.random.key(1), width=16))
    settings = {"subwords": processor.subwords, "labelling": Labelling()}
    huggingface.write(tmp_path / "labels", bert.model, bert.params, heads=heads, **settings)
    hub.add("lab/labels", tmp_path / "labels")
    (tmp_path / "texts.txt").write_text("the film was good\n")
    assert cli.main(["info", "hf://lab/labels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == "hf://lab/labels" and not found["problems"] and found["digests"]["encoder"]
    assert found["heads"]["classifier"]["labels"] == ["bad", "good"] and found["labelling"]["target"] == "classes"
    assert cli.main(["info", "hf://lab/none", "--json"]) == 1
    assert "lab/none" in json.loads(capsys.readouterr().out)["problems"][0]
    assert cli.main(["similarity", "hf://lab/labels", "the film", "the plot"]) == 0
    capsys.readouterr()
    assert cli.main(["predict", "hf://lab/labels", str(tmp_path / "texts.txt")]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("bad", "good")
    table = ctx_jax.load(place / "table.vec")
    ctx_jax.save_stack(tmp_path / "stack", ctx_jax.stack([ctx_jax.load("hf://lab/labels"), table]))
    assert ctx_jax.load(tmp_path / "stack").source.members[0].paths["path"] == "hf://lab/labels"


def test_an_export_has_a_card_and_is_uploaded_with_the_user_s_token(
    hub: Hub, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(place / "bert"), str(tmp_path / "out"), "--language", "en", "de", "--license", "mit"]
    assert cli.main([*command, "--push", "no name"]) == 1 and not (tmp_path / "out").exists()
    assert cli.main([*command, "--push", "lab/mine"]) == 1
    said = capsys.readouterr().err
    assert "hf auth login" in said and f"hf upload lab/mine {tmp_path / 'out'}" in said
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "token").write_text("hf_mine")
    assert cli.main([*command, "--push", "lab/mine"]) == 0
    assert f"{hub.url}/lab/mine" in capsys.readouterr().out
    made = hub.created[-1]  # older versions of the library say private, newer ones visibility
    assert made.get("private") is True or made.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_mine"}
    assert {*hub.models["lab/mine"]} == {path.name for path in (tmp_path / "out").iterdir()}
    same(ctx_jax.load("hf://lab/mine"), ctx_jax.load(place / "bert"))
    card = pytest.importorskip("huggingface_hub").ModelCard(hub.models["lab/mine"]["README.md"].decode())
    data = card.data.to_dict()
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "language": ["en", "de"],
        "license": "mit",
    }
    assert 'ctx_jax.load("hf://lab/mine")' in card.text and 'BertModel.from_pretrained("lab/mine")' in card.text


def test_the_card_of_a_run_names_its_task_texts_and_labels(place: Path) -> None:
    data = LabelledData("/home/me/train.tsv, ~/more.tsv,../../me/last.tsv", "dev.tsv,/home/me/other.tsv")
    task: Any = ClassifyConfig(encoder="hf://lab/bert", data=data)
    labelled = replace(
        ctx_jax.load(place / "bert"),
        heads={"classifier": Head(SequenceHead(("bad", "good")), {})},
        labelling=Labelling(),
    )
    named: Any = {"on_hub": False, "class_name": "T5EncoderModel"}
    text = model_card("mine", labelled, "huggingface", task, CardOptions(), **named)
    for words in (
        'pipeline_tag: "text-classification"',
        "`classify`",
        "hf://lab/bert",
        "`train.tsv`, `more.tsv`, `last.tsv`",
        "`dev.tsv`, `other.tsv`",
        "bad, good",
        "3 layers of width 16",
        'tasks.load("mine")',
        "import T5EncoderModel, AutoTokenizer",
    ):
        assert words in text
    assert "me/" not in text
    of_pairs = model_card(
        "mine", labelled, "huggingface", replace(PairsConfig(), encoder="bert"), CardOptions(), **named
    )
    assert "pairs=True" in of_pairs and "pairs=True" not in text, "a cross-encoder answers pairs of texts"
    several: Any = MaskedLMConfig(data=TextConfig(languages=("de=/home/me/de.txt", "fr=fr.txt")))
    text = model_card(
        "mine",
        ctx_jax.load(place / "bert"),
        "huggingface",
        several,
        CardOptions(),
        class_name="BertModel",
        on_hub=False,
    )
    assert "(de): `de.txt`" in text and "(fr): `fr.txt`" in text and "python-docs" not in text
    assert "/home/me" not in text
