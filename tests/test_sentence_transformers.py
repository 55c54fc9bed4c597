"""Vectors of whole texts against sentence-transformers itself, on folders that the test writes."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from sentence_folders import BERT, GEMMA, QWEN3, ROBERTA, T5, TEXTS, write_folder

import ctx_jax
from ctx_jax.encoders.transformer.sentence_folders import TYPES
from ctx_jax.encoders.transformer.sentence_modules import ACTIVATIONS
from ctx_jax.heads.sentence import PoolingMode

D = BERT.dim
MODES = get_args(PoolingMode)
LEGACY = {
    mode: f"pooling_mode_{mode}{'' if mode == 'lasttoken' else '_token' if mode == 'cls' else '_tokens'}"
    for mode in MODES
}
LEGACY["mean_sqrt_len_tokens"] = "pooling_mode_mean_sqrt_len_tokens"
PROMPTS = {"prompts": {"query": "query : ", "long": "the cat sat on the mat and "}}


@pytest.fixture(scope="module")
def library() -> Any:
    pytest.importorskip("torch")
    return pytest.importorskip("sentence_transformers")


def modes(*names: str) -> dict[str, Any]:
    return {"word_embedding_dimension": D, **{LEGACY[name]: True for name in names}}


def dense(inputs: int, outputs: int, activation: str | None = None, **others: Any) -> dict[str, Any]:
    named = {} if activation is None else {"activation_function": f"torch.nn.modules.{activation}"}
    return {"in_features": inputs, "out_features": outputs, **named, **others}


FOLDERS: dict[str, dict[str, Any]] = {
    **{mode: {"pooling": modes(mode)} for mode in MODES},
    "all modes": {"pooling": modes(*MODES)},
    "two modes": {"pooling": modes("weightedmean", "cls"), "after": [None]},
    "in an order": {"pooling": {"embedding_dimension": D, "pooling_mode": ["mean", "cls"]}},
    "no mode": {"pooling": {"word_embedding_dimension": D, "pooling_mode_mean_tokens": False}},
    "normalize": {"after": [None]},
    "normalize, old folder": {"after": [None], "body": "0_Transformer"},
    "dense": {"after": [dense(D, 5), None]},
    "dense of two modes": {"pooling": modes("cls", "max"), "after": [dense(2 * D, D, "linear.Identity", bias=False)]},
    "dense, dense": {
        "after": [dense(D, D, "activation.GELU", use_residual=True), None, dense(D, 3, use_residual=True)]
    },
    **{name: {"after": [dense(D, D, f"activation.{name}")]} for name in ("ReLU", "Sigmoid", "SiLU")},
    "length": {"body_settings": {"max_seq_length": 9}},
    "length beyond positions": {"body_settings": {"max_seq_length": 10**6, "do_lower_case": False}},
    "lower-casing": {"body_settings": {"do_lower_case": True}, "body": "0_Transformer"},
    "default prompt": {"settings": {**PROMPTS, "default_prompt_name": "query"}},
    **{
        f"prompt not pooled, {mode}": {
            "pooling": modes(mode) | {"include_prompt": False},
            "settings": {**PROMPTS, "default_prompt_name": "long"},
            "body_settings": {"max_seq_length": 22},
        }
        for mode in MODES
    },
    "byte-level, prompt not pooled": {
        "model": ROBERTA,
        "pooling": modes("weightedmean", "cls") | {"include_prompt": False},
        "settings": {**PROMPTS, "default_prompt_name": "query"},
    },
    "last token, as Qwen3-Embedding": {
        "model": QWEN3, "pooling": modes("lasttoken"), "after": [None],
        "settings": {**PROMPTS, "similarity_fn_name": "cosine"},
    },
    "two dense, as EmbeddingGemma": {
        "model": GEMMA,
        "after": [dense(D, 12, "linear.Identity", bias=False), dense(12, D, "linear.Identity", bias=False), None],
        "settings": {**PROMPTS, "default_prompt_name": "query"},
    },
    "t5": {"model": T5, "after": [dense(D, 5, "linear.Identity", bias=False), None]},
    "dimensions": {"after": [None], "settings": {"truncate_dim": 3, "similarity_fn_name": "dot"}},
}  # fmt: skip


def vectors(encoder: ctx_jax.Encoder, texts: list[str] = TEXTS, **settings: Any) -> np.ndarray:
    return np.stack(list(encoder.encode(texts, level="sentence", **settings)))


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_are_those_of_sentence_transformers(library: Any, name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", **FOLDERS[name])
    beyond = name == "length beyond positions"  # where the library itself fails
    texts = [text for text in TEXTS if len(text) < 60 or not beyond]
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=4)
    found = vectors(ctx_jax.load(folder), texts)
    if name == "prompt not pooled, max":
        expected = np.where(np.isneginf(expected), 0, expected)
    same(found, expected)
    assert np.abs(found).max() > 0.05


@pytest.mark.slow
def test_settings_of_a_call_are_those_of_sentence_transformers(library: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", settings=PROMPTS)
    encoder, reference = ctx_jax.load(folder), library.SentenceTransformer(str(folder), device="cpu")
    same(vectors(encoder, normalize=True), reference.encode(TEXTS, normalize_embeddings=True))
    same(vectors(encoder, prompt="dogs "), reference.encode(TEXTS, prompt="dogs "))
    same(vectors(encoder, prompt_name="query"), reference.encode(TEXTS, prompt_name="query"))
    same(vectors(encoder, prompt_name="document"), reference.encode(TEXTS))
    reference[1].pooling_mode = ("cls", "max")
    same(vectors(encoder, pooling=("cls", "max")), reference.encode(TEXTS))
    reference[1].pooling_mode, reference.max_seq_length = "lasttoken", 5
    same(vectors(encoder, pooling="lasttoken", length=5), reference.encode(TEXTS))


def test_a_folder_that_the_library_saves_is_read(library: Any, tmp_path: Path) -> None:
    """In its newest spelling, the length limit in tokenizer_config.json."""
    write_folder(tmp_path / "old", after=[dense(D, 4), None], body_settings={"max_seq_length": 7}, settings=PROMPTS)
    reference = library.SentenceTransformer(str(tmp_path / "old"), device="cpu")
    reference.save(str(tmp_path / "new"), create_model_card=False)
    encoder = ctx_jax.load(tmp_path / "new")
    assert encoder.sentence is not None
    assert encoder.sentence.length == 7
    same(vectors(encoder), reference.encode(TEXTS))
    assert "models" not in json.loads((tmp_path / "new" / "modules.json").read_text())[0]["type"]


def test_a_folder_without_modules_pools_the_mean_as_the_library(library: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    for name in ("modules.json", "1_Pooling/config.json"):
        (folder / name).unlink()
    encoder = ctx_jax.load(folder)
    assert encoder.sentence is None
    same(vectors(encoder), library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_names_of_classes_are_the_librarys(library: Any) -> None:
    from sentence_transformers.util.misc import import_from_string

    for name, kind in TYPES.items():
        assert import_from_string(name).__name__ == kind
    for name, own in ACTIVATIONS.items():
        assert import_from_string(name).__name__.lower() == own


@pytest.mark.parametrize(
    "name",
    [
        "dense, dense",
        "in an order",
        "default prompt",
        "lower-casing",
        "dimensions",
        "length",
        "last token, as Qwen3-Embedding",
    ],
)
def test_what_is_exported_gives_the_same_vectors_in_the_library(library: Any, name: str, tmp_path: Path) -> None:
    from ctx_jax.encoders.base import Imported
    from ctx_jax.encoders.transformer.huggingface.folders import write_sentence_folder

    encoder = ctx_jax.load(write_folder(tmp_path / "folder", **FOLDERS[name]))
    fields = (encoder.model, encoder.params, encoder.processor, encoder.heads, encoder.sentence)
    write_sentence_folder(tmp_path / "out", Imported(*fields), tmp_path)
    found = vectors(encoder)
    same(library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS), found)
    again = ctx_jax.load(tmp_path / "out")
    same(vectors(again), found)
