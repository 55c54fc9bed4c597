"""Folders of AllenNLP's ELMo files: found, read, written, damaged; and the original's numbers from its own weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from test_allennlp import OPTIONS, TINY, TRAINING, arrays_of

import ctx_jax
from ctx_jax.encoders.elmo import allennlp, allennlp_files, zero_carry


def write_weights(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as AllenNLP's users keep it, with files that do not belong."""
    (tmp_path / "elmo").mkdir()
    (tmp_path / "elmo" / "small_options.json").write_text(json.dumps(OPTIONS))
    write_weights(tmp_path / "elmo" / "small_weights.hdf5", arrays_of(TINY))
    (tmp_path / "elmo" / "broken.hdf5").write_bytes(b"no HDF5")
    write_weights(tmp_path / "elmo" / "tokens.hdf5", {"embedding": np.zeros((3, 5), np.float32)})
    (tmp_path / "elmo" / "config.json").write_text('{"other": 1}')
    return tmp_path / "elmo"


def test_a_folder_is_found_with_other_files_in_it(folder: Path) -> None:
    encoder = ctx_jax.load(folder)
    assert encoder.model == TINY
    arrays = allennlp.arrays_from_params(encoder.model, encoder.params)
    assert all(np.array_equal(arrays[name], array) for name, array in arrays_of(TINY).items())
    named = ctx_jax.load(options=folder / "small_options.json", weights=folder / "small_weights.hdf5")
    assert named.model == TINY


