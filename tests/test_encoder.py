"""The encoder's convenience, and loading: text in, one array a sentence out, in order and in few shapes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctx_jax
from ctx_jax.checkpoints.run_files import ENCODER, VOCABULARY, EncoderFile
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.embedding.batching import SHAPES, fine, plan
from ctx_jax.encoders.base import rounded
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.elmo.inputs import CharacterInputs, WordInputs
from ctx_jax.heads import VocabularyHead
from ctx_jax.io import configs
from ctx_jax.io.errors import InputError, InputTypeError, MissingFileError
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import Rule
from ctx_jax.training.parameter_groups import named

TINY = BiLM(filters=((1, 4), (2, 8)), character_dim=4, highways=1, dim=6, projection=5, max_characters=9)
WORDS = Vocabulary(("<S>", "</S>", "<UNK>", "the", "cat"))
SENTENCES = ["the cat sat .", "", "a", "one two three four five six seven eight nine", "été\tnaïve"]
SOFTMAX = VocabularyHead(transform=False, tied=False)


@pytest.fixture(scope="module")
def encoder() -> ctx_jax.Encoder:
    return ctx_jax.Encoder(TINY, TINY.init(jax.random.key(0)), CharacterInputs(TINY.max_characters))


def run_params(model: BiLM, step: int) -> dict[str, Any]:
    softmax = SOFTMAX.init(jax.random.key(step), width=model.projection, vocabulary=len(WORDS))
    return {"encoder": model.init(jax.random.key(step)), "head": {"softmax": softmax}}


def write_run(folder: Path, model: BiLM, rule: Rule, losses: dict[int, float]) -> dict[int, Any]:
    """A run directory with a checkpoint per entry of `losses`; returns the parameters of each."""
    folder.mkdir(parents=True)
    (folder / ENCODER).write_text(configs.text(EncoderFile(model, {"softmax": SOFTMAX}, rule)))
    WORDS.write(folder / VOCABULARY)
    saved = {}
    with RunCheckpoints(folder / "checkpoints", keep=9, clean=True) as checkpoints:
        for step, loss in losses.items():
            saved[step] = run_params(model, step)
            state = {"params": saved[step], "step": jnp.int32(step)}
            checkpoints.save(step, state, {"sentence": np.int64(step)}, {"loss": loss})
    return saved


def test_strings_are_split_and_lists_taken_as_they_are(encoder: ctx_jax.Encoder) -> None:
    inputs = encoder.tokenize(["the  cat\n", "a b c"])
    assert set(inputs) == {"char_ids"}
    assert inputs["char_ids"].shape == (2, 5, 9)
    assert inputs["char_ids"].dtype == np.int32
    np.testing.assert_array_equal(inputs["char_ids"], encoder.tokenize([["the", "cat"], ["a", "b", "c"]])["char_ids"])
    np.testing.assert_array_equal(
        inputs["char_ids"], encoder.tokenize(["the cat", "a b c"], level="tokens")["char_ids"]
    )
    spaced = encoder.tokenize([["the cat"]])["char_ids"]
    assert spaced.shape == (1, 3, 9), "a word of a list may hold a space"
    prose = ctx_jax.Encoder(TINY, {}, CharacterInputs(9, "prose"))
    np.testing.assert_array_equal(
        prose.tokenize(["I don't."])["char_ids"], encoder.tokenize([["I", "do", "n't", "."]])["char_ids"]
    )


def test_rows_and_length_fix_the_shape(encoder: ctx_jax.Encoder) -> None:
    assert encoder.tokenize(["a b", ""], rows=4, length=7)["char_ids"].shape == (4, 9, 9)
    assert encoder.tokenize([])["char_ids"].shape[0] == 0
    assert encoder.tokenize([], rows=2, length=3)["char_ids"].shape == (2, 5, 9)
    words = ctx_jax.Encoder(BiLM(token_input="words", vocabulary=5), {}, WordInputs(WORDS))
    expected = [[0, 3, 2, 1, -1], [0, 4, 1, -1, -1], [-1] * 5]
    np.testing.assert_array_equal(words.tokenize(["the dog", "cat"], rows=3, length=3)["token_ids"], expected)
    for each in (encoder, words):
        with pytest.raises(ValueError, match="rows=1"):
            each.tokenize(["a", "b"], rows=1)
        with pytest.raises(ValueError, match="length=1"):
            each.tokenize(["a b"], length=1)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("a bare string", "wrap it in a list"),
        (["a string", ["a", "list"]], "number 0 is a string, number 1 is a list"),
        ([["a", 3]], "holds 3, a int"),
        ([b"bytes"], "got bytes"),
        ([None], "got NoneType"),
    ],
)
def test_what_is_no_list_of_sentences_is_refused(encoder: ctx_jax.Encoder, sentences: list, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        encoder.tokenize(sentences)
    with pytest.raises(InputTypeError):
        list(encoder.encode(sentences))


@pytest.mark.slow
def test_encode_gives_embeds_vectors_in_order_in_batches_of_several_shapes(encoder: ctx_jax.Encoder) -> None:
    layers = jax.jit(ctx_jax.embed, static_argnums=0)(TINY, encoder.params, encoder.tokenize(SENTENCES))
    mixing = {"weights": jnp.array([0.0, 1.0, 2.0]), "gamma": jnp.float32(2.0)}
    mixed = ctx_jax.mix(layers.values, mixing)
    found = list(encoder.encode(SENTENCES))
    again = list(encoder.encode(SENTENCES, layers="mix", mix=mixing))
    assert len(found) == len(again) == len(SENTENCES)
    for row, sentence in enumerate(SENTENCES):
        length = len(sentence.split())
        assert found[row].shape == (3, length, 10) and again[row].dtype == np.float32
        np.testing.assert_allclose(found[row], layers.values[:, row, :length], atol=1e-6)
        np.testing.assert_allclose(again[row], mixed[row, :length], atol=1e-5)


def test_encode_reads_ahead_a_bounded_way(encoder: ctx_jax.Encoder) -> None:
    taken = []

    def endless() -> Iterator[str]:
        for number in count():
            taken.append(number)
            yield "a b"

    first = list(islice(encoder.encode(endless(), batch_tokens=8), 3))
    assert [vectors.shape for vectors in first] == [(3, 2, 10)] * 3
    assert len(taken) < 10_000


def test_encode_checks_its_settings_when_called(encoder: ctx_jax.Encoder) -> None:
    for wrong in ({"layers": "mix"}, {"mix": ctx_jax.init_mix(3)}, {"layers": "top"}, {"batch_tokens": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            encoder.encode(["a"], **wrong)


def test_shapes_are_few_and_every_sentence_is_planned_once() -> None:
    assert [rounded(length) for length in (0, 8, 9, 13, 17, 25, 33, 49, 100)] == [8, 8, 12, 16, 24, 32, 48, 64, 128]
    assert plan([3, 40, 5], 1024) == [((1, 2, 0), 4, 48)] and plan([], 64) == []
    assert [fine(length) for length in (0, 9, 17, 33, 65, 129, 500)] == [8, 10, 18, 36, 72, 144, 512]
    random = np.random.default_rng(0)
    for number, most in ((3, 200), (5_000, 200), (5_000, 3_000)):
        lengths = [*(5 + random.geometric(0.04, number)).clip(max=most).tolist(), most]
        for multiple in (1, 3):
            plans = plan(lengths, 2048, multiple=multiple, longest=most)
            assert sorted(number for one in plans for number in one.sentences) == list(range(len(lengths)))
            for one in plans:
                assert len(one.sentences) <= one.rows and one.rows % multiple == 0 and one.length <= most
                assert one.rows == multiple or one.rows * one.length <= 2048
                assert all(lengths[number] <= one.length for number in one.sentences)
            assert len({(one.rows, one.length) for one in plans}) <= SHAPES + 4
            if number > 1_000 and multiple == 1:
                assert sum(one.rows * one.length for one in plans) < 1.1 * sum(lengths)


@pytest.mark.slow
def test_word_vectors_do_not_depend_on_the_batch(encoder: ctx_jax.Encoder) -> None:
    words = [f"word{number}" for number in range(40)] + ["", "with space", "word0"]
    vectors = encoder.word_vectors(words)
    assert (vectors.shape, vectors.dtype) == ((43, 10), np.float32)
    np.testing.assert_array_equal(vectors[0], vectors[-1])
    np.testing.assert_allclose(encoder.word_vectors(words), vectors, atol=1e-6)
    layer = jax.jit(BiLM.token_layer, static_argnums=0)(TINY, encoder.params, encoder.tokenize([words]))
    np.testing.assert_allclose(vectors, layer[0], atol=1e-6)
    with pytest.raises(InputTypeError, match="list"):
        encoder.word_vectors("word")


def test_a_run_is_loaded_by_step_with_its_rule_and_heads(tmp_path: Path) -> None:
    saved = write_run(tmp_path / "run", TINY, "prose", {10: 2.0, 20: 1.0, 30: 3.0})
    for step, number in (("best", 20), ("latest", 30), (10, 10), (np.int64(10), 10)):
        encoder = ctx_jax.load(tmp_path / "run", step=step)
        assert encoder.model == TINY
        jax.tree.map(np.testing.assert_array_equal, encoder.run_params, saved[number])
    assert encoder.heads["softmax"].module == SOFTMAX and encoder.heads.keys() == {"softmax"}
    assert encoder.params is encoder.run_params["encoder"]
    assert encoder.tokenize(["don't"])["char_ids"].shape[1] == 4
    with pytest.raises(MissingFileError, match="10, 20, 30"):
        ctx_jax.load(tmp_path / "run", step=11)
    for wrong in ("last", True):
        with pytest.raises(InputError, match=str(wrong)):
            ctx_jax.load(tmp_path / "run", step=wrong)  # type: ignore[arg-type]
    files = (path for path in (tmp_path / "run/checkpoints/20/state").rglob("*") if path.is_file())
    file = max(files, key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="step 20 is damaged"):
        ctx_jax.load(tmp_path / "run")


def test_a_word_model_keeps_its_vocabulary(tmp_path: Path) -> None:
    write_run(tmp_path / "run", BiLM(token_input="words", vocabulary=5, dim=6, projection=5), "prose", {1: 1.0})
    encoder = ctx_jax.load(str(tmp_path / "run"))
    np.testing.assert_array_equal(encoder.tokenize(["the cat."])["token_ids"], [[0, 3, 4, 2, 1]])
    (tmp_path / "run" / VOCABULARY).write_text("<S>\n</S>\n<UNK>\n")
    with pytest.raises(InputError, match=r"vocabulary\.txt has 3 words, the model 5"):
        ctx_jax.load(tmp_path / "run")


def test_a_run_that_keeps_a_moving_average_gives_that(tmp_path: Path) -> None:
    params = write_run(tmp_path / "run", TINY, "prose", {1: 2.0})[1]
    average = jax.tree.map(lambda leaf: leaf + 1, params)
    with RunCheckpoints(tmp_path / "run" / "checkpoints", clean=True) as checkpoints:
        checkpoints.save(2, {"params": params, "average": average}, {"sentence": np.int64(2)}, {"loss": 1.0})
    jax.tree.map(np.testing.assert_array_equal, ctx_jax.load(tmp_path / "run").run_params, average)
    jax.tree.map(np.testing.assert_array_equal, ctx_jax.load(tmp_path / "run", step=1).run_params, params)


def test_another_models_config_is_refused_with_every_array_that_does_not_fit(tmp_path: Path) -> None:
    write_run(tmp_path / "run", TINY, "prose", {1: 1.0})
    other = replace(TINY, dim=TINY.dim + 1, depth=TINY.depth + 1)
    (tmp_path / "run" / ENCODER).write_text(configs.text(EncoderFile(other, {}, "prose")))
    with pytest.raises(InputError) as error:
        ctx_jax.load(tmp_path / "run")
    mine, theirs = (named(jax.eval_shape(model.init, jax.random.key(0))) for model in (TINY, other))
    wrong = {name for name in theirs if name not in mine or mine[name].shape != theirs[name].shape}
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == len(wrong) > 4
    for name in wrong:
        (line,) = (line for line in lines if f"params.encoder.{name.replace('/', '.')}" in line)
        assert str(list(mine[name].shape)) in line if name in mine else "missing" in line


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        ctx_jax.load(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("prose")
    with pytest.raises(MissingFileError, match=r"encoder\.json.*options\.json.*config\.json.*found notes\.txt"):
        ctx_jax.load(tmp_path)
    with pytest.raises(MissingFileError, match=r"notes\.txt is a file"):
        ctx_jax.load(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="'latest'"):  # a step of what is no run
        ctx_jax.load(tmp_path, step="latest")
    text = configs.text(EncoderFile(TINY, {}, "prose"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ENCODER).write_text(text)
    with pytest.raises(MissingFileError, match="no complete checkpoint"):
        ctx_jax.load(tmp_path)
    stored = json.loads(text)
    for wrong in (
        stored | {"format": 99},
        stored | {"rule": "none"},
        stored | {"heads": []},
        stored | {"model": stored["model"] | {"type": "LSTM"}},
        stored | {"model": stored["model"] | {"dim": "wide"}},
    ):
        (tmp_path / ENCODER).write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"encoder\.json: .*(99|none|\[\]|LSTM|wide)"):
            ctx_jax.load(tmp_path)
    (tmp_path / ENCODER).write_text("{")
    with pytest.raises(InputError, match=r"encoder\.json"):
        ctx_jax.load(tmp_path)
    (tmp_path / ENCODER).unlink()
    (tmp_path / "config.json").write_text("{}")  # of a run that lost its file
    with pytest.raises(MissingFileError, match=r"encoder\.json is missing"):
        ctx_jax.load(tmp_path)


def test_the_arguments_of_load_are_checked(tmp_path: Path) -> None:
    arguments: Any
    for arguments, got in (
        ({}, "nothing"),
        ({"path": ""}, "''"),
        ({"options": "a"}, "options='a'"),
        ({"weights": "a"}, "weights='a'"),
        ({"path": "a", "options": "b", "weights": "c"}, "path='a', options='b', weights='c'"),
    ):
        with pytest.raises(InputError, match=f"options= and weights=.*; got {got}$"):
            ctx_jax.load(**arguments)
    notes = tmp_path / "notes.txt"
    notes.touch()
    with pytest.raises(MissingFileError, match=r"load\(options=\): .*options\.json"):
        ctx_jax.load(options=tmp_path / "options.json", weights=notes)
    with pytest.raises(MissingFileError, match=r"load\(weights=\): .* is a folder"):
        ctx_jax.load(options=notes, weights=tmp_path)
