"""Optimizers act on each layer and by name: masks, rates by depth, averages; and scanning changes none of it."""

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.elmo.model import init as init_bilm
from ctx_jax.encoders.transformer.model import Transformer, init
from ctx_jax.training.optimizer import (
    Adagrad,
    AdamW,
    Lamb,
    Muon,
    Recipe,
    apply_gradients,
    averaged,
    check_recipe,
    decayed,
    depth_rates,
    named,
    optimizer,
    orthogonalized,
    schedule,
)
from ctx_jax.training.step import State, initial_state, make_step, params_to_measure

MODEL = Transformer(
    13, dim=8, layers=3, heads=2, feed_forward=12, max_positions=5, pooler=True, next_sentence=True, tied=False,
    embedding_dropout=0.0, attention_dropout=0.0, attention_output_dropout=0.0, feed_forward_dropout=0.0,
)  # fmt: skip
SHAPES = jax.eval_shape(partial(init, MODEL), jax.random.key(0))
BILM = jax.eval_shape(
    partial(init_bilm, BiLM(9, filters=((1, 2),), character_dim=2, dim=4, projection=2, layers=2, highways=1)),
    jax.random.key(0),
)
MODERN = replace(
    MODEL, layers=2, norm="pre", positions="rotary", gated=True, first_attention_norm=False, token_types=0,
    local_layers=(1,), window=1, pooler=False, next_sentence=False, initial_scale=0.3,
)  # fmt: skip