def test_other_programs_config_and_files_of_macos_do_not_matter(folder: Path) -> None:
    for name in ("._small_options.json", "._small_weights.hdf5"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    for text in ("{", "[1]", '{"model": {"type": "simple_tagger"}}', '{"model_type": "elmo"}'):
        (folder / "config.json").write_text(text)
        assert ctx_jax.load(folder).model == TINY
    (folder / "checkpoints").mkdir()  # an incomplete run
    with pytest.raises(FileNotFoundError, match=r"encoder\.json is missing"):
        ctx_jax.load(folder)


def test_softmax_options_are_ignored_without_softmax_weights(folder: Path) -> None:
    options = folder / "small_options.json"
    for entries in ({"n_tokens_vocab": None}, {"sample_softmax": "no"}, {"share_embedding_softmax": True}):
        given = {key: value for key, value in (TRAINING | entries).items() if key != "n_negative_samples_batch"}
        options.write_text(json.dumps(OPTIONS | given))
        assert ctx_jax.load(folder).model == replace(TINY, dropout=0.1)
    for wrong, message in (
        ({"bidirectional": "false"}, "bidirectional must be true or false"),
        ({"dropout": 2}, "dropout"),
    ):
        options.write_text(json.dumps(OPTIONS | wrong))
        with pytest.raises(ValueError, match=rf"small_options\.json: .*{message}"):
            ctx_jax.load(folder)


@pytest.mark.parametrize(
    ("original", "second"), [("small_options.json", "options.json"), ("small_weights.hdf5", "other.h5")]
)
def test_two_candidates_are_an_error_naming_both(folder: Path, original: str, second: str) -> None:
    shutil.copy(folder / original, folder / second)
    with pytest.raises(ValueError, match="more than one") as raised:
        ctx_jax.load(folder)
    assert original in str(raised.value)
    assert second in str(raised.value)


def test_a_training_checkpoint_is_read_with_its_head(folder: Path) -> None:
    options, weights = folder / "small_options.json", folder / "full.hdf5"
    options.write_text(json.dumps(OPTIONS | TRAINING | {"n_tokens_vocab": 11}))
    write_weights(weights, arrays_of(TINY, 11))
    found = allennlp_files.read_files(options=options, weights=weights)
    assert found.model == replace(TINY, dropout=0.1) and "encoder" not in found.params
    assert found.heads["softmax"].params["decoder"]["matrix"].shape == (11, 5)
    (folder / "plain.json").write_text(json.dumps(OPTIONS))
    named = {"options": folder / "plain.json", "weights": folder / "small_weights.hdf5"}
    assert not allennlp_files.read_files(**named).heads


def test_damaged_files_are_named(folder: Path) -> None:
    weights, options = folder / "small_weights.hdf5", folder / "small_options.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"no weights can be read: .*broken\.hdf5 .*small_weights\.hdf5 cannot"):
        ctx_jax.load(folder)
    with pytest.raises(ValueError, match=r"small_weights\.hdf5 cannot be read"):
        ctx_jax.load(options=options, weights=weights)
    weights.write_bytes(whole)
    with h5py.File(weights, "a") as file:
        del file["char_embed"]
        file["char_embed"] = h5py.ExternalLink("tokens.hdf5", "embedding")
    with pytest.raises(ValueError, match="missing: char_embed"):
        allennlp_files.read_files(options=options, weights=weights)
    options.write_text("{")
    with pytest.raises(ValueError, match=r"small_options\.json is not JSON"):
        allennlp_files.read_files(options=options, weights=weights)


def test_values_from_other_files_and_other_types_are_refused(folder: Path) -> None:
    weights = folder / "small_weights.hdf5"
    with h5py.File(weights, "a") as file:
        del file["CNN/b_cnn_0"]
        file.create_dataset("CNN/b_cnn_0", (4,), "f4", external=[(str(folder / "config.json"), 0, 16)])
    with pytest.raises(ValueError, match="from another file"):
        ctx_jax.load(folder)
    with h5py.File(weights, "a") as file:
        del file["CNN/b_cnn_0"]
        file["CNN/b_cnn_0"] = np.zeros(4, np.int32)
    with pytest.raises(ValueError, match="holds int32"):
        ctx_jax.load(folder)
    with h5py.File(weights, "a") as file:
        del file["CNN/b_cnn_0"]
        file["CNN/b_cnn_0"] = h5py.Empty("f4")
    with pytest.raises(ValueError, match=r"small_weights\.hdf5: dataset 'CNN/b_cnn_0' is empty"):
        ctx_jax.load(folder)
    with h5py.File(weights, "a") as file:
        del file["CNN/b_cnn_0"]
        file.create_dataset("CNN/b_cnn_0", (10**5, 10**5), "f4")
    with pytest.raises(ValueError, match="claims 40000000000 bytes, the file holds 0 of it"):
        ctx_jax.load(folder)


def test_floats_of_another_format_are_refused(folder: Path) -> None:
    """One bit of a stored type makes other numbers of all values: HDF5 converts them without a word."""
    weights = folder / "small_weights.hdf5"
    for change in ("bias", "field"):
        kind = h5py.h5t.IEEE_F64LE.copy()
        if change == "bias":
            kind.set_ebias(1024)
        else:
            kind.set_fields(63, 51, 12, 0, 51)
        with h5py.File(weights, "a") as file:
            del file["CNN/b_cnn_0"]
            space = h5py.h5s.create_simple((4,))
            dataset = h5py.h5d.create(file.id, b"CNN/b_cnn_0", kind, space)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(4))
        with pytest.raises(ValueError, match=r"small_weights\.hdf5.* (no IEEE ones|cannot be read)"):
            ctx_jax.load(folder)


def test_a_name_that_is_not_utf_8_is_refused(folder: Path) -> None:
    with h5py.File(folder / "small_weights.hdf5", "a") as file:
        h5py.h5g.create(file.id, b"other\xff")
    with pytest.raises(ValueError, match=r"small_weights\.hdf5: the name b'other.*' is not UTF-8"):
        ctx_jax.load(folder)


