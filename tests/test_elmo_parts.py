"""A biLM over one long sentence in parts gives the layers of the whole sentence, and holds one part at a time."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from test_families import BILM, CASES, GRU_BILM

import ctx_jax
from ctx_jax.encoders.base import RunsInParts
from ctx_jax.encoders.elmo import BiLM, parts

MODEL = replace(BILM, depth=2)
PARAMS = MODEL.init(jax.random.key(0))
WORDS = [f"{'ab' * (number % 3)}{number % 7}" for number in range(30)]
LAYERS = jax.jit(BiLM.layers, static_argnums=0)


def every_layer(values: jax.Array) -> jax.Array:
    return values


def last_layer(values: jax.Array) -> jax.Array:
    return values[-1]


def mixed(mixing: Any, values: jax.Array) -> jax.Array:
    return ctx_jax.mix(values, mixing)


def same(found: np.ndarray, expected: Any) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("part", [4, 7, 64])
def test_parts_are_the_whole_sentence(part: int) -> None:
    assert isinstance(MODEL, RunsInParts)
    processor = MODEL.inputs()
    cached = MODEL.with_word_cache(PARAMS, processor)
    for count in (30, 26, 1, 0):  # with its markers, the sentence of 26 is a multiple of 4 and of 7
        inputs = processor.pad([WORDS[:count]], 1, 30)
        whole = np.asarray(LAYERS(MODEL, PARAMS, inputs).values)[:, 0]  # [L, T, D]
        same(MODEL.layers_in_parts(PARAMS, inputs, part, every_layer), whole)
        same(MODEL.layers_in_parts(PARAMS, cached.pad([WORDS[:count]], 1, 30), part, every_layer), whole)
    nothing = processor.pad([], 1, 30)
    assert not MODEL.layers_in_parts(PARAMS, nothing, part, every_layer).any()


@pytest.mark.parametrize("name", ["bilm_words", "bilm_gru"])
def test_word_tables_and_other_cells_run_in_parts(name: str) -> None:
    case = CASES[name]
    inputs = case.processor.pad([["the", "cat", "sat", "here"] * 4], 1, 18)
    whole = np.asarray(LAYERS(case.model, case.params, inputs).values)[:, 0]
    same(case.model.layers_in_parts(case.params, inputs, 7, every_layer), whole)


def test_layers_are_chosen_before_they_leave_the_device() -> None:
    inputs = MODEL.inputs().pad([WORDS], 1, 30)
    whole = jnp.asarray(LAYERS(MODEL, PARAMS, inputs).values)
    same(MODEL.layers_in_parts(PARAMS, inputs, 7, last_layer), whole[-1, 0])
    before = parts._run_part._cache_size()
    for gamma in (1.0, 2.0):
        mixing = {"weights": jnp.array([0.1, 0.7, -0.3]), "gamma": jnp.float32(gamma)}
        found = MODEL.layers_in_parts(PARAMS, inputs, 7, Partial(mixed, mixing))
        same(found, ctx_jax.mix(whole, mixing)[0])
    assert parts._run_part._cache_size() == before + 1  # neither another mix nor the other direction compiles again


def test_no_array_of_the_device_grows_with_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 words, the device sees parts of 16."""
    model, run, encode = replace(GRU_BILM, cell="lstm"), parts._run_part, parts._vectors_of_part
    params, sizes, live = model.init(jax.random.key(0)), [], []

    def watched(function: Any, *given: Any) -> Any:
        sizes.extend(leaf.size for leaf in jax.tree.leaves(given[2:]))
        found = function(*given)
        sizes.extend(leaf.size for leaf in jax.tree.leaves(found))
        live.append(len(jax.live_arrays()))
        return found

    monkeypatch.setattr(parts, "_run_part", lambda *given: watched(run, *given))
    monkeypatch.setattr(parts, "_vectors_of_part", lambda *given: watched(encode, *given))
    inputs = CASES["bilm_words"].processor.pad([["the", "cat", "here", "dogs"] * 500], 1, 2_000)
    compiled = run._cache_size(), encode._cache_size()
    found = model.layers_in_parts(params, inputs, 16, every_layer)
    assert found.shape == (model.num_layers, 2_000, model.width) and np.isfinite(found).all()
    assert (run._cache_size(), encode._cache_size()) == (compiled[0] + 1, compiled[1] + 1)
    assert len(live) == 3 * 126 and max(sizes) <= model.num_layers * 16 * model.width  # 2,002 tokens, three times
    assert max(live[2:]) <= live[1] + 20  # results do not pile up


@pytest.mark.slow
def test_what_cannot_run_in_parts_is_named() -> None:
    processor = MODEL.inputs()
    one, two = processor.pad([WORDS], 1, 30), processor.pad([WORDS, WORDS], 2, 30)
    for inputs, part, select, message in (
        (two, 8, every_layer, "2 rows"),
        (one, 1, every_layer, "got 1"),
        ({"token_ids": np.zeros((1, 4), np.int32)}, 8, every_layer, "char_ids"),
        (one, 8, lambda values: values[..., 0], "last three axes"),
    ):
        with pytest.raises(ValueError, match=message):
            MODEL.layers_in_parts(PARAMS, inputs, part, select)
