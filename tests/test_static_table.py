"""A table of word vectors as an encoder: look-up, unknown words, its run and its export. The laws that it shares with
other encoders are in `test_families.py`, its files in `test_static_files.py`.

Letters: L layers, B sentences, T words, D width, V words of the table.
"""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctx_jax
from ctx_jax.checkpoints.run_files import ENCODER, WORDS, EncoderFile
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.commands import export
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.static import StaticInputs, StaticTable, write_text
from ctx_jax.io import configs

TABLE = {"the": [1.0, 2.0], "The": [3.0, 4.0], "cat": [5.0, -6.0], "New York": [-7.0, 9.0]}
VECTORS = np.array(list(TABLE.values()), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_text(tmp_path / "table.vec", list(TABLE), VECTORS)
    return tmp_path / "table.vec"


def save_run(folder: Path, encoder: Encoder, params: Any) -> Path:
    folder.mkdir()
    (folder / ENCODER).write_text(configs.text(EncoderFile(encoder.model, {}, "whitespace")))
    encoder.processor.save(folder)
    with RunCheckpoints(folder / "checkpoints", clean=True) as checkpoints:
        state = {"params": {"encoder": params, "head": {}}, "step": jnp.int32(1)}
        checkpoints.save(1, state, {"sentence": np.int64(1)}, {"loss": 1.0})
    return folder


def test_a_words_vector_is_its_row_in_every_sentence(shared: Path) -> None:
    path = shared / "fixtures" / "vectors" / "glove.6B.100d.sample.txt.gz"
    lines = [line.split(" ") for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]]
    table = {line[0]: np.array(line[1:], np.float32) for line in lines}
    encoder = ctx_jax.load(path)
    words = list(table)
    np.testing.assert_array_equal(encoder.word_vectors(words), list(table.values()))
    sentences = [words[:7], [], words[90:], [words[3], "zyzzy", words[3]]]
    zero = np.zeros(100, np.float32)
    for sentence, vectors in zip(sentences, encoder.encode(sentences), strict=True):
        expected = np.array([table.get(word, zero) for word in sentence], np.float32).reshape(1, -1, 100)
        np.testing.assert_array_equal(vectors, expected)
    mixing = {"weights": np.zeros(1, np.float32), "gamma": np.float32(2.0)}
    (mixed,) = encoder.encode(sentences[:1], layers="mix", mix=mixing)
    np.testing.assert_allclose(mixed, 2 * np.array([table[word] for word in sentences[0]]), rtol=1e-6)


@pytest.mark.parametrize("unknown, expected", [("zero", np.zeros(2)), ("mean", VECTORS.mean(axis=0))])
def test_a_word_outside_the_table_has_the_vector_of_the_rule(path: Path, unknown: str, expected: Any) -> None:
    vectors = ctx_jax.load(path, unknown=unknown).word_vectors(["cat", "zyzzy", "", "THE", "New York"])
    np.testing.assert_allclose(vectors, [VECTORS[2], expected, expected, expected, VECTORS[3]], rtol=1e-6)


def test_lower_casing_acts_on_the_words_of_the_text(path: Path) -> None:
    words = ["the", "The", "THE", "CAT", "New York"]
    vectors = ctx_jax.load(path, lowercase=True).word_vectors(words)
    np.testing.assert_array_equal(vectors, [*VECTORS[[0, 0, 0, 2]], [0, 0]])
    exact = ctx_jax.load(path).word_vectors(words)
    np.testing.assert_array_equal(exact, [*VECTORS[[0, 1]], [0, 0], [0, 0], VECTORS[3]])


@pytest.mark.parametrize("lowercase", [False, True])
def test_a_word_outside_the_table_can_be_an_error_that_names_it(path: Path, lowercase: bool) -> None:
    encoder = ctx_jax.load(path, unknown="error", lowercase=lowercase)
    assert encoder.tokenize(["the cat", "cat"])["token_ids"].tolist() == [[0, 2], [2, -1]]
    with pytest.raises(ValueError, match=r"sentence 1.*'Zyzzy'"):
        encoder.tokenize(["the cat", "the Zyzzy cat"])
    with pytest.raises(ValueError, match="'Zyzzy'"):
        list(encoder.encode(["the cat", "the Zyzzy cat"]))


@pytest.mark.parametrize(
    "choices, error, named",
    [
        ({"unknown": "nearest"}, ValueError, "nearest"),
        ({"lowercase": "yes"}, TypeError, "lowercase"),
        ({"uppercase": True}, TypeError, "uppercase"),
        ({"step": 3}, ValueError, "step"),
    ],
)
def test_options_that_there_are_not(path: Path, choices: dict[str, Any], error: type, named: str) -> None:
    with pytest.raises(error, match=named):
        ctx_jax.load(path, **choices)