def test_counts_are_compared_with_the_weights_before_anything_is_built(folder: Path) -> None:
    options = folder / "small_options.json"
    for part, key, held in (("lstm", "n_layers", 2), ("char_cnn", "n_highway", 1)):
        options.write_text(json.dumps({**OPTIONS, part: {**OPTIONS[part], key: 10**9}}))
        with pytest.raises(ValueError, match=rf"{part} {key} asks for 1000000000, the weights hold {held}"):
            ctx_jax.load(folder)
    options.write_text(json.dumps({**OPTIONS, "char_cnn": {**OPTIONS["char_cnn"], "filters": [[1, 1]] * 50_000}}))
    with pytest.raises(ValueError, match="char_cnn filters asks for 50000, the weights hold 2"):
        ctx_jax.load(folder)
    options.write_text(json.dumps(OPTIONS))
    with h5py.File(folder / "small_weights.hdf5", "a") as file:
        for number in range(60):
            file[f"other_{number}"] = np.zeros(1)
    with pytest.raises(ValueError, match="and 10 more$"):
        ctx_jax.load(folder)
    with h5py.File(folder / "small_weights.hdf5", "a") as file:
        for number in range(allennlp_files.MOST_OBJECTS):
            file.create_group(f"group_{number}")
    with pytest.raises(ValueError, match="over 10000 groups and datasets"):
        ctx_jax.load(folder)


def test_exported_and_imported_again_is_identical(tmp_path: Path) -> None:
    model = replace(TINY, cell_clip=None)
    params = allennlp.params_from_arrays(model, arrays_of(model, 3))
    target = tmp_path / "new" / "export"
    allennlp_files.write(target, model, params, ["<S>", "</S>", "<UNK>"])
    assert sorted(path.name for path in target.iterdir()) == [
        "options.json", "softmax.hdf5", "vocabulary.txt", "weights.hdf5",
    ]  # fmt: skip
    assert json.loads((target / "options.json").read_text())["char_cnn"]["n_characters"] == 262
    encoder = ctx_jax.load(target)
    assert encoder.model == model
    assert jax.tree.structure(encoder.params) == jax.tree.structure(params["encoder"])
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, encoder.params, params["encoder"])))
    with h5py.File(target / "softmax.hdf5") as file:
        assert file["softmax/W"].shape == (3, 5)


def test_nothing_is_overwritten_or_written_partly(tmp_path: Path) -> None:
    params = allennlp.params_from_arrays(TINY, arrays_of(TINY))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        allennlp_files.write(tmp_path / "full", TINY, params)
    with pytest.raises(UnicodeEncodeError):
        allennlp_files.write(tmp_path / "half", TINY, params, ["<S>", "</S>", "<UNK>", "\ud800"])
    with pytest.raises(ValueError, match="LSTM cells"):
        allennlp_files.write(tmp_path / "half", replace(TINY, cell="gru"), params)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.slow
def test_the_originals_top_layer_with_carried_state(shared: Path) -> None:
    """Thirty sentences in ten batches, the state carried by row; and 458 context-free vectors."""
    source = shared / "fixtures" / "elmo" / "allennlp_elmo"
    encoder = ctx_jax.load(source)
    lists = json.loads((source / "sentences.json").read_text())
    length = max(len(sentence.split()) for sentences in lists for sentence in sentences)
    expected = []
    for number in range(3):
        with h5py.File(source / f"lm_embeddings_{number}.hdf5") as file:
            expected.append([file[str(i)][()] for i in range(10)])
    step, carry = jax.jit(ctx_jax.embed, static_argnums=0), zero_carry(encoder.model, 3)
    for i in range(10):
        inputs = encoder.tokenize([sentences[i] for sentences in lists], length=length)
        layers = step(encoder.model, encoder.params, inputs, carry=carry)
        carry = layers.carry
        for row in range(3):
            found = np.asarray(layers.values[-1, row][layers.mask[row]])
            both = np.concatenate(expected[row][i], axis=-1)
            np.testing.assert_allclose(found, both, atol=1e-6, rtol=1e-5)
    words = (source / "vocab_test.txt").read_text(encoding="utf-8").splitlines()
    with h5py.File(source / "elmo_token_embeddings.hdf5") as file:
        vectors = encoder.word_vectors(words)
        np.testing.assert_allclose(vectors, np.tile(file["embedding"][()], 2), atol=1e-5, rtol=1e-5)
