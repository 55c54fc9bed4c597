"""Optimizers act on each layer, also of scanned ones: weight decay, trust ratios, Muon, rates by depth, averages.

Which parameters each of them acts on is listed by name in test_parameter_groups.py.
"""

import math
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctx_jax import losses
from ctx_jax.data.batch import MaskedBatch, TokenRows
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.optimizer import (
    Adagrad,
    AdamW,
    Lamb,
    Muon,
    OptimizerConfig,
    apply_gradients,
    averaged,
    clip_by_global_norm,
    learning_rate_schedule,
    optimizer,
)
from ctx_jax.training.parameter_groups import named, rate_factors
from ctx_jax.training.step import Collectives, State, TrainingStep, params_to_measure
from ctx_jax.typing import Params

HEAD = VocabularyHead(tied=False)
MODEL = Transformer(13, dim=8, depth=2, heads=2, feed_forward=12, max_positions=5, initial_scale=0.3).without_dropout
MODERN = replace(
    MODEL, norm="pre", positions="rotary", gated=True, first_attention_norm=False, token_types=0,
    local_layers=(1,), window=1,
)  # fmt: skip
POST = replace(
    MODEL, token_types=0, attention_bias=False,
    embedding_dropout=0.1, attention_dropout=0.2, attention_output_dropout=0.1, feed_forward_dropout=0.1,
)  # fmt: skip
STEPS = 5


@dataclass(frozen=True)
class MaskedLM:
    """Masked LM on batches of random ids, as far as the step needs a task."""

    model: Transformer

    coefficients = {"masked": 1.0, "accuracy": 0.0}  # noqa: RUF012
    groups = ()
    batch_size = 4

    def init(self, key: jax.Array) -> Params:
        encoder, head = jax.random.split(key)
        sizes: dict[str, Any] = {"width": 8, "vocabulary": 13, "scale": 0.3}
        return {"encoder": self.model.init(encoder), "head": {"masked_lm": HEAD.init(head, **sizes)}}

    def zero_carry(self, rows: int) -> tuple[()]:
        return ()

    def loss(self, params: Params, batch: MaskedBatch, carry: Any, key: jax.Array | None) -> tuple[dict, Any]:
        return losses.masked_lm(self.model, params, batch, carry, head=HEAD, key=key)


@cache
def gradient_function(model: Transformer) -> Any:
    """Compiled once for all optimizers."""
    return jax.jit(partial(TrainingStep(MaskedLM(model), AdamW(), STEPS, 3).gradient_output, collectives=Collectives()))


@cache
def update_function(model: Transformer, config: OptimizerConfig) -> Any:
    """Compiled once for scanned and unrolled layers, whose parameters have the same layout."""
    return jax.jit(TrainingStep(MaskedLM(model), config, STEPS, 3).update)


@cache
def first_state(model: Transformer, config: OptimizerConfig) -> tuple[State, Params]:
    """The same for scanned and unrolled layers: the first state, and frozen parameters."""
    return jax.jit(TrainingStep(MaskedLM(model), config, STEPS, 3).initial)()


@cache
def trained(model: Transformer, config: OptimizerConfig) -> tuple[State, State]:
    """The states before the first step and after the last."""
    random = np.random.default_rng(1)
    step = TrainingStep(MaskedLM(model), config, STEPS, seed=3)
    unrolled = replace(model, scan=False)
    gradients, update = gradient_function(model), update_function(unrolled, config)
    state, frozen = first_state(unrolled, config)
    first = jax.device_get(state)
    for _ in range(STEPS):
        ids = random.integers(0, 13, (4, 5), dtype=np.int32)
        batch = MaskedBatch(
            TokenRows(ids),
            predicted_positions=random.integers(0, 5, (4, 2), dtype=np.int32),
            predicted_ids=random.integers(0, 13, (4, 2), dtype=np.int32),
            predicted_weights=np.ones((4, 2), np.float32),
        )
        state = update(state, gradients(state.params, frozen, batch, state.carry, step.key(state)))
    return first, jax.device_get(state)