def test_an_id_outside_the_table_gives_nan(path: Path) -> None:
    encoder = ctx_jax.load(path)
    for wrong in (5, -2):
        layers = ctx_jax.embed(encoder.model, encoder.params, {"token_ids": np.int32([[0, wrong, -1]])})
        np.testing.assert_array_equal(layers.values[0, 0], [VECTORS[0], [np.nan, np.nan], [0, 0]])
        np.testing.assert_array_equal(layers.mask, [[True, True, False]])


@pytest.mark.parametrize(
    "inputs, error",
    [
        ({"char_ids": np.zeros((1, 1), np.int32)}, ValueError),
        ({"token_ids": np.zeros(3, np.int32)}, ValueError),
        ({"token_ids": np.zeros((1, 3), np.float32)}, TypeError),
    ],
)
def test_inputs_of_another_kind_are_refused(path: Path, inputs: Any, error: type) -> None:
    encoder = ctx_jax.load(path)
    with pytest.raises(error, match="token_ids"):
        ctx_jax.embed(encoder.model, encoder.params, inputs)


def test_a_carry_is_refused(path: Path) -> None:
    encoder = ctx_jax.load(path)
    with pytest.raises(TypeError, match="carry"):
        ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize(["the"]), carry=(1,))


def test_fresh_tables() -> None:
    model = StaticTable(50, 8)
    table = np.asarray(model.init(jax.random.key(0))["words"]["embedding"])
    assert table.shape == (51, 8) and not table[-1].any() and np.abs(table).max() <= 0.5 / 8
    assert 0.1 / 8 < table[:-1].std() < 0.4 / 8
    mean = np.asarray(replace(model, unknown="mean").init(jax.random.key(0))["words"]["embedding"])
    np.testing.assert_allclose(mean, [*table[:-1], table[:-1].mean(axis=0)], atol=1e-7)
    for name in ("vocabulary", "dim"):
        with pytest.raises(ValueError, match=name):
            replace(model, **{name: 0})


def test_a_word_list_is_that_of_its_table(path: Path, tmp_path: Path) -> None:
    encoder = ctx_jax.load(path)
    with pytest.raises(ValueError, match=WORDS):
        encoder.model.inputs()
    with pytest.raises(FileNotFoundError, match=WORDS):
        encoder.model.inputs(tmp_path)
    encoder.processor.save(tmp_path)
    assert encoder.model.inputs(tmp_path).digest == encoder.processor.digest
    assert encoder.model.inputs(tmp_path, rule="prose").digest != encoder.processor.digest
    other = StaticInputs(("cat", "The", "the", "New York"))
    other.save(tmp_path)
    with pytest.raises(ValueError, match=WORDS):
        encoder.model.inputs(tmp_path)
    # A table that names no list takes any of its size.
    anonymous = replace(encoder.model, words="")  # type: ignore[type-var]
    assert anonymous.inputs(tmp_path) == other
    with pytest.raises(ValueError, match=rf"{WORDS}.*4.*5"):
        replace(anonymous, vocabulary=5).inputs(tmp_path)


@pytest.mark.parametrize("words", [(), ("a", ""), ("a", "b\nc"), ("a", "b", "a")])
def test_word_lists_that_a_file_could_not_hold(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="word"):
        StaticInputs(words)


def test_the_digest_covers_all_that_the_ids_depend_on() -> None:
    inputs = StaticInputs(("the", "cat"))
    others = (
        StaticInputs(("cat", "the")),
        replace(inputs, rule="prose"),
        replace(inputs, lowercase=True),
        replace(inputs, unknown="mean"),
    )
    assert len({inputs.digest, *(other.digest for other in others)}) == 5
    assert StaticInputs(("the", "cat")).digest == inputs.digest


def test_a_run_of_a_table_is_exported_as_text_and_binary(path: Path, tmp_path: Path) -> None:
    write_text(path, ["the", "cat"], VECTORS[:2])
    encoder = ctx_jax.load(path, unknown="mean", lowercase=True)
    run = save_run(tmp_path / "run", encoder, encoder.params)
    assert export.main([str(run), str(tmp_path / "out")]) == 0
    for name in ("table.vec", "table.bin"):
        again = ctx_jax.load(tmp_path / "out" / name, unknown="mean", lowercase=True)
        assert again.model == encoder.model and again.processor.digest == encoder.processor.digest
        np.testing.assert_array_equal(again.params["words"]["embedding"], encoder.params["words"]["embedding"])


@pytest.mark.slow
def test_what_an_export_leaves_out_is_said(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = ctx_jax.load(path)
    trained = {"words": {"embedding": encoder.params["words"]["embedding"] + 0.5}}
    assert export.main([str(save_run(tmp_path / "run", encoder, trained)), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "unknown" in said and "table.bin" in said  # "New York" has a space
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"table.vec", "README.md"}
    np.testing.assert_array_equal(ctx_jax.load(tmp_path / "out" / "table.vec").word_vectors(TABLE), VECTORS + 0.5)