POST = replace(
    MODEL, layers=2, pooler=False, next_sentence=False, token_types=0, initial_scale=0.3, attention_bias=False,
    embedding_dropout=0.1, attention_dropout=0.2, attention_output_dropout=0.1, feed_forward_dropout=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """Masked LM on batches of random ids."""

    model: Transformer

    @property
    def coefficients(self) -> dict[str, float]:
        return {"masked": 1.0, "accuracy": 0.0}

    def init(self, key: jax.Array) -> dict:
        return init(self.model, key)

    def zero_carry(self, rows: int) -> tuple[()]:
        return ()

    def loss(self, params: dict, batch: dict, carry: Any, key: jax.Array | None) -> tuple[dict, Any]:
        return losses.masked_lm(self.model, params, batch, carry, key=key)


def trained(model: Transformer, recipe: Recipe, steps: int = 5) -> tuple[State, State]:
    """The states before the first step and after the last."""
    random = np.random.default_rng(1)
    step = make_step(Objective(model), recipe, steps, seed=3)
    one = jax.jit(lambda state, batch: step(state, batch, lambda tree: tree))
    state = jax.jit(lambda: initial_state(Objective(model), recipe, steps, 3, 4))()
    first = jax.device_get(state)
    for _ in range(steps):
        ids = random.integers(0, 13, (4, 5), dtype=np.int32)
        batch = {
            "token_ids": ids,
            "predicted_positions": random.integers(0, 5, (4, 2), dtype=np.int32),
            "predicted_ids": random.integers(0, 13, (4, 2), dtype=np.int32),
            "predicted_weights": np.ones((4, 2), np.float32),
        }
        state = one(state, batch)
    return first, jax.device_get(state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, recipe",
    [
        (MODERN, AdamW(learning_rate=0.02, warmup=2, layer_decay=0.5, average=0.9)),
        (MODERN, Lamb(learning_rate=0.02, warmup=2, weight_decay=0.1)),
        (MODERN, Muon(learning_rate=0.02, warmup=2)),
        (MODERN, Adagrad(learning_rate=0.05)),
        (POST, Adagrad(learning_rate=0.05)),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_scanned_layers_train_as_unrolled_ones(model: Transformer, recipe: Recipe) -> None:
    (first, plain), (_, scanned) = (trained(replace(model, scan=scan), recipe) for scan in (False, True))
    for name, value in named(plain.params).items():
        np.testing.assert_allclose(named(scanned.params)[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
        assert np.abs(value - named(first.params)[name]).max() > 1e-4, f"{name} did not move"
    assert plain.totals.bad == -1


def test_norms_and_biases_of_both_models_are_not_decayed() -> None:
    found = named(decayed(SHAPES))
    assert {name for name, acts in found.items() if acts} == {
        "embeddings/tokens", "embeddings/positions", "embeddings/types", "head/dense/kernel", "head/decoder/matrix",
        "pooler/kernel", "next_sentence/kernel",
        *(f"layer_{i}/{part}/kernel" for i in range(3) for part in ("query", "key", "value", "output", "up", "down")),
    }  # fmt: skip
    # By name too: stacked over layers, a norm is an array of two axes.
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), SHAPES)
    assert named(decayed(stacked)) == found
    kept = {name for name, acts in named(decayed(BILM)).items() if not acts}
    assert kept == {name for name, leaf in named(BILM).items() if leaf.ndim == 1}


@pytest.mark.slow
def test_weight_decay_alone_shrinks_what_the_mask_names_and_nothing_else() -> None:
    params = {"layer_0": {"query": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}},
              "embeddings": {"tokens": jnp.ones((3, 2))}}  # fmt: skip
    zeros = jax.tree.map(jnp.zeros_like, params)
    for recipe in (AdamW, Lamb, Muon):
        made = recipe(learning_rate=0.1, schedule="constant", warmup=0, weight_decay=0.5)
        chain = optimizer(made, 4)
        after, _ = jax.jit(lambda p, c=chain: apply_gradients(c, zeros, c.init(p), p))(params)
        shrunk = {name for name, value in named(after).items() if np.all(value < 1)}
        assert shrunk == {"layer_0/query/kernel", "embeddings/tokens"}, recipe.__name__
        np.testing.assert_allclose(after["layer_0"]["norm"]["scale"], 1.0)


def test_lamb_steps_are_as_long_as_the_arrays_layer_by_layer() -> None:
    params = {f"layer_{i}": {"up": {"kernel": jnp.full((2, 2), 10.0**i)}} for i in range(3)}
    made = Lamb(learning_rate=0.1, schedule="constant", warmup=0, weight_decay=0.0, clip_norm=0.0)
    chain = optimizer(made, 4)
    after, _ = jax.jit(lambda p: apply_gradients(chain, jax.tree.map(jnp.ones_like, p), chain.init(p), p))(params)
    for before, now in zip(named(params).values(), named(after).values(), strict=True):
        np.testing.assert_allclose(now, 0.9 * before, rtol=1e-4)


def test_muon_moves_the_layers_matrices_orthogonally_and_the_rest_as_adamw() -> None:
    labels = named(orthogonalized(SHAPES))
    assert {name.split("/", 1)[1] for name, label in labels.items() if label == "muon"} == {
        f"{part}/kernel" for part in ("query", "key", "value", "output", "up", "down")
    }
    assert not any(label == "muon" for name, label in labels.items() if not name.startswith("layer_"))
    random = np.random.default_rng(0)
    params = {"layer_0": {"up": {"kernel": jnp.zeros((4, 6))}}, "embeddings": {"tokens": jnp.zeros((5, 4))}}
    slopes = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), jnp.float32), params)
    made = Muon(learning_rate=0.1, schedule="constant", warmup=0, clip_norm=0.0)
    chain = optimizer(made, 4)
    after, _ = jax.jit(lambda p: apply_gradients(chain, slopes, chain.init(p), p))(params)
    words = {name for name, label in named(orthogonalized(BILM)).items() if label == "muon"}
    assert words == {f"{way}_{i}/{part}" for way in ("forward", "backward") for i in (0, 1)
                     for part in ("kernel", "projection")}  # fmt: skip
    singular = np.linalg.svd(after["layer_0"]["up"]["kernel"], compute_uv=False)
    # Newton-Schulz in five steps brings every singular value near 1; the scale is 0.2 sqrt(6) times the rate.
    np.testing.assert_allclose(singular / (0.1 * 0.2 * np.sqrt(6)), 1.0, atol=0.35)
    np.testing.assert_allclose(after["embeddings"]["tokens"], -0.1 * np.sign(slopes["embeddings"]["tokens"]), rtol=1e-3)


