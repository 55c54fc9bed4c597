"""Stored layers of a frozen encoder: the encoder's own, whole or not there, and keyed by what they depend on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import ctx_jax
from ctx_jax.embedding import vector_cache
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.vector_cache import store_vectors
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.io.errors import ConfigError

MODEL = BiLM(filters=((1, 8), (2, 8)), character_dim=4, dim=16, projection=8, max_characters=9)
ENCODER = Encoder(MODEL, MODEL.init(jax.random.key(0)), MODEL.inputs())
TEXTS = [["the", "cat"], [], ["a"], ["dogs", "and", "cats", "sat", "here"], ["the"]] * 3


def stored(folder: Path, pooling: Any = None, encoder: Encoder = ENCODER, identity: Any = "texts") -> Any:
    return store_vectors(encoder, TEXTS, identity, folder, pooling=pooling, log=lambda line: None)


@pytest.mark.parametrize("pooling", [None, "mean", "first", "last"])
@pytest.mark.parametrize("part_bytes", [1, 2000, 1 << 26])
def test_stored_layers_are_the_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: Any, part_bytes: int
) -> None:
    monkeypatch.setattr(vector_cache, "PART_BYTES", part_bytes)
    vectors = stored(tmp_path, pooling)
    numbers = [3, 1, 14, 0]
    found = vectors.batch(numbers, 6, 5)
    layers = ctx_jax.embed(MODEL, ENCODER.params, ENCODER.tokenize([TEXTS[i] for i in numbers], rows=6, length=5))
    values, mask = np.asarray(layers.values), np.asarray(layers.mask)
    if pooling:
        values = np.stack([ctx_jax.pool(layer, layers.mask, pooling) for layer in layers.values])[:, :, None]
        values = np.pad(values, ((0, 0), (0, 0), (0, 4), (0, 0)))
        mask = mask.any(axis=1, keepdims=True) & (np.arange(5) == 0)
    np.testing.assert_allclose(found["vectors"].swapaxes(0, 1), values, atol=1e-6)
    np.testing.assert_array_equal(found["mask"], mask)
    assert vectors.sizes.tolist() == [min(len(text), 1) if pooling else len(text) for text in TEXTS]
    one = vectors.batch(numbers, 6, 5, 2)
    np.testing.assert_array_equal(one["vectors"], found["vectors"][:, 2:3])
    row = vectors.joined(numbers, 13)
    np.testing.assert_array_equal(
        row["vectors"][:, :, row["mask"][0]][0],
        np.concatenate(
            [own[:, :count] for own, count in zip(found["vectors"], found["mask"].sum(axis=1), strict=True)], axis=1
        ),
    )
    np.testing.assert_array_equal(vectors.single(2).batch(numbers, 6, 5)["vectors"], one["vectors"])
    mean = vectors.single(None).batch(numbers, 6, 5)["vectors"]
    np.testing.assert_allclose(mean, found["vectors"].mean(axis=1, keepdims=True), atol=1e-6)


def test_what_was_stored_is_read_and_what_was_not_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a run that was killed between two parts."""
    monkeypatch.setattr(vector_cache, "PART_BYTES", 2000)
    first = stored(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    parts = sorted(path for path in folder.iterdir() if path.is_dir())
    assert len(parts) > 2
    for path in (parts[1] / "vectors.bin", *parts[1].glob("*")):
        path.unlink(missing_ok=True)
    parts[1].rmdir()
    times = {part: (part / "vectors.bin").stat().st_mtime_ns for part in parts if part != parts[1]}
    again = stored(tmp_path)
    assert times == {part: (part / "vectors.bin").stat().st_mtime_ns for part in times}, "the others were not computed"
    for number in range(len(TEXTS)):
        one, other = (vectors.batch([number], 1, 5)["vectors"] for vectors in (first, again))
        np.testing.assert_array_equal(one, other)


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    before = stored(tmp_path).batch([3], 1, 5)["vectors"]
    (path,) = tmp_path.rglob("vectors.bin")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    np.testing.assert_array_equal(stored(tmp_path).batch([3], 1, 5)["vectors"], before)


def test_the_digest_is_of_model_parameters_and_inputs() -> None:
    other = jax.tree.map(np.array, ENCODER.params)
    other["forward_0"]["bias"][0] += 1e-3
    digests = {
        encoder_digest(each)
        for each in (
            ENCODER,
            replace(ENCODER, model=replace(MODEL, compute="bfloat16")),
            replace(ENCODER, params=other),
            replace(ENCODER, processor=MODEL.inputs(rule="prose")),
        )
    }
    assert len(digests) == 4 and encoder_digest(ENCODER) in digests


@pytest.mark.slow
def test_a_disk_without_room_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ConfigError) as caught:
        stored(tmp_path)
    assert caught.value.field == "data.cache_vectors" and str(tmp_path) in str(caught.value)
    assert not [*tmp_path.rglob("*.bin")]
