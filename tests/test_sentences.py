"""One vector a text: settings of a call, any family, and what a sentence-transformers folder may not say."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from label_runs import config, make_place
from sentence_folders import BERT, POOLING, PROCESSOR, TEXTS, random_params, write_folder, write_json

import ctx_jax
from ctx_jax.checkpoints.run_files import EncoderFile, Origin
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.commands import export
from ctx_jax.embedding.sentences import pool_texts, sentence_vectors
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.elmo.inputs import CharacterInputs
from ctx_jax.heads import SentenceModules
from ctx_jax.heads.sentence import PoolingMode
from ctx_jax.io import configs
from ctx_jax.io.errors import CtxJaxError, InputError, InputTypeError
from ctx_jax.tasks.setup import origin_of
from ctx_jax.training.task import TaskContext

ELMO = BiLM(filters=((1, 4), (2, 8)), character_dim=4, highways=1, dim=6, projection=5, max_characters=9)
D = BERT.dim


@pytest.fixture(scope="module")
def encoder() -> ctx_jax.Encoder:
    return ctx_jax.Encoder(BERT, random_params(BERT), PROCESSOR)


def only(vectors: Iterator[np.ndarray]) -> np.ndarray:
    (found,) = vectors
    return found


@pytest.mark.slow
def test_the_vector_is_the_mean_of_the_last_layers_tokens(encoder: ctx_jax.Encoder) -> None:
    """In the order of the texts, whatever the batch; a list of words is its text, and what is too long is cut."""
    texts = [" ".join(text.split()[:22]) for text in TEXTS if text]
    inputs = encoder.tokenize(texts, level="tokens", length=BERT.longest)
    layers = jax.jit(ctx_jax.embed, static_argnums=0)(BERT, encoder.params, inputs)
    expected = np.asarray(ctx_jax.pool(layers.values[-1], layers.mask))
    longer = [text + " mats" * 9 if len(text) > 40 else text for text in texts]
    for given in (texts, iter(longer), [text.split() for text in texts]):
        found = list(encoder.encode(given, level="sentence"))
        np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)
        assert found[0].shape == (D,)
        assert found[0].dtype == np.float32


@pytest.mark.slow
def test_layers_and_mixes_are_pooled(encoder: ctx_jax.Encoder) -> None:
    texts = TEXTS[:3]
    every = np.stack(list(encoder.encode(texts, level="sentence", layers="all")))
    assert every.shape == (3, 3, D)
    np.testing.assert_allclose(every[:, -1], np.stack(list(encoder.encode(texts, level="sentence"))), atol=1e-6)
    mixed = np.stack(list(encoder.encode(texts, level="sentence", layers="mix", mix=ctx_jax.init_mix(3))))
    np.testing.assert_allclose(mixed, every.mean(1), atol=1e-5)
    last = only(encoder.encode(["the cat"], layers="last"))
    np.testing.assert_allclose(last, only(encoder.encode(["the cat"]))[-1], atol=1e-6)


@pytest.mark.slow
def test_a_bilm_pools_its_words() -> None:
    encoder = ctx_jax.Encoder(ELMO, jax.jit(ELMO.init)(jax.random.key(0)), CharacterInputs(ELMO.max_characters))
    words = next(encoder.encode(["the cat sat", "", "a"], layers="last")).mean(axis=0)
    found = list(encoder.encode(["the cat sat on a mat", "", "a"], level="sentence", normalize=True, length=3))
    np.testing.assert_allclose(found[0], words / np.linalg.norm(words), atol=1e-6)
    assert not found[1].any()
    with_prompt = list(encoder.encode(["cat sat", "", "a"], level="sentence", prompt="the ", normalize=True))
    np.testing.assert_allclose(with_prompt[0], found[0], atol=1e-6)


def test_what_is_cut_off_is_said_once_a_call(encoder: ctx_jax.Encoder, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["cat", "a cat " * 20, "a cat " * 30]
    with caplog.at_level(logging.WARNING, logger="ctx_jax"):
        list(encoder.encode(texts[:1], level="sentence"))
        assert not caplog.records
        list(encoder.encode(texts, level="sentence"))
        (record,) = caplog.records
        assert "sentence 1 has 42 tokens" in record.getMessage()
        assert str(BERT.longest) in record.getMessage()
        list(encoder.encode(texts, level="sentence", length=3))
    assert len(caplog.records) == 2


def test_settings_that_do_not_fit_are_refused(encoder: ctx_jax.Encoder, tmp_path: Path) -> None:
    for settings, message in (
        ({"level": "text"}, "level"),
        ({"pooling": "mean"}, "pooling"),
        ({"level": "sentence", "pooling": "average"}, "pooling.*average"),
        ({"level": "sentence", "pooling": ()}, "pooling"),
        ({"level": "sentence", "prompt": "a", "prompt_name": "b"}, "prompt_name"),
        ({"level": "sentence", "prompt_name": "query"}, "prompt_name.*query"),
        ({"level": "sentence", "length": 25}, "length.*24"),
        ({"level": "sentence", "length": 0}, "length"),
        ({"level": "sentence", "length": 2}, "length.*2"),
        ({"level": "sentence", "layers": "first"}, "layers"),
    ):
        with pytest.raises(InputError, match=message):
            encoder.encode(["a"], **settings)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="wrap it in a list"):
        encoder.encode("a", level="sentence")
    for bad in ("a \ud83d", ["a", 3]):
        texts: list[Any] = ["cat" if isinstance(bad, str) else ["cat"]] * 24
        texts[20] = bad
        with pytest.raises(CtxJaxError, match="sentence 20 "):
            list(encoder.encode(texts, level="sentence"))
    dense = {"in_features": D, "out_features": 3}
    folder = write_folder(tmp_path / "folder", after=[dense])
    with pytest.raises(InputError, match="dense"):
        ctx_jax.load(folder).encode(["a"], level="sentence", pooling=("cls", "mean"))


@pytest.mark.parametrize("mode", get_args(PoolingMode))
def test_pooling_ignores_padding_and_has_gradients(mode: PoolingMode) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([3, 5, 0])[:, None]
    found = np.asarray(pool_texts(vectors, mask, (mode,)))
    np.testing.assert_allclose(found[0], pool_texts(vectors[:1, :3], mask[:1, :3], (mode,))[0], atol=1e-6)
    assert not found[2].any()
    summed = jax.jit(jax.grad(lambda x: sentence_vectors(x, mask, SentenceModules((mode,)), normalize=True).sum()))
    gradient = summed(vectors)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[~mask].any()


# --- what a folder says -----------------------------------------------------------------------------------------------

DENSE = {"in_features": D, "out_features": 3}
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mode": ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling_mode.*median"),
    "no flag": ("1_Pooling/config.json", {"pooling_mode_cls_token": 1}, "pooling_mode_cls_token"),
    "unknown key of Pooling": ("1_Pooling/config.json", {"pooling_mode_geometric": True}, "geometric"),
    "other width": ("1_Pooling/config.json", {"word_embedding_dimension": D + 1}, "word_embedding_dimension"),
    "activation": ("2_Dense/config.json", {"activation_function": "torch.nn.Mish"}, "activation_function.*Mish"),
    "code of its own": ("2_Dense/config.json", {"activation_function": "mine.Tanh"}, "activation_function.*mine"),
    "dense of tokens": ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
    "another input": ("2_Dense/config.json", {"in_features": D + 1}, "in_features"),
    "unknown key of Dense": ("2_Dense/config.json", {"scale": 2.0}, "scale"),
    "missing tensor": ("2_Dense/config.json", {"out_features": 4}, "model.safetensors.*linear.weight"),
    "length": ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length"),
    "length for special tokens alone": ("sentence_bert_config.json", {"max_seq_length": 2}, "cut to 2"),
    "lower-casing": ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case"),
    "half precision": ("sentence_bert_config.json", {"model_args": {"torch_dtype": "float16"}}, "model_args"),
    "another task": ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
    "chat": ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "modality_config"),
    "query expansion": ("sentence_bert_config.json", {"query_expansion": {"length": 32}}, "query_expansion"),
    "unknown key of Transformer": ("sentence_bert_config.json", {"stride": 4}, "stride"),
    "prompts": ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts"),
    "default prompt": ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "default_prompt_name"),
    "sparse": ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "model_type.*SparseEncoder"),
    "dimensions": ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim"),
    "similarity": ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "similarity_fn_name"),
    "cut at the beginning": ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side"),
    "no length": ("tokenizer_config.json", {"model_max_length": "512"}, "model_max_length"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("whole") / "folder", after=[DENSE, None])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_refused_by_file_and_key(whole: Path, name: str) -> None:
    file, entries, message = REFUSED[name]
    path = whole / file
    before = path.read_text() if path.is_file() else None
    write_json(path, (json.loads(before) if before else {}) | entries)
    try:
        with pytest.raises(InputError, match=message) as error:
            ctx_jax.load(whole)
        assert str(whole) in str(error.value)
    finally:
        path.unlink() if before is None else path.write_text(before)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([TRANSFORMER], "Transformer, Pooling"),
        ([], "Transformer, Pooling"),
        ([TRANSFORMER | {"type": "sentence_transformers.models.BoW"}], "BoW"),
        ([TRANSFORMER | {"type": "modeling_mine.Transformer"}], "modeling_mine"),
        ([TRANSFORMER | {"path": "../other"}], r"path.*\.\./other"),
        ([TRANSFORMER | {"path": "/etc"}], "path.*/etc"),
        ([TRANSFORMER | {"kwargs": ["task"]}], "kwargs.*task"),
        ([TRANSFORMER, TRANSFORMER], "name"),
        ([3], "entry 0"),
        ([TRANSFORMER | {"revision": "main"}], "revision"),
    ],
)
def test_modules_of_other_kinds_are_refused_by_name(whole: Path, modules: list[Any], message: str) -> None:
    before = (whole / "modules.json").read_text()
    write_json(whole / "modules.json", modules)
    try:
        with pytest.raises(InputError, match=rf"(?s)modules\.json.*{message}"):
            ctx_jax.load(whole)
    finally:
        (whole / "modules.json").write_text(before)


@pytest.mark.slow
def test_dense_layers_are_heads(whole: Path) -> None:
    encoder = ctx_jax.load(whole)
    assert encoder.sentence is not None
    assert encoder.sentence.modules == ("2_Dense", "normalize")
    assert encoder.heads["2_Dense"].params["kernel"].shape == (D, 3)
    inputs = encoder.tokenize(TEXTS[:1], level="tokens")
    layers = ctx_jax.embed(encoder.model, encoder.params, inputs)
    found = sentence_vectors(layers.values[-1], layers.mask, encoder.sentence, encoder.heads)
    np.testing.assert_allclose(found[0], only(encoder.encode(TEXTS[:1], level="sentence")), atol=1e-6)
    assert only(encoder.encode(TEXTS[:1], level="sentence", normalize=False)).shape == (3,)


def test_lower_casing_reaches_words_too(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(folder, body="0_Transformer", body_settings={"do_lower_case": True})
    encoder = ctx_jax.load(folder)
    for level in ("words", "tokens"):
        jax.tree.map(
            np.testing.assert_array_equal,
            encoder.tokenize(["THE Cat"], level=level),  # type: ignore[arg-type]
            PROCESSOR.arrays([["the", "cat"]]) if level == "words" else PROCESSOR.token_arrays(["the cat"]),
        )


# --- runs -------------------------------------------------------------------------------------------------------------


def save_run(folder: Path, start: Path, encoder: ctx_jax.Encoder) -> Path:
    """A run that has not trained a step."""
    folder.mkdir()
    origin = origin_of(encoder, str(start), print)
    (folder / "encoder.json").write_text(configs.text(EncoderFile(encoder.model, {}, "whitespace", "mean", *origin)))
    encoder.processor.save(folder)
    with RunCheckpoints(folder / "checkpoints", clean=True) as checkpoints:
        state = {"params": {"encoder": encoder.params, "head": {}}, "step": jnp.int32(1)}
        checkpoints.save(1, state, {"row": np.int64(1)}, {"loss": 1.0})
    return folder


def test_a_run_keeps_the_modules_and_is_exported_with_them(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "query : "}, "default_prompt_name": "query"}
    pooling = POOLING | {"pooling_mode_cls_token": True}
    start = write_folder(
        tmp_path / "start", pooling=pooling, after=[None], settings=settings, body_settings={"max_seq_length": 9},
        body="0_Transformer",
    )  # fmt: skip
    encoder = ctx_jax.load(start)
    run = save_run(tmp_path / "run", start, encoder)
    expected = np.stack(list(encoder.encode(TEXTS, level="sentence")))
    loaded = ctx_jax.load(run)
    assert loaded.sentence == encoder.sentence
    np.testing.assert_allclose(np.stack(list(loaded.encode(TEXTS, level="sentence"))), expected, atol=1e-6)
    assert export.main([str(run), str(tmp_path / "out"), "--format", "sentence-transformers"]) == 0
    exported = ctx_jax.load(tmp_path / "out")
    assert exported.sentence == encoder.sentence
    np.testing.assert_allclose(np.stack(list(exported.encode(TEXTS, level="sentence"))), expected, atol=1e-6)
    assert export.main([str(run), str(tmp_path / "plain")]) == 0
    assert not (tmp_path / "plain" / "modules.json").exists()
    file = run / "encoder.json"
    file.write_text(file.read_text().replace('"cls"', '"median"'))
    with pytest.raises(InputError, match=r"encoder\.json.*median"):
        ctx_jax.load(run)


def test_a_run_keeps_no_modules_with_parameters(whole: Path) -> None:
    said: list[str] = []
    assert origin_of(ctx_jax.load(whole), str(whole), said.append) == Origin("bert", None)
    assert "2_Dense" in said[0]


@pytest.mark.slow
def test_a_task_with_labels_keeps_the_modules(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    (place / "bert" / "1_Pooling").mkdir()
    write_json(place / "bert" / "1_Pooling" / "config.json", {"embedding_dimension": 16, "pooling_mode": "cls"})
    pool_module = TRANSFORMER | {"name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    write_json(place / "bert" / "modules.json", [TRANSFORMER, pool_module])
    run_dir = tmp_path / "run"
    task = config(place, run_dir).task.open(TaskContext(run_dir, 0, 1, False, lambda _: None))
    assert task.origin.architecture == "bert"
    assert task.origin.sentence is not None and task.origin.sentence.pooling == ("cls",)