@pytest.mark.slow
def test_layers_learn_at_rates_by_depth() -> None:
    rates = named(depth_rates(SHAPES, 0.5))
    assert rates["embeddings/tokens"] == rates["embeddings/norm/bias"] == 0.5**4
    assert [rates[f"layer_{i}/up/kernel"] for i in range(3)] == [0.5**3, 0.5**2, 0.5]
    assert rates["pooler/kernel"] == rates["head/decoder/matrix"] == rates["head/norm/scale"] == 1.0
    words = {name: np.log2(rate) for name, rate in named(depth_rates(BILM, 0.5)).items()}
    depths = {"forward_0": -2, "backward_0": -2, "forward_1": -1, "backward_1": -1, "softmax": 0}
    assert {name: depths.get(name.split("/")[0], -3) for name in words} == words
    params = jax.jit(partial(init, MODEL))(jax.random.key(0))
    for recipe in (AdamW(clip_norm=0.0), Muon(clip_norm=0.0)):
        steps = []
        for decay in (1.0, 0.5):
            chain = optimizer(replace(recipe, layer_decay=decay, schedule="constant", warmup=0), 4)
            ones = jax.tree.map(jnp.ones_like, params)
            after, _ = jax.jit(lambda p, c=chain, g=ones: apply_gradients(c, g, c.init(p), p))(params)
            steps.append(named(jax.tree.map(lambda new, old: np.asarray(new, np.float64) - old, after, params)))
        for name, rate in rates.items():
            np.testing.assert_allclose(steps[1][name], rate * steps[0][name], atol=2e-7, err_msg=name)


def test_the_average_forgets_the_first_parameters_and_follows_the_rest() -> None:
    recipe, average = AdamW(average=0.5), {"a": jnp.array(8.0)}
    seen = []
    for step, value in enumerate((4.0, 2.0, 1.0)):
        average = averaged(recipe, average, {"a": jnp.array(value)}, jnp.int32(step))
        seen.append(float(average["a"]))
    expected, now = [], 8.0
    for decay, value in ((1 / 10, 4.0), (2 / 11, 2.0), (3 / 12, 1.0)):
        now = decay * now + (1 - decay) * value
        expected.append(now)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    late = averaged(recipe, {"a": jnp.array(2.0)}, {"a": jnp.array(4.0)}, jnp.int32(1000))
    np.testing.assert_allclose(late["a"], 3.0)


@pytest.mark.slow
def test_evaluation_sees_the_average_where_there_is_one() -> None:
    first, state = trained(replace(MODEL, layers=1), AdamW(learning_rate=0.1, warmup=1, average=0.9), 2)
    assert params_to_measure(state) is state.average and params_to_measure(state._replace(average=())) is state.params
    kernel = "layer_0/up/kernel"
    start, now, mean = (named(tree)[kernel] for tree in (first.params, state.params, state.average))
    assert np.abs(now - start).max() > 1e-3 and np.abs(mean - now).max() > 1e-5


@pytest.mark.parametrize(
    "shape, final, expected",
    [
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("linear", 0.2, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("trapezoid", 0.0, [1.0, 1.0, 1.0, 0.5, 0.0]),
        ("trapezoid", 0.2, [1.0, 1.0, 1.0, 0.6, 0.2]),
        ("constant", 0.2, [1.0] * 5),
        ("cosine", 0.0, [1.0, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0.0]),
    ],
)
def test_schedules_after_their_warmup(shape: Any, final: float, expected: list[float]) -> None:
    rate = schedule(AdamW(learning_rate=1.0, schedule=shape, warmup=2, cooldown=4 / 10, final=final), 10)
    np.testing.assert_allclose([rate(step) for step in (0, 1)], [0.5, 1.0])
    np.testing.assert_allclose([rate(step) for step in (2, 4, 6, 8, 10)], expected, atol=1e-6)
    assert float(rate(11)) == pytest.approx(expected[-1], abs=1e-6)


NUMBERS = [
    (recipe, field.name)
    for recipe in (AdamW(), Lamb(), Muon(), Adagrad())
    for field in fields(recipe)
    if isinstance(field.default, int | float)
]


@pytest.mark.parametrize(
    "recipe, field, value",
    [
        *((recipe, field, value) for recipe, field in NUMBERS for value in (-1.0, math.nan, math.inf)),
        *((recipe, field, 1.0) for recipe, field in NUMBERS if field in ("beta1", "beta2", "momentum")),
        *((recipe, field, 0.0) for recipe, field in NUMBERS if field in ("epsilon", "loss_scale")),
    ],
)
def test_every_number_out_of_range_is_refused_by_flag(recipe: Recipe, field: str, value: float) -> None:
    check_recipe(recipe)
    with pytest.raises(ValueError, match=rf"^--optimizer\.{field.replace('_', '-')} must be .*, not {value}$"):
        check_recipe(replace(recipe, **{field: value}))
