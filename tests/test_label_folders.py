"""Hugging Face folders with a head of labels, in and out: transformers' logits, its label names, and wrong counts."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from label_runs import config, make_place
from safetensors.numpy import load_file, save_file
from test_huggingface_heads import DEBERTA, DISTIL, ELECTRA, GPT2, MODERN, ROBERTA, SMALL
from tokenizers.processors import TemplateProcessing

import ctx_jax
from ctx_jax import cli, tasks
from ctx_jax.data.labelled import LabelledData
from ctx_jax.encoders.base import Imported
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.heads import Head, Pooler, SequenceHead
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.exporting import export
from ctx_jax.tasks.huggingface_head import first_params
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tag_head import TagHead
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.templates import BERT
from ctx_jax.training.run import run

TEXTS = ["the film was good", "it", "awful plot the film was poor", "unfit film"]
PAIRS = [("the film", "was good"), ("it was awful", "the plot"), ("it", "it")]
NAMES = {0: "bad", 1: "fine, or good", 2: "other"}
QWEN3 = {**SMALL, "num_key_value_heads": 1, "head_dim": 4}
FOLDERS: list[tuple[str, dict[str, Any]]] = [
    ("BertForSequenceClassification", SMALL),
    ("BertForTokenClassification", SMALL),
    ("RobertaForSequenceClassification", ROBERTA),
    ("XLMRobertaForTokenClassification", ROBERTA),
    ("ElectraForSequenceClassification", ELECTRA),
    ("DistilBertForSequenceClassification", {**DISTIL, "problem_type": "multi_label_classification"}),
    ("DistilBertForTokenClassification", DISTIL),
    ("ModernBertForSequenceClassification", {**MODERN, "classifier_pooling": "mean"}),
    ("ModernBertForTokenClassification", MODERN),
    ("GPT2ForSequenceClassification", GPT2),
    ("GPT2ForTokenClassification", GPT2),
    ("XLMRobertaXLForSequenceClassification", ROBERTA),
    ("NomicBertForSequenceClassification", SMALL),
    ("GteForSequenceClassification", SMALL),
    ("AlbertForSequenceClassification", ELECTRA),
    ("DebertaV2ForSequenceClassification", DEBERTA),
    ("Qwen3ForSequenceClassification", QWEN3),
    ("Qwen3ForTokenClassification", QWEN3),
    ("Gemma3TextForSequenceClassification", {**QWEN3, "layer_types": ["full_attention"] * 2}),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def pooled(place: Path) -> str:
    """The small BERT with a pooler."""
    bert = huggingface.read(place / "bert")
    subwords: Any = ctx_jax.load(place / "bert").processor
    pooler = Head(Pooler(), Pooler().init(jax.random.key(3), width=16, scale=0.3))
    huggingface.write(place / "pooled", bert.model, bert.params, heads={"pooler": pooler}, subwords=subwords.subwords)
    return "pooled"


def reference(folder: Path, kind: str = "") -> Any:
    """transformers' model of a folder, every tensor of which it uses, and its tokenizer."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    kind = kind or json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def their_logits(folder: Path, texts: list[Any], **settings: Any) -> Any:
    """Of a batch as transformers pads it, with its encoding."""
    torch = pytest.importorskip("torch")

    model, tokenizer = reference(folder)
    texts = [list(each) for each in texts] if texts and isinstance(texts[0], tuple) else texts
    encoding = tokenizer(texts, padding=True, return_tensors="pt", **settings)
    with torch.no_grad():
        return model(**encoding).logits.numpy(), encoding


def our_logits(predictor: Any, items: list[Any]) -> np.ndarray:
    """Before the softmax, of rows padded together."""
    rows = [row for ((row, _),) in predictor.config.split(predictor.encoder.processor, items, print)]
    length = max(predictor.encoder.processor.sizes(rows)) + 3
    inputs = predictor.encoder.processor.pad(rows, len(rows) + 1, length)
    return np.asarray(predictor.network.logits(predictor.encoder.run_params, inputs))[: len(rows)]