WITH_AVERAGE = AdamW(learning_rate=0.02, warmup=2, layer_decay=0.5, average=0.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, config",
    [
        (MODERN, WITH_AVERAGE),
        (MODERN, Lamb(learning_rate=0.02, warmup=2, weight_decay=0.1)),
        (MODERN, Muon(learning_rate=0.02, warmup=2)),
        (MODERN, Adagrad(learning_rate=0.05)),
        (POST, Adagrad(learning_rate=0.05)),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_scanned_layers_train_as_unrolled_ones(model: Transformer, config: OptimizerConfig) -> None:
    (first, plain), (_, scanned) = (trained(replace(model, scan=scan), config) for scan in (False, True))
    for name, value in named(plain.params).items():
        np.testing.assert_allclose(named(scanned.params)[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
        assert np.abs(value - named(first.params)[name]).max() > 1e-4, f"{name} did not move"
    assert plain.totals.bad == -1


@pytest.mark.slow
def test_evaluation_sees_the_average_where_there_is_one() -> None:
    first, state = trained(MODERN, WITH_AVERAGE)
    for before, now, mean, measured, without in zip(
        *map(
            jax.tree.leaves,
            (
                first.params,
                state.params,
                state.average,
                params_to_measure(state, {}),
                params_to_measure(state._replace(average=()), {}),
            ),
        ),
        strict=True,
    ):
        assert measured is mean and without is now
        assert np.abs(now - before).max() > 1e-4 and np.abs(mean - now).max() > 1e-5


def test_weight_decay_alone_shrinks_matrices_and_tables_and_nothing_else() -> None:
    layer = {"query": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "attention_norm": {"scale": jnp.ones(2)}}
    params = {"encoder": {"layer_0": layer, "embeddings": {"tokens": jnp.ones((3, 2))}}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for kind in (AdamW, Lamb, Muon):
        chain = optimizer(kind(learning_rate=0.1, schedule="constant", warmup=0, weight_decay=0.5), 4, model=MODEL)
        after, _ = jax.jit(lambda p, c=chain: apply_gradients(c, zeros, c.init(p), p))(params)
        shrunk = {name for name, value in named(after).items() if np.all(value < 1)}
        assert shrunk == {"encoder/layer_0/query/kernel", "encoder/embeddings/tokens"}, kind.__name__
        np.testing.assert_allclose(after["encoder"]["layer_0"]["attention_norm"]["scale"], 1.0)


def test_lamb_steps_are_as_long_as_the_arrays_layer_by_layer() -> None:
    params = {f"layer_{i}": {"up": {"kernel": jnp.full((2, 2), 10.0**i)}} for i in range(3)}
    config = Lamb(learning_rate=0.1, schedule="constant", warmup=0, weight_decay=0.0, clip_norm=0.0)
    chain = optimizer(config, 4)
    after, _ = jax.jit(lambda p: apply_gradients(chain, jax.tree.map(jnp.ones_like, p), chain.init(p), p))(params)
    for before, now in zip(named(params).values(), named(after).values(), strict=True):
        np.testing.assert_allclose(now, 0.9 * before, rtol=1e-4)


def test_muon_updates_matrices_of_layers_orthogonally_and_the_rest_as_adamw() -> None:
    random = np.random.default_rng(0)
    layer = {"up": {"kernel": jnp.zeros((4, 6))}}
    params = {"encoder": {"layer_0": layer, "embeddings": {"tokens": jnp.zeros((5, 4))}}}
    gradients = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), jnp.float32), params)
    chain = optimizer(Muon(learning_rate=0.1, schedule="constant", warmup=0, clip_norm=0.0), 4, model=MODEL)
    after, _ = jax.jit(lambda p: apply_gradients(chain, gradients, chain.init(p), p))(params)
    after = named(after)
    singular = np.linalg.svd(after["encoder/layer_0/up/kernel"], compute_uv=False)
    # Newton-Schulz in five steps brings every singular value near 1; the scale is 0.2 sqrt(6) times the rate.
    np.testing.assert_allclose(singular / (0.1 * 0.2 * np.sqrt(6)), 1.0, atol=0.35)
    table = "encoder/embeddings/tokens"
    np.testing.assert_allclose(after[table], -0.1 * np.sign(named(gradients)[table]), rtol=1e-3)


@pytest.mark.slow
def test_layers_learn_at_rates_by_depth() -> None:
    params = jax.jit(MaskedLM(MODEL).init)(jax.random.key(0))
    rates = named(rate_factors(params, (), 0.5, MODEL))
    ones = jax.tree.map(jnp.ones_like, params)
    for config in (AdamW(clip_norm=0.0), Muon(clip_norm=0.0)):
        updates = []
        for decay in (1.0, 0.5):
            chain = optimizer(replace(config, layer_decay=decay, schedule="constant", warmup=0), 4, model=MODEL)
            after, _ = jax.jit(lambda p, c=chain: apply_gradients(c, ones, c.init(p), p))(params)
            updates.append(named(jax.tree.map(lambda new, old: np.asarray(new, np.float64) - old, after, params)))
        for name, rate in rates.items():
            np.testing.assert_allclose(updates[1][name], rate * updates[0][name], atol=2e-7, err_msg=name)


def test_what_counts_layers_needs_the_model() -> None:
    with pytest.raises(ConfigError, match="model"):
        optimizer(Muon(), 4)
    chain = optimizer(AdamW(layer_decay=0.5), 4)
    params = {"encoder": {"layer_0": {"kernel": jnp.ones((2, 2))}}}
    with pytest.raises(ConfigError, match="model") as error:
        apply_gradients(chain, params, chain.init(params), params)
    assert error.value.field == "optimizer.layer_decay"


def test_the_average_forgets_the_first_parameters_and_follows_the_rest() -> None:
    config, average = AdamW(average=0.5), {"a": jnp.array(8.0)}
    found = []
    for step, value in enumerate((4.0, 2.0, 1.0)):
        average = averaged(config, average, {"a": jnp.array(value)}, jnp.int32(step))
        found.append(float(average["a"]))
    expected, now = [], 8.0
    for decay, value in ((1 / 10, 4.0), (2 / 11, 2.0), (3 / 12, 1.0)):
        now = decay * now + (1 - decay) * value
        expected.append(now)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    late = averaged(config, {"a": jnp.array(2.0)}, {"a": jnp.array(4.0)}, jnp.int32(1000))
    np.testing.assert_allclose(late["a"], 3.0)


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
    rate = learning_rate_schedule(AdamW(learning_rate=1.0, schedule=shape, warmup=2, cooldown=4 / 10, final=final), 10)
    np.testing.assert_allclose([rate(step) for step in (0, 1)], [0.5, 1.0])
    np.testing.assert_allclose([rate(step) for step in (2, 4, 6, 8, 10)], expected, atol=1e-6)
    assert float(rate(11)) == pytest.approx(expected[-1], abs=1e-6)


def test_a_slanted_triangle_is_equation_3_of_ulmfit() -> None:
    """Of every warm-up of whole steps, whose `cut` is that number, and of shares, in exact arithmetic."""
    whole = [(warmup, Fraction(warmup, steps), steps) for steps in range(2, 41) for warmup in range(1, steps)]
    shares = [(float(share), Fraction(share), steps) for share in ("0.1", "0.25", "0.29", "0.01", "0.7")
              for steps in (10, 20, 40, 100)]  # fmt: skip
    for warmup, cut_frac, steps in (*whole, *shares):
        config = AdamW(learning_rate=2.0, schedule="slanted_triangular", warmup=warmup, ratio=32)
        found = np.asarray(learning_rate_schedule(config, steps)(np.arange(100)))[:steps]  # one shape to compile
        cut = max(math.floor(steps * cut_frac), 1)
        expected = []
        for t in range(steps):
            p = Fraction(t, cut) if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
            expected.append(float(2 * (1 + max(p, Fraction(0)) * 31) / 32))
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=f"{warmup} {steps}")
        assert found.argmax() == cut and found[cut] == 2.0


@pytest.mark.parametrize("field, changes", [("warmup", {"warmup": 0}), ("final", {"final": 0.1})])
def test_a_slanted_triangle_needs_its_rise_and_ends_by_its_ratio(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        AdamW(schedule="slanted_triangular", **changes)
    assert caught.value.field == f"optimizer.{field}"


NUMBERS = [
    (config, field.name)
    for config in (AdamW(), Lamb(), Muon(), Adagrad())
    for field in fields(config)
    if isinstance(field.default, int | float)
]


@pytest.mark.parametrize(
    "config, field, value",
    [
        *((config, field, value) for config, field in NUMBERS for value in (-1.0, math.nan, math.inf)),
        *((config, field, 1.0) for config, field in NUMBERS if field in ("beta1", "beta2", "momentum")),
        *((config, field, 0.0) for config, field in NUMBERS if field in ("epsilon", "loss_scale")),
    ],
)
def test_every_number_out_of_range_is_refused_by_field(config: OptimizerConfig, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf" {value}$") as error:
        replace(config, **{field: value})
    assert error.value.field == f"optimizer.{field}"


@pytest.mark.parametrize("largest", [0.5, 1e3])
def test_clipping_scales_all_gradients_by_one_factor(largest: float) -> None:
    random = np.random.default_rng(0)
    gradients = {"a": jnp.asarray(random.normal(size=(3, 4)), jnp.float32), "b": jnp.ones(5, jnp.float32)}
    norm = math.sqrt(sum(float(jnp.square(gradient).sum()) for gradient in gradients.values()))
    clipped, _ = clip_by_global_norm(largest).update(gradients, optax.EmptyState())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(clipped[name], gradient * min(1.0, largest / norm), rtol=1e-6)
        assert largest < norm or np.array_equal(clipped[name], gradient)
    broken, _ = clip_by_global_norm(largest).update(gradients | {"b": jnp.full(5, jnp.nan)}, optax.EmptyState())
    assert np.isnan(broken["a"]).all()  # as the step's check of the gradient expects
