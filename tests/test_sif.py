"""Sentence vectors by smooth inverse frequency, against the formulas of Arora et al. (2017) in numpy."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from test_encode import close, embedded
from test_families import TABLE, TABLE_WORDS

import ctx_jax
from ctx_jax.io.errors import InputError, InputTypeError


@pytest.mark.slow
def test_sif_weights_rare_words_and_removes_the_common_component(tmp_path: Path) -> None:
    encoder = ctx_jax.Encoder(TABLE, TABLE.init(jax.random.key(0)), TABLE_WORDS)
    corpus = ["the cat", "the the dogs", "sat", "the dogs sat"]
    counts = {"the": 4, "cat": 1, "dogs": 2, "sat": 2}
    fitted = encoder.fit_sif(iter(corpus), weight=0.01)

    def average(text: str) -> np.ndarray:
        vectors = embedded(encoder, text)[0]
        weights = np.array([0.01 / (0.01 + counts.get(word, 0) / 9) for word in text.split()])
        return (weights[:, None] * vectors).sum(0) / max(len(weights), 1)

    component = np.linalg.svd(np.stack([average(text) for text in corpus]), full_matrices=False)[2][0]
    texts = ["cat the sat", "", "new dogs"]
    expected = np.stack([average(text) - component * (component @ average(text)) for text in texts])
    close(fitted.encode_array(texts, pooling="sif"), expected)
    ctx_jax.save_sif(tmp_path / "sif.json", fitted.sif)
    loaded = replace(encoder, sif=ctx_jax.load_sif(tmp_path / "sif.json"))
    np.testing.assert_array_equal(
        loaded.encode_array(texts, pooling="sif"), fitted.encode_array(texts, pooling="sif"), strict=True
    )
    (tmp_path / "sif.json").write_text((tmp_path / "sif.json").read_text().replace("0.01", "0.02"))
    with pytest.raises(InputError, match="sif.json"):
        ctx_jax.load_sif(tmp_path / "sif.json")
    lengths = np.linalg.norm(fitted.encode_array(texts, pooling="sif", normalize=True), axis=1)
    close(lengths, [1, 0, 1])
    for wrong in ({"layers": "all"}, {"length": 3}, {"level": "words"}, {"long": "error"}):
        with pytest.raises(InputError, match="sif"):
            fitted.encode(texts, **{"level": "sentence", "pooling": "sif"} | wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fit_sif"):
        encoder.encode(texts, level="sentence", pooling="sif")
    with pytest.raises(InputError, match="corpus"):
        encoder.fit_sif([])
    with pytest.raises(InputTypeError, match="list"):
        encoder.fit_sif("the cat")
    with pytest.raises(InputTypeError, match="sentence 1"):
        list(fitted.encode([["a"], [3]], level="sentence", pooling="sif"))
