"""The biLM's loss against the original's training trace, and its own laws."""

import json
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctx_jax import losses
from ctx_jax.data.batch import BiLMBatch
from ctx_jax.encoders.elmo import BiLM, arrays_from_params, model_from_options, params_from_arrays, zero_carry
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.encoders.elmo.network import DIRECTIONS, run_directions
from ctx_jax.training.optimizer import Adagrad, apply_gradients, optimizer

STEPS = 12
LOSS = jax.jit(losses.bilm, static_argnums=0, static_argnames=("negatives", "zero_start"))
TOKENS = jax.jit(losses.bilm_tokens, static_argnums=0)
OUTPUTS = jax.jit(run_directions, static_argnums=0)


def arrays(group: h5py.Group) -> dict[str, np.ndarray]:
    """Every dataset of a group by its path below it."""
    found: dict[str, np.ndarray] = {}
    group.visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    return found


def batch_of(step: h5py.Group) -> dict[str, np.ndarray]:
    names = ("tokens_characters", "tokens_characters_reverse", "next_token_id", "next_token_id_reverse")
    return {name: step[name][:].astype(np.int32) for name in names}


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_training_follows_the_original_step_by_step(golden: Path) -> None:
    """Losses, gradient norms, states, the first gradients, parameters after the first and the last step."""
    folder = golden / "train_char_skip"
    options = json.loads((folder / "options.json").read_text())
    model = model_from_options(options)
    config = Adagrad(loss_scale=float(options["unroll_steps"]), clip_norm=options["all_clip_norm_val"])
    chain = optimizer(config, STEPS)

    @jax.jit
    def gradients(params: Any, batch: Any, carry: Any) -> Any:
        def loss(params: Any) -> Any:
            terms, new_carry = losses.bilm(model, params, batch, carry)
            mean = sum(0.5 * total / weight for total, weight in terms.values())
            return config.loss_scale * mean, (terms, new_carry)

        gradient, (terms, new_carry) = jax.grad(loss, has_aux=True)(params)
        return gradient, optax.tree.norm(gradient), terms, new_carry

    @jax.jit
    def update(gradient: Any, moments: Any, params: Any) -> Any:
        return apply_gradients(chain, gradient, moments, params)

    with h5py.File(folder / "trace.hdf5") as trace:
        params = params_from_arrays(model, arrays(trace["params_init"]))
        moments, carry = chain.init(params), zero_carry(model, 3)
        for number in range(STEPS):
            step = trace[f"step{number}"]
            gradient, norm, terms, carry = gradients(params, batch_of(step), carry)
            for name, short in (("forward", "fwd"), ("backward", "bwd")):
                close(terms[name][0] / terms[name][1], step[f"loss_{short}"][()])
                for layer, state in enumerate(carry[name]):
                    for part in "ch":
                        close(state[part], step[f"state_after/{short}/{layer}/{part}"][:])
            close(norm, step["global_grad_norm_preclip"][()])
            if number == 0:
                for name, want in arrays(trace["grads_step0_preclip"]).items():
                    close(arrays_from_params(model, gradient)[name], want)
            params, moments = update(gradient, moments, params)
            if number in (0, STEPS - 1):
                for name, want in arrays(trace[f"params_after_step{number}"]).items():
                    close(arrays_from_params(model, params)[name], want)


def tiny(*, tied: bool = False, **changes: Any) -> tuple[BiLM, Any, BiLMBatch]:
    """A model, its parameters with a softmax of 30 words, and a batch of 4 rows x 5 tokens."""
    model = replace(BiLM(max_characters=9, character_dim=3, filters=((1, 4), (3, 6)), dim=7, projection=5), **changes)
    random = np.random.default_rng(0)
    inputs = ids = random.integers(0, 30, (4, 5)).astype(np.int32)
    if model.token_input == "words":
        model = replace(model, vocabulary=30)
    else:
        inputs = random.integers(98, 104, (4, 5, 9)).astype(np.int32)
    softmax = init_softmax(model, jax.random.key(2), vocabulary=30, tied=tied)
    params = {"encoder": dict(model.init(jax.random.key(1))), "head": {"softmax": softmax}}
    return model, params, BiLMBatch(inputs, inputs[:, ::-1].copy(), ids, ids[:, ::-1].copy())


def part(batch: BiLMBatch, rows: slice, steps: slice = slice(None)) -> BiLMBatch:
    """Some rows and steps of a batch."""
    return BiLMBatch(*(array[rows, steps] for array in batch[:4]))


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "token_input"), [("lstm", "characters"), ("gru", "words")])
def test_dropout_and_zero_start_depend_on_the_global_row(cell: str, token_input: str) -> None:
    """Rows 2 and 3 alone, under their global numbers, give what they give among four."""
    model, params, batch = tiny(cell=cell, token_input=token_input, dropout=0.4)
    carry = jax.tree.map(lambda zeros: zeros + 0.3, zero_carry(model, 4))
    key = jax.random.key(5)
    _, whole = LOSS(model, params, batch, carry, key=key, zero_start=0.5)
    rows = part(batch, slice(2, 4))._replace(rows=np.array([2, 3], np.int32))
    _, half = LOSS(model, params, rows, jax.tree.map(lambda state: state[2:], carry), key=key, zero_start=0.5)
    jax.tree.map(lambda a, b: close(a[2:], b), whole, half)
    _, plain = LOSS(model, params, batch, carry)
    assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(plain), strict=True))


