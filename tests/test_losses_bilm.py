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

import ctx_jax
from ctx_jax.encoders.elmo import allennlp
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.training.optimizer import Adagrad, apply_gradients, optimizer

STEPS = 12
LOSS = jax.jit(ctx_jax.losses.bilm, static_argnums=0)


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
    model = allennlp.model_from_options(options)
    recipe = Adagrad(loss_scale=float(options["unroll_steps"]), clip_norm=options["all_clip_norm_val"])
    chain = optimizer(recipe, STEPS)

    @jax.jit
    def gradients(params: Any, batch: Any, carry: Any) -> Any:
        def loss(params: Any) -> Any:
            terms, left = ctx_jax.losses.bilm(model, params, batch, carry)
            mean = sum(0.5 * total / weight for total, weight in terms.values())
            return recipe.loss_scale * mean, (terms, left)

        return jax.grad(loss, has_aux=True)(params)

    with h5py.File(folder / "trace.hdf5") as trace:
        params = allennlp.params_from_arrays(model, arrays(trace["params_init"]))
        moments, carry = chain.init(params), bilm.zero_carry(model, 3)
        for number in range(STEPS):
            step = trace[f"step{number}"]
            slopes, (terms, carry) = gradients(params, batch_of(step), carry)
            for name, short in (("forward", "fwd"), ("backward", "bwd")):
                close(terms[name][0] / terms[name][1], step[f"loss_{short}"][()])
                for layer, state in enumerate(carry[name]):
                    for part in "ch":
                        close(state[part], step[f"state_after/{short}/{layer}/{part}"][:])
            close(optax.tree.norm(slopes), step["global_grad_norm_preclip"][()])
            if number == 0:
                for name, want in arrays(trace["grads_step0_preclip"]).items():
                    close(allennlp.arrays_from_params(model, slopes)[name], want)
            params, moments = apply_gradients(chain, slopes, moments, params)
            if number in (0, STEPS - 1):
                for name, want in arrays(trace[f"params_after_step{number}"]).items():
                    close(allennlp.arrays_from_params(model, params)[name], want)


def tiny(**changes: Any) -> tuple[BiLM, Any, dict[str, np.ndarray]]:
    """A model, its parameters and a window of 4 rows x 5 tokens."""
    model = replace(
        BiLM(vocabulary=30, max_characters=9, character_dim=3, filters=((1, 4), (3, 6)), dim=7, projection=5), **changes
    )
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 30, (4, 5)).astype(np.int32)
    batch = {"next_token_id": ids, "next_token_id_reverse": ids[:, ::-1].copy()}
    if model.inputs == "words":
        batch |= {"token_ids": ids, "token_ids_reverse": ids[:, ::-1].copy()}
    else:
        words = draw.integers(97, 103, (4, 5, 9)).astype(np.int32)
        batch |= {"tokens_characters": words, "tokens_characters_reverse": words[:, ::-1].copy()}
    return model, bilm.init(model, jax.random.key(1)), batch


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "inputs"), [("lstm", "characters"), ("gru", "words")])
def test_dropout_and_start_belong_to_the_row_wherever_it_is(cell: str, inputs: str) -> None:
    """Rows 2 and 3 alone, under their global numbers, give what they give among four."""
    model, params, batch = tiny(cell=cell, inputs=inputs, dropout=0.4, zero_start=0.5)
    carry = jax.tree.map(lambda zeros: zeros + 0.3, bilm.zero_carry(model, 4))
    key = jax.random.key(5)
    _, whole = LOSS(model, params, batch, carry, key=key)
    part = {name: array[2:] for name, array in batch.items()} | {"row": np.array([2, 3], np.int32)}
    _, half = LOSS(model, params, part, jax.tree.map(lambda state: state[2:], carry), key=key)
    jax.tree.map(lambda a, b: close(a[2:], b), whole, half)
    _, plain = LOSS(model, params, batch, carry)
    assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(plain), strict=True))


def test_dropout_is_of_every_layers_input_and_of_the_top_and_scales_what_stays() -> None:
    model, params, batch = tiny(inputs="words", dropout=0.25)
    for name in bilm.DIRECTIONS:  # a second layer that adds nothing: what it gives is what it takes
        params[f"{name}_1"]["projection"] = jnp.zeros_like(params[f"{name}_1"]["projection"])
    vectors = dict.fromkeys(bilm.DIRECTIONS, params["words"]["embedding"][batch["token_ids"]])
    outputs, _ = bilm.streams(model, params, vectors, key=jax.random.key(5))
    masks = []
    for name in bilm.DIRECTIONS:
        for before, after in pairwise(outputs[name]):
            gone = np.asarray(after) == 0
            masks.append(gone.tolist())
            np.testing.assert_allclose(after, np.where(gone, 0, np.asarray(before) / 0.75), rtol=1e-6)
            assert 0.1 < gone[np.asarray(before) != 0].mean() < 0.4
    assert len(masks) == 4 and all(one != other for one, other in combinations(masks, 2))
    still, _ = bilm.streams(model, params, vectors)
    assert np.abs(still["forward"][0] - outputs["forward"][0]).max() > 1e-3, "the first layer's input"


@pytest.mark.slow
def test_weight_zero_is_a_target_less() -> None:
    model, params, batch = tiny(inputs="words", tied_softmax=True)
    weight = np.ones((4, 5), np.float32)
    weight[:, 3:] = 0.0
    weighted, _ = LOSS(model, params, batch | {"weight": weight}, None)
    cut, _ = LOSS(model, params, {name: array[:, :3] for name, array in batch.items()}, None)
    close(weighted["forward"], cut["forward"])
    assert float(weighted["backward"][1]) == 12.0


def test_a_tied_softmax_scores_by_the_word_table() -> None:
    model, params, batch = tiny(inputs="words", tied_softmax=True, layers=1, dim=5, residual=False)
    assert set(params["softmax"]) == {"bias"}
    assert "projection" not in params["forward_0"]  # D = P
    outputs, _ = bilm.streams(
        model, params, dict.fromkeys(bilm.DIRECTIONS, params["words"]["embedding"][batch["token_ids"]])
    )
    logits = outputs["forward"][-1].reshape(20, 5) @ params["words"]["embedding"].T + params["softmax"]["bias"][None]
    nats = -jax.nn.log_softmax(logits)[np.arange(20), batch["next_token_id"].reshape(-1)]
    terms, _ = LOSS(model, params, batch, None)
    close(terms["forward"][0], nats.sum())


@pytest.mark.slow
def test_sampled_softmax_needs_the_key_and_one_set_serves_a_direction() -> None:
    model, params, batch = tiny(inputs="words", negatives=6, dropout=0.0)
    exact, _ = LOSS(model, params, batch, None)
    again, _ = LOSS(replace(model, negatives=0), params, batch, None)
    close(exact["forward"][0], again["forward"][0])
    draws = [LOSS(model, params, batch, None, key=jax.random.key(n))[0]["forward"][0] for n in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    rows = [
        LOSS(model, params, {k: v[n : n + 2] for k, v in batch.items()}, None, key=jax.random.key(1)) for n in (0, 2)
    ]
    close(sum(terms["forward"][0] for terms, _ in rows), draws[0])


def test_what_is_missing_is_named() -> None:
    model, params, batch = tiny()
    with pytest.raises(ValueError, match=r"missing \['tokens_characters_reverse'\]"):
        ctx_jax.losses.bilm(model, params, {k: v for k, v in batch.items() if k != "tokens_characters_reverse"}, None)
    with pytest.raises(ValueError, match="no softmax"):
        ctx_jax.losses.bilm(replace(model, vocabulary=0), params, batch, None)