def tags_are_theirs(predictor: Any, folder: Path, items: list[list[str]], names: dict[int, str]) -> np.ndarray:
    """Each word's label is that of its first piece in transformers, and so are its logits. Returns their logits."""
    expected, encoding = their_logits(folder, items, is_split_into_words=True)
    assert expected.std() > 2e-4
    first = [[encoding.word_ids(row).index(word) for word in range(len(items[row]))] for row in range(len(items))]
    best = [[names[int(k)] for k in expected[row, own].argmax(-1)] for row, own in enumerate(first)]
    assert [answer["labels"] for answer in predictor.predict(items)] == best
    ours = our_logits(predictor, items)
    for row, own in enumerate(first):
        np.testing.assert_allclose(ours[row, : len(own)], expected[row, own], rtol=0, atol=2e-5)
    return expected


def make_folder(kind: str, settings: dict[str, Any], place: Path, folder: Path, own: Any = None) -> None:
    """A random model of transformers with labels of these names, and its `own` tokenizer or the small BERT's."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    processor: Any = ctx_jax.load(place / "bert").processor
    subwords = own or processor.subwords
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    ids = {"vocab_size": len(subwords), "pad_token_id": subwords.pad_id}
    labels = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
    model = made(made.config_class(**{**settings, **ids, **labels}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    subwords.save(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), FOLDERS)
def test_a_folder_predicts_as_in_transformers_and_is_written_again(
    kind: str, settings: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    make_folder(kind, {**settings, "max_position_embeddings": 40, "n_positions": 40}, place, folder)
    predictor: Any = tasks.load(folder)
    assert predictor.network.labels == tuple(NAMES.values())
    if "Token" in kind:
        items: list[Any] = [text.split() for text in TEXTS]
        expected = tags_are_theirs(predictor, folder, items, NAMES)
    else:
        expected, _ = their_logits(folder, TEXTS)
        np.testing.assert_allclose(our_logits(predictor, TEXTS), expected, rtol=0, atol=2e-5)
        answers = predictor.predict(TEXTS)
        several = settings.get("problem_type") == "multi_label_classification"
        powers = np.exp(expected)
        chances = 1 / (1 + np.exp(-expected)) if several else powers / powers.sum(-1, keepdims=True)
        found = [[answer["probabilities"][name] for name in NAMES.values()] for answer in answers]
        np.testing.assert_allclose(found, chances, atol=1e-5)
        assert all(("labels" in answer) == several for answer in answers)
        items = TEXTS
    export(folder, tmp_path / "again")
    again, settings = their_logits(tmp_path / "again", items, is_split_into_words="Token" in kind)
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-6)
    stored = json.loads((tmp_path / "again" / "config.json").read_text())
    assert stored["architectures"] == [kind] and [*stored["id2label"].values()] == [*NAMES.values()]
    assert stored["label2id"] == {name: number for number, name in NAMES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_padding_token_behind_a_text_is_passed_over_as_in_transformers(
    before: bool, place: Path, tmp_path: Path
) -> None:
    folder, processor = tmp_path / "theirs", ctx_jax.load(place / "bert").processor
    tokenizer = copy.deepcopy(processor.subwords.tokenizer)  # type: ignore[attr-defined]
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[PAD]")]
    around = ["[CLS]", "$A", "[PAD]"] if before else ["$A", "[PAD]"]
    tokenizer.post_processor = TemplateProcessing(around, None, ends)
    subwords = Subwords(tokenizer, replace(BERT, end="[PAD]"))
    make_folder("Qwen3ForSequenceClassification", QWEN3, place, folder, subwords)
    expected, encoding = their_logits(folder, TEXTS, truncation=True, max_length=16)
    assert encoding["input_ids"][0, encoding["attention_mask"][0].sum() - 1] == subwords.pad_id
    settings_file = folder / "tokenizer_config.json"
    stored = json.loads(settings_file.read_text())
    for length in (9, 10**30, "any", 16):  # the second is what transformers writes for any length
        settings_file.write_text(json.dumps(stored | {"model_max_length": length}))
        predictor: Any = tasks.load(folder)
        assert predictor.config.length == (8 if length == 9 else 0), "without the end, which takes one of them"
    np.testing.assert_allclose(our_logits(predictor, TEXTS), expected, rtol=0, atol=2e-5)
    export(folder, tmp_path / "again")
    np.testing.assert_allclose(their_logits(tmp_path / "again", TEXTS, truncation=True)[0], expected, atol=1e-6)
    settings: Any = ClassifyConfig(**{**LAST, "pooling": "last"})
    base = replace(ctx_jax.load(folder), heads={}, labelling=None)
    with pytest.raises(ConfigError, match="pad_token"):
        settings.network(base, ("bad", "good"))
    head = SequenceHead(("bad", "good"), bias=False)
    run = replace(base, heads={"labels": Head(head, head.init(jax.random.key(0), width=8))})
    with pytest.raises(InputError, match="pad_token"):
        settings.exported(run)


LAST: dict[str, Any] = {"layers": "last", "pooling": "first", "head": "huggingface"}


@pytest.mark.slow
def test_a_run_with_the_class_s_head_starts_at_the_pooler_and_is_exported_exactly(
    place: Path, pooled: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run(replace(config(place, folder, encoder=pooled, length=8, **LAST), steps=2))
    own = tasks.load(folder)
    before = huggingface.read(place / pooled).heads["pooler"].params["kernel"]
    after = own.encoder.heads["labels"].params["dense"]["kernel"]
    assert 0 < np.abs(np.asarray(before) - after).max() < 0.05, "two steps of rate 0.01"
    assert cli.main(["export", str(folder), str(tmp_path / "out")]) == 0
    texts = [*TEXTS, "the film was good but the plot was poor and the film was awful"]
    expected, encoding = their_logits(tmp_path / "out", texts, truncation=True)
    assert expected.std() > 0.01 and encoding["input_ids"].shape[1] == 8, "cut where the run cuts, not at its positions"
    back = tasks.load(tmp_path / "out")
    for each in (own, back):
        np.testing.assert_allclose(our_logits(each, texts), expected, rtol=0, atol=2e-5)
    for one, two in zip(own.predict([*texts, ""]), back.predict([*texts, ""]), strict=True):
        assert one["label"] == two["label"] and one["probabilities"] == pytest.approx(two["probabilities"])
    model, _ = reference(tmp_path / "out")
    assert model.config.id2label == {0: "0", 1: "1"}
    assert model.config.problem_type == "single_label_classification"


EXPORTED: list[tuple[str, dict[str, Any], Any, str]] = [
    ("BertModel", SMALL, PairsConfig(style="cross", **LAST), "single_label_classification"),
    ("RobertaModel", ROBERTA, ClassifyConfig(target="number", **LAST), "regression"),
    (
        "ModernBertForMaskedLM",
        MODERN,
        ClassifyConfig(target="several", **{**LAST, "pooling": "mean"}),
        "multi_label_classification",
    ),
    ("GPT2Model", GPT2, ClassifyConfig(**{**LAST, "pooling": "last"}), "single_label_classification"),
    ("DistilBertModel", DISTIL, TagConfig(layers="last", pieces="first"), ""),
    ("Qwen3Model", QWEN3, TagConfig(layers="last", pieces="first"), ""),
    ("ModernBertModel", MODERN, TagConfig(layers="last", pieces="first", head=TagHead("huggingface")), ""),
]


def with_random_heads(settings: Any, encoder: Any, labels: tuple[str, ...]) -> tuple[Any, Any]:
    """The network of a run, and the encoder of one that was never trained."""
    network = settings.network(encoder, labels)
    params = network.init_heads(jax.random.key(1))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    return network, replace(encoder, heads={name: Head(network.heads[name], params[name]) for name in params})


@pytest.mark.parametrize(("kind", "shape", "settings", "problem"), EXPORTED)
def test_heads_of_runs_are_written_for_the_family_s_class(
    kind: str, shape: dict[str, Any], settings: Any, problem: str, place: Path, tmp_path: Path
) -> None:
    make_folder(kind, {**shape, "max_position_embeddings": 40, "n_positions": 40}, place, tmp_path / "base")
    base = ctx_jax.load(tmp_path / "base")
    labels = ("number",) if problem == "regression" else ("bad", "good", "so, so")
    network, encoder = with_random_heads(settings, base, labels)
    if kind == "ModernBertForMaskedLM":
        first = first_params(network, base)
        np.testing.assert_array_equal(first["dense"]["kernel"], base.heads["masked_lm"].params["dense"]["kernel"])
    exported = settings.exported(encoder)
    imported = Imported(**{name: getattr(exported, name) for name in Imported._fields})
    huggingface.write_folder(tmp_path / "out", imported, tmp_path)
    pairs = isinstance(settings, PairsConfig)
    back: Any = tasks.load(tmp_path / "out", pairs=pairs)
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert back.network.labels == labels and stored.get("problem_type", "") == problem
    own = settings.predictor(encoder)
    if isinstance(settings, TagConfig):
        items: list[Any] = [text.split() for text in TEXTS]
        for each in (own, back):
            tags_are_theirs(each, tmp_path / "out", items, dict(enumerate(labels)))
        assert reference(tmp_path / "out")[0].config.id2label == dict(enumerate(labels))
        return
    items = PAIRS if pairs else TEXTS
    expected, _ = their_logits(tmp_path / "out", items)
    assert expected.std() > 2e-4
    for each in (own, back):
        np.testing.assert_allclose(our_logits(each, items), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ClassifyConfig(layers="last", pooling="first"), "head huggingface"),
        (PairsConfig(layers="last"), "style cross"),
        (TagConfig(layers="last"), "pieces first"),
        (TagConfig(pieces="first"), "layers last"),
        (TagConfig(layers="last", pieces="first", head=TagHead("crf")), "head.kind linear"),
    ],
)
def test_what_no_class_computes_is_refused_with_the_settings_that_would(place: Path, settings: Any, words: str) -> None:
    _, encoder = with_random_heads(settings, ctx_jax.load(place / "bert"), ("a", "b"))
    with pytest.raises(InputError, match=words):
        settings.exported(encoder)


def test_labels_of_words_are_refused_where_no_class_is_written(place: Path) -> None:
    settings = TagConfig(layers="last", pieces="first")
    _, encoder = with_random_heads(settings, ctx_jax.load(place / "bert"), ("a", "b"))
    for architecture in ("eurobert", "t5", "gemma3_text"):
        with pytest.raises(InputError, match=r"no class for labels of tokens.*\. Export the encoder alone"):
            settings.exported(replace(encoder, architecture=architecture))


@pytest.mark.parametrize(
    ("field", "kind", "changes"),
    [
        ("layers", ClassifyConfig, {"pooling": "first", "head": "huggingface"}),
        ("pooling", ClassifyConfig, {"layers": "last", "head": "huggingface"}),
        ("head", ClassifyConfig, {**LAST, "encoder": "table.vec"}),
        ("pieces", TagConfig, {"layers": "last", "head": TagHead("huggingface")}),
    ],
)
def test_settings_that_the_class_does_not_have_are_named(
    place: Path, tmp_path: Path, field: str, kind: type, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(config(place, tmp_path / "run", kind, **changes))
    assert caught.value.field == field
    with pytest.raises(ConfigError, match="cross"):
        PairsConfig(head="huggingface", data=LabelledData(columns="first,second,label"))


def test_counts_and_names_that_do_not_fit_are_refused(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make_folder("BertForSequenceClassification", SMALL, place, folder)
    whole, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")

    def refused(words: str, load: Any = ctx_jax.load, **entries: Any) -> None:
        (folder / "config.json").write_text(json.dumps({**whole, **entries}))
        with pytest.raises(InputError, match=words):
            load(folder)

    refused("id2label of config.json counts 2 labels, the tensors of classifier are for 3", id2label={0: "a", 1: "b"})
    refused("num_labels of config.json counts 4 labels.*for 3", num_labels=4)
    refused("id2label .* must name the labels 0 to 2", id2label={"0": "a", "1": "b", "7": "c"})
    refused("id2label .* must be an object", id2label=["a", "b", "c"])
    refused("problem_type .* 'guess'", problem_type="guess")
    refused("several labels", tasks.load, id2label={"0": "a", "1": "a", "2": "c"})
    refused("no run, and no Hugging Face folder with a head", tasks.load, architectures=["BertForMultipleChoice"])
    (folder / "config.json").write_text(json.dumps(whole))
    tensors["classifier.bias"] = tensors["classifier.bias"][:2]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match="classifier.bias"):
        ctx_jax.load(folder)
    with pytest.raises(InputError, match="heads are"):
        tasks.load(place / "bert")