@pytest.mark.slow
def test_dropout_applies_to_every_layers_input_and_to_the_top_and_scales_the_rest() -> None:
    model, params, batch = tiny(token_input="words", dropout=0.25)
    encoder = params["encoder"]
    for name in DIRECTIONS:  # a second layer that adds nothing: its output is its input
        encoder[f"{name}_1"]["projection"] = jnp.zeros_like(encoder[f"{name}_1"]["projection"])
    vectors = dict.fromkeys(DIRECTIONS, encoder["words"]["embedding"][batch.forward_inputs])
    outputs, _ = OUTPUTS(model, encoder, vectors, key=jax.random.key(5))
    masks = []
    for name in DIRECTIONS:
        for before, after in pairwise(outputs[name]):
            dropped = np.asarray(after) == 0
            masks.append(dropped.tolist())
            np.testing.assert_allclose(after, np.where(dropped, 0, np.asarray(before) / 0.75), rtol=1e-6)
            assert 0.1 < dropped[np.asarray(before) != 0].mean() < 0.4
    assert len(masks) == 4 and all(one != other for one, other in combinations(masks, 2))
    without, _ = OUTPUTS(model, encoder, vectors)
    assert np.abs(without["forward"][0] - outputs["forward"][0]).max() > 1e-3, "the first layer's input"


@pytest.mark.slow
def test_targets_of_weight_zero_do_not_count() -> None:
    model, params, batch = tiny(token_input="words", tied=True)
    weight = np.ones((4, 5), np.float32)
    weight[:, 3:] = 0.0
    weighted, _ = LOSS(model, params, batch._replace(weights=weight), None)
    cut, _ = LOSS(model, params, part(batch, slice(None), slice(3)), None)
    close(weighted["forward"], cut["forward"])
    assert float(weighted["backward"][1]) == 12.0


@pytest.mark.slow
def test_a_tied_softmax_scores_by_the_word_table() -> None:
    model, params, batch = tiny(token_input="words", tied=True, depth=1, dim=5, residual=False)
    encoder, table = params["encoder"], params["encoder"]["words"]["embedding"]
    bias = params["head"]["softmax"]["decoder"]["bias"] = jnp.linspace(-1.0, 1.0, 30)
    assert "projection" not in encoder["forward_0"]  # D = P
    outputs, _ = OUTPUTS(model, encoder, dict.fromkeys(DIRECTIONS, table[batch.forward_inputs]))
    logits = outputs["forward"][-1].reshape(20, 5) @ table.T + bias[None]
    nats = -jax.nn.log_softmax(logits)[np.arange(20), batch.forward_targets.reshape(-1)]
    terms, _ = LOSS(model, params, batch, None)
    close(terms["forward"][0], nats.sum())


@pytest.mark.slow
def test_sampled_softmax_needs_the_key_and_one_set_serves_a_direction() -> None:
    model, params, batch = tiny(token_input="words", dropout=0.0)
    exact, _ = LOSS(model, params, batch, None, negatives=6)
    again, _ = LOSS(model, params, batch, None)
    close(exact["forward"][0], again["forward"][0])

    def sampled(batch: BiLMBatch, seed: int) -> Any:
        return LOSS(model, params, batch, None, key=jax.random.key(seed), negatives=6)[0]["forward"][0]

    draws = [sampled(batch, seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    close(sum(sampled(part(batch, slice(n, n + 2)), 1) for n in (0, 2)), draws[0])


@pytest.mark.slow
@pytest.mark.parametrize("token_input", ["characters", "words"])
def test_a_mapping_with_the_originals_names_is_the_same_batch(token_input: str) -> None:
    """Its character ids are raw: one lower than char_ids."""
    model, params, batch = tiny(token_input=token_input)
    weight = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    stem, offset = ("tokens_characters", 1) if token_input == "characters" else ("token_ids", 0)
    mapping = {
        stem: batch.forward_inputs - offset,
        f"{stem}_reverse": batch.backward_inputs - offset,
        "next_token_id": batch.forward_targets,
        "next_token_id_reverse": batch.backward_targets,
        "row": np.array([4, 1, 2, 3], np.int32),
        "weight": weight,
    }
    typed = batch._replace(rows=mapping["row"], weights=weight)
    found, expected = (LOSS(model, params, given, None, key=jax.random.key(0)) for given in (mapping, typed))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    tokens, _ = TOKENS(model, params, mapping, None)
    terms, _ = LOSS(model, params, typed, None)
    for name in DIRECTIONS:
        close((tokens[name] * weight).sum(), terms[name][0])


@pytest.mark.slow
def test_missing_arrays_and_heads_are_named() -> None:
    model, params, batch = tiny()
    mapping = {"tokens_characters": batch.forward_inputs, "next_token_id": batch.forward_targets}
    with pytest.raises(ValueError, match=r"missing \['tokens_characters_reverse', 'next_token_id_reverse'\]"):
        losses.bilm(model, params, mapping, None)
    for without in (params["encoder"], {"encoder": params["encoder"], "head": {}}):
        with pytest.raises(ValueError, match="no softmax"):
            losses.bilm(model, without, batch, None)
