"""The Transformer's laws: settings of execution change no number, packed examples do not attend to each other, dropout
belongs to the row."""

from dataclasses import fields, replace
from functools import partial
from math import erf, prod, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from tiny_transformers import BERT, MODERN

from ctx_jax.encoders.transformer import (
    Transformer,
    attention_maps,
    default_positions,
    hidden_states,
    last_hidden,
)
from ctx_jax.encoders.transformer.network import embed_tokens
from ctx_jax.ops.dropout import dropout_mask, fold_seeds, row_seeds

GPT = replace(BERT, causal=True, norm="pre", embedding_norm=False, token_types=0)
ROBERTA = replace(BERT, positions_after_padding=True, pad_id=1, token_types=1)
GEMMA = replace(
    MODERN, norm="both", norm_kind="rms", first_attention_norm=True, kv_heads=1, head_norms=True, scaled_embeddings=True
)
DEBERTA = replace(BERT, relative="disentangled", relative_buckets=2, relative_distance=5, shared_layers=True)
IDS = jnp.array([[2, 5, 9, 4, 7, 3, 8], [2, 6, 3, 11, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])
MASK = jnp.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], bool)


def _params(model: Transformer, init: Any = None) -> dict[str, Any]:
    """Random values everywhere: initial biases and scales are 0 and 1, which hides mistakes."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(init or model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: (random.normal(size=leaf.shape) * 0.4).astype(np.float32), shapes)


def _head_params(model: Transformer) -> Any:
    return _params(model, partial(model.default_head().init, width=model.width, vocabulary=model.vocabulary))


def _hidden(model: Transformer, params: dict[str, Any], ids: Any = IDS, **given: Any) -> np.ndarray:
    return np.asarray(_compiled(model, params, ids, **given))


_compiled = jax.jit(hidden_states, static_argnums=0)


def test_one_post_norm_layer_by_hand() -> None:
    """BERT's equations in a few lines of numpy (Devlin et al. 2019, appendix of Vaswani et al. 2017)."""
    model = replace(BERT, depth=1)
    params = _params(model)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x: np.ndarray, q: dict[str, np.ndarray]) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * q["scale"] + q["bias"]

    def dense(x: np.ndarray, q: dict[str, np.ndarray]) -> np.ndarray:
        return x @ q["kernel"] + q["bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))

    ids, types = np.asarray(IDS[1]), np.array([0, 0, 1, 1, 0, 0, 0])
    e, layer = p["embeddings"], p["layer_0"]
    x = norm(e["tokens"][ids] + e["positions"][:7] + e["types"][types], e["norm"])
    heads = [dense(x, layer[name]).reshape(7, 2, 4) for name in ("query", "key", "value")]
    logits = np.einsum("ihe,jhe->hij", *heads[:2]) / 2
    logits[:, :, 4:] = -np.inf
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = norm(
        x + dense(np.einsum("hij,jhe->ihe", weights, heads[2]).reshape(7, 8), layer["output"]), layer["attention_norm"]
    )
    y = norm(y + dense(gelu(dense(y, layer["up"])), layer["down"]), layer["feed_forward_norm"])
    head, vocabulary_head = _head_params(BERT), BERT.default_head()
    scores = norm(gelu(dense(y, head["dense"])), head["norm"]) @ e["tokens"].T + head["decoder"]["bias"]

    given = {"mask": MASK[1:2], "token_types": jnp.asarray(types[None])}
    hidden = _hidden(model, params, IDS[1:2], **given)
    np.testing.assert_allclose(hidden[:, 0], np.stack([x, y]), atol=2e-5)
    logits = jax.jit(vocabulary_head.logits)(head, hidden[-1, 0], params["embeddings"]["tokens"])
    np.testing.assert_allclose(logits, scores, atol=5e-5)
    maps = jax.jit(partial(attention_maps, model))(params, IDS[1:2], **given)
    np.testing.assert_allclose(maps[0, 0], weights, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, scan",
    [(BERT, False), (MODERN, True), (GEMMA, True), (DEBERTA, True)],
    ids=["bert", "modern", "gemma", "deberta"],
)
def test_scan_and_remat_change_nothing(model: Transformer, scan: bool) -> None:
    """Scanned alone: tests/test_optimizers.py."""
    params = _params(model)

    @partial(jax.jit, static_argnums=0)
    def everything(model: Transformer, params: dict[str, Any]) -> Any:
        given = {"mask": MASK, "key": jax.random.key(3), "rows": jnp.array([4, 9, 2])}

        def loss(params: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
            hidden = hidden_states(model, params, IDS, **given)
            return jnp.square(hidden[:, :2] - 0.5).sum(), hidden

        (_, hidden), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        last = last_hidden(model, params, IDS, **given)
        return hidden, last, attention_maps(model, params, IDS, mask=MASK), gradient

    plain = everything(model, params)
    np.testing.assert_allclose(plain[1], plain[0][-1], atol=1e-6)
    other = everything(replace(model, remat=True, scan=scan), params)
    assert jax.tree.structure(other) == jax.tree.structure(plain)
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("model", [BERT, MODERN, GPT, ROBERTA], ids=["bert", "modern", "gpt", "roberta"])
def test_packed_examples_do_not_attend_to_each_other(model: Transformer) -> None:
    #                 a  a  a  b  b  b  b  c  c  padding
    ids = jnp.array([[2, 5, 9, 4, 7, 3, 8, 2, 6, model.pad_id]])
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 3, 3, 0]])
    params = _params(model)
    packed = _hidden(model, params, ids, segments=segments)
    changed = _hidden(model, params, ids.at[0, 3:7].set(jnp.array([11, 12, 13, 14])), segments=segments)
    others = np.array([0, 1, 2, 7, 8])
    np.testing.assert_array_equal(changed[:, 0, others], packed[:, 0, others])
    assert np.abs(changed - packed)[:, 0, 3:7].min(axis=-1).max() > 1e-3
    alone = _hidden(model, params, ids[:, 3:7])
    np.testing.assert_allclose(packed[:, :, 3:7], alone, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", [BERT, MODERN, GPT], ids=["bert", "modern", "gpt"])
def test_padding_changes_nothing_and_stays_finite(model: Transformer) -> None:
    params = _params(model)
    padded = _hidden(model, params, mask=MASK)
    assert np.isfinite(padded).all()
    np.testing.assert_array_equal(_hidden(model, params, IDS.at[1, 4:].set(19), mask=MASK)[:, 1, :4], padded[:, 1, :4])
    np.testing.assert_allclose(_hidden(model, params, IDS[1:2, :4]), padded[:, 1:2, :4], atol=2e-6)
    np.testing.assert_array_equal(_hidden(model, params, lengths=MASK.sum(1)), padded)
    scanned = replace(model, scan=True)
    np.testing.assert_allclose(_hidden(scanned, params, lengths=MASK.sum(1)), padded, atol=2e-5)
    loss = jax.jit(jax.grad(lambda params: last_hidden(model, params, IDS[2:], mask=MASK[2:]).sum()))
    gradient = loss(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_causal_model_attends_to_no_later_token_and_a_local_layer_to_no_far_one() -> None:
    params = _params(GPT)
    before, after = _hidden(GPT, params), _hidden(GPT, params, IDS.at[0, 4].set(1))
    np.testing.assert_array_equal(before[:, 0, :4], after[:, 0, :4])
    assert np.abs(before - after)[-1, 0, 4:].max(-1).min() > 1e-4
    model = replace(MODERN, local_layers=(0, 1), window=1)
    maps = np.asarray(jax.jit(partial(attention_maps, model))(_params(model), IDS[:1]))[:, 0]
    far = np.abs(np.arange(7)[:, None] - np.arange(7)) > 1
    assert (maps[:, :, far] == 0).all() and (maps[:, :, ~far] > 0).all()


@pytest.mark.slow
def test_dropout_belongs_to_the_row_and_not_to_its_index() -> None:
    model, rows = replace(BERT, depth=1), jnp.array([7, 3, 5])
    run = partial(_hidden, model, _params(model), key=jax.random.key(1))
    one = run(IDS, rows=rows)
    np.testing.assert_allclose(run(IDS[::-1], rows=rows[::-1])[:, ::-1], one, atol=1e-6)
    assert np.abs(one - run(IDS, rows=rows + 1)).max() > 0.1
    np.testing.assert_array_equal(run(IDS), run(IDS, rows=jnp.arange(3)))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["embedding", "attention", "attention_output", "feed_forward_inner", "feed_forward"])
def test_each_rate_drops_at_its_place_and_scales_the_rest(place: str) -> None:
    """Of pre-norm layers, whose other half is silenced and where what stands behind the place lets all through."""
    names = {field.name for field in fields(GPT) if field.name.endswith("_dropout")}
    plain = replace(GPT, causal=False, depth=3, feed_forward=8, **dict.fromkeys(names, 0.0))  # type: ignore[arg-type]
    dropping = replace(plain, **{f"{place}_dropout": 0.25})  # type: ignore[arg-type]
    params, through = _params(plain), {"kernel": np.eye(8, dtype=np.float32), "bias": np.zeros(8, np.float32)}
    for name in ("layer_0", "layer_1", "layer_2"):
        silent = "down" if place.startswith("attention") else "output"
        params[name][silent] = jax.tree.map(np.zeros_like, params[name][silent])
        if place in ("attention", "feed_forward_inner"):
            params[name]["output" if place == "attention" else "down"] = through
    alone = jnp.broadcast_to(jnp.arange(7)[None], IDS.shape)  # every token attends to itself alone
    with_key = _hidden(dropping, params, segments=alone, key=jax.random.key(1))
    without = _hidden(plain, params, segments=alone)
    if place != "embedding":
        with_key, without = np.diff(with_key[:3], axis=0), np.diff(without[:3], axis=0)
    gone = with_key[0] == 0
    assert 0.05 < gone.mean() < 0.5
    np.testing.assert_allclose(with_key[0], np.where(gone, 0, without[0] / 0.75), atol=2e-6)
    assert place == "embedding" or ((with_key[1] == 0) != gone).any(), "another layer, other places"


def test_dropout_keeps_its_share_and_nothing_correlates() -> None:
    """The shares, and the correlation between rows, places and neighbours, lie within four standard errors."""
    seeds = row_seeds(jax.random.key(0), jnp.arange(3))
    draw = jax.jit(dropout_mask, static_argnums=(1, 2, 3))
    both = [draw(fold_seeds(seeds, layer), layer, 0.25, (100, 300)) for layer in (1, 2)]
    kept = np.concatenate(both).astype(np.float64) - 0.75
    deviation = np.sqrt(0.75 * 0.25)
    assert np.abs(kept.mean((1, 2))).max() < 4 * deviation / np.sqrt(30_000)
    rows = np.corrcoef(kept.reshape(6, -1)) - np.eye(6)
    assert np.abs(rows).max() < 4 / np.sqrt(30_000)
    for shift in (1, 2, 300, 512):
        flat = kept.reshape(6, -1)
        product = (flat[:, shift:] * flat[:, :-shift]).mean() / deviation**2
        assert abs(product) < 4 / np.sqrt(180_000)


def test_roberta_positions_follow_pad_ids_and_restart_in_segments() -> None:
    ids = jnp.array([[0, 5, 6, 2, 1, 1]])
    assert default_positions(ROBERTA, ids).tolist() == [[2, 3, 4, 5, 1, 1]]
    assert default_positions(BERT, ids).tolist() == [[0, 1, 2, 3, 4, 5]]
    #                      a  a  b  b  b  padding
    segments = jnp.array([[1, 1, 2, 2, 2, 0]])
    assert default_positions(BERT, ids, segments).tolist() == [[0, 1, 0, 1, 2, 0]]
    assert default_positions(ROBERTA, ids, segments).tolist() == [[2, 3, 2, 3, 1, 1]]
    assert ROBERTA.longest == 14 and BERT.longest == 16


@pytest.mark.slow
def test_bfloat16_is_near_and_trains_on_this_machine() -> None:
    model = replace(BERT, depth=1)
    params, low = _params(model), replace(model, compute="bfloat16")
    exact, near = _hidden(model, params, mask=MASK), _hidden(low, params, mask=MASK)
    assert near.dtype == np.float32 and 0 < np.abs(near - exact)[:, :2].max() < 0.1
    loss = jax.jit(jax.grad(lambda model, params: last_hidden(model, params, IDS).std(), 1), static_argnums=0)
    for ours, theirs in zip(jax.tree.leaves(loss(low, params)), jax.tree.leaves(loss(model, params)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-2)


@pytest.mark.parametrize("model", [BERT, MODERN], ids=["bert", "modern"])
def test_flops_are_those_of_the_program(model: Transformer) -> None:
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    total = _flops(jax.make_jaxpr(partial(last_hidden, model))(shapes, IDS).jaxpr)
    assert total == model.flops_per_token(IDS.shape[1]) * IDS.size


def _flops(jaxpr: Any) -> int:
    """Of every matrix product of a program, those of the functions that it calls included."""
    total = sum(_flops(inner) for eqn in jaxpr.eqns for inner in jaxprs_in_params(eqn.params))
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left, result = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
            total += 2 * prod(result) * prod(left[axis] for axis in contracted)
    return total


@pytest.mark.parametrize("name, rows", [("token_ids", 20), ("positions", 16), ("token_types", 2)])
def test_what_is_outside_its_table_gives_nan_and_nothing_else_does(name: str, rows: int) -> None:
    zeros = dict.fromkeys(("token_ids", "positions", "token_types"), jnp.zeros((1, 5), jnp.int32))
    given = zeros | {name: jnp.array([[-rows, -1, 0, rows - 1, rows]])}
    values = embed_tokens(BERT, _params(BERT)["embeddings"], **given, seeds=None)
    assert np.isnan(values).all(2).tolist() == [[True, True, False, False, True]]
    assert np.isfinite(values[0, 2:4]).all()


def test_inputs_that_do_not_fit_are_refused() -> None:
    params = _params(BERT)
    with pytest.raises(ValueError, match=r"at most 16 tokens, these have 17.*max_positions"):
        hidden_states(BERT, params, jnp.zeros((1, 17), jnp.int32))
    with pytest.raises(ValueError, match="token_types"):
        hidden_states(MODERN, _params(MODERN), IDS, token_types=IDS)


NUMBERS = [field.name for field in fields(BERT) if type(field.default) in (int, float)]
