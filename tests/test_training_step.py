"""The laws of the training step, on a tiny recurrent task with dropout, negatives and uneven weights."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctx_jax.io.errors import ConfigError
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import (
    Adagrad,
    AdamW,
    Lamb,
    OptimizerConfig,
    apply_gradients,
    learning_rate_schedule,
    optimizer,
)
from ctx_jax.training.step import State, TrainingStep

ROWS, UNROLL_STEPS, WIDTH, WORDS, STEPS = 16, 2, 4, 11, 4
ADAMW = AdamW(learning_rate=0.01, warmup=2)


class RecurrentBatch(NamedTuple):
    forward: Any  # int32 [B, T]
    backward: Any  # int32 [B, T]
    targets: Any  # int32 [B, T]
    weights: Any  # float32 [B, T]
    rows: Any  # int32 [B]


@dataclass(frozen=True)
class Recurrent:
    """A word-level RNN in both directions, as far as the step needs a task."""

    dropout: bool = True
    coefficients = {"forward": 0.5, "backward": 0.5}  # noqa: RUF012
    model = None
    groups = ()
    batch_size = ROWS

    def init(self, key: jax.Array) -> dict:
        table, recurrent, top = jax.random.split(key, 3)
        encoder = {
            "tokens": jax.random.normal(table, (WORDS, WIDTH)),
            "kernel": jax.random.normal(recurrent, (WIDTH, WIDTH)) / 2,
            "bias": jnp.zeros((WIDTH,)),
        }
        return {"encoder": encoder, "head": {"matrix": jax.random.normal(top, (WORDS, WIDTH))}}

    def zero_carry(self, rows: int) -> dict:
        return {name: jnp.zeros((rows, WIDTH)) for name in self.coefficients}

    def loss(self, params: Any, batch: RecurrentBatch, carry: dict, key: jax.Array | None) -> tuple[dict, dict]:
        terms, after = {}, {}
        tokens, kernel, bias = (params["encoder"][name] for name in ("tokens", "kernel", "bias"))
        for number, name in enumerate(self.coefficients):
            state, hidden = carry[name], []
            for time in range(UNROLL_STEPS):
                inputs = tokens[getattr(batch, name)[:, time]]  # [B, D]
                if self.dropout and key is not None:
                    step_key = jax.random.fold_in(key, 10 * number + time)
                    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch.rows)
                    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 0.8, (WIDTH,)))(keys)
                    inputs = jnp.where(keep, inputs / 0.8, 0.0)
                state = jnp.tanh(inputs + state @ kernel + bias[None])
                hidden.append(state)
            after[name] = jax.lax.stop_gradient(state)
            words = params["head"]["matrix"]
            if key is not None:  # negatives: the same on every device
                words = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 99), 0.7, (WORDS, 1)), words, words / 2)
            logits = jnp.stack(hidden, 1) @ words.T  # [B, T, V]
            nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], 2)[..., 0]
            terms[name] = ((nats * batch.weights).sum(), batch.weights.sum())
        return terms, after


def batches(count: int = STEPS) -> list[RecurrentBatch]:
    random = np.random.default_rng(0)

    def words() -> np.ndarray:
        return random.integers(0, WORDS, (ROWS, UNROLL_STEPS), dtype=np.int32)

    made = []
    for _ in range(count):
        weights = (random.random((ROWS, UNROLL_STEPS)) < 0.6).astype(np.float32)
        weights[:5] = 0  # some devices and micro-batches have no target at all
        made.append(RecurrentBatch(words(), words(), words(), weights, np.arange(ROWS, dtype=np.int32)))
    return made


@cache
def compiled_step(config: DevicesConfig, optimizer: OptimizerConfig, task: Recurrent) -> Any:
    """The devices, the step and its compiled form."""
    devices = Devices(config, ROWS)
    step = TrainingStep(task, optimizer, STEPS, 7, config.micro_batches)
    return devices, step, devices.compile(step)


def train(
    config: DevicesConfig,
    optimizer: OptimizerConfig,
    data: list[RecurrentBatch],
    task: Recurrent = Recurrent(),
    state: State | None = None,
) -> State:
    """The state after these batches, from `state` or the first one."""
    devices, step, compiled = compiled_step(config, optimizer, task)
    state = devices.enter(devices.create(step.initial)[0] if state is None else state)
    for batch in data:
        state = compiled(state, {}, devices.put(batch))
    return jax.device_get(devices.leave(state))


def assert_close(one: State, other: State) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one, other)


@pytest.fixture(scope="module")
def reference() -> State:
    return train(DevicesConfig(count=1), ADAMW, batches())


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        DevicesConfig("shard", 8),
        DevicesConfig("pmap", 8),
        DevicesConfig("shard", 1, micro_batches=4),
        DevicesConfig("pmap", 2, micro_batches=4),
        DevicesConfig("fsdp", 4, micro_batches=2),
    ],
    ids=lambda config: f"{config.mode}-{config.count}x{config.micro_batches}",
)
def test_every_division_of_the_rows_computes_the_same(config: DevicesConfig, reference: State) -> None:
    assert_close(train(config, ADAMW, batches()), reference)


@pytest.mark.slow
def test_shard_and_pmap_agree_bit_for_bit_with_adagrad() -> None:
    config = Adagrad(clip_norm=0.5, loss_scale=3.0)
    shard, pmap = (train(DevicesConfig(mode, 4), config, batches(3)) for mode in ("shard", "pmap"))
    jax.tree.map(np.testing.assert_array_equal, shard, pmap)


@pytest.mark.slow
def test_norms_and_trust_ratios_are_of_whole_arrays_under_fsdp() -> None:
    config = Lamb(learning_rate=0.02, warmup=1, clip_norm=0.05, average=0.9)
    one, sharded = (
        train(devices, config, batches(2)) for devices in (DevicesConfig(count=1), DevicesConfig("fsdp", 4))
    )
    assert one.totals.gradient_norm > 0.05
    assert_close(sharded, one)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_devices_and_in_the_other_modes(reference: State) -> None:
    data = batches()
    state = train(DevicesConfig("shard", 8), ADAMW, data[:1])
    for config, part in (  # all of them compiled for the test above
        (DevicesConfig("fsdp", 4, micro_batches=2), data[1:2]),
        (DevicesConfig("pmap", 2, micro_batches=4), data[2:3]),
        (DevicesConfig("shard", 1, micro_batches=4), data[3:]),
    ):
        layout, _ = Devices(config, ROWS).abstract(TrainingStep(Recurrent(), ADAMW, STEPS, 7).initial)
        state = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), state, layout)
        state = train(config, ADAMW, part, state=state)
    assert_close(state, reference)


@pytest.mark.slow
def test_the_gradient_is_of_the_mean_over_all_targets() -> None:
    task, batch = Recurrent(dropout=False), batches(1)[0]
    config = Adagrad(learning_rate=0.3, clip_norm=0.0, loss_scale=2.0)
    step = TrainingStep(task, config, 1, 7)
    params = jax.jit(lambda: step.initial()[0].params)()
    key = jax.random.fold_in(jax.random.key(7), 0)

    def mean(params: Any) -> jax.Array:
        terms, _ = task.loss(params, batch, task.zero_carry(ROWS), key)
        return sum(total / weight for total, weight in terms.values())  # 0.5 each, times 2

    gradients = jax.jit(jax.grad(mean))(params)
    after = train(DevicesConfig(count=8), config, [batch], task)

    def check(found: np.ndarray, before: jax.Array, gradient: jax.Array) -> None:
        expected = before - 0.3 * gradient / np.sqrt(1 + np.square(gradient))  # TensorFlow's: accumulator 1, no epsilon
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    jax.tree.map(check, after.params, params, gradients)
    np.testing.assert_allclose(after.totals.gradient_norm, optax.tree.norm(gradients), rtol=1e-5)


def test_every_step_has_its_own_key_from_the_seed() -> None:
    class RandomLoss(Recurrent):
        def loss(self, params: Any, batch: RecurrentBatch, carry: dict, key: jax.Array | None) -> tuple[dict, dict]:
            assert key is not None
            weight = batch.weights.sum()
            return {name: (jax.random.uniform(key) * weight, weight) for name in self.coefficients}, carry

    data = batches(3)
    total, weight = train(DevicesConfig(count=8), Adagrad(), data, RandomLoss()).totals.terms["forward"]
    values = [jax.random.uniform(jax.random.fold_in(jax.random.key(7), step)) for step in range(3)]
    counts = [batch.weights.sum() for batch in data]
    np.testing.assert_allclose([total, weight], [np.dot(values, counts), sum(counts)], rtol=1e-6)


def test_clipping_is_by_the_global_norm() -> None:
    params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    for limit, factor in ((10.0, 1.0), (2.5, 0.5)):
        chain = optimizer(Adagrad(learning_rate=1.0, clip_norm=limit), 1)
        updates, _ = jax.jit(lambda p, c=chain: c.update(p, c.init(p)))(params)
        for name, gradient in params.items():
            expected = -factor * gradient / np.sqrt(1 + (factor * gradient) ** 2)
            np.testing.assert_allclose(updates[name], expected, rtol=1e-6)


def test_adamw_is_the_papers_and_leaves_vectors_undecayed() -> None:
    config = AdamW(learning_rate=0.1, schedule="constant", warmup=0, clip_norm=0, weight_decay=0.5)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))}
    chain = optimizer(config, 1)
    ones = jax.tree.map(jnp.ones_like, params)
    after, _ = jax.jit(lambda p: apply_gradients(chain, ones, chain.init(p), p))(params)
    np.testing.assert_allclose(after["bias"], 1 - 0.1, rtol=1e-5)  # first step: the gradient's sign
    np.testing.assert_allclose(after["kernel"], 1 - 0.1 * 1.5, rtol=1e-5)


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_its_end() -> None:
    rate = learning_rate_schedule(AdamW(learning_rate=1.0, warmup=4, final=0.1), 24)
    np.testing.assert_allclose([rate(step) for step in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose([rate(14), rate(24)], [0.55, 0.1], rtol=1e-6)


@pytest.mark.slow
def test_the_first_step_that_is_not_finite_is_recorded() -> None:
    data = batches(4)
    data[2].weights[7] = np.nan
    assert train(DevicesConfig(count=2), Adagrad(), data[:2]).totals.bad == -1
    assert train(DevicesConfig(count=2), Adagrad(), data).totals.bad == 3


def test_rows_that_the_devices_cannot_share_are_refused_by_field() -> None:
    with pytest.raises(ConfigError, match=r"16 rows .* 3 devices in 2 .* multiple of 6") as error:
        Devices(DevicesConfig(count=3, micro_batches=2), ROWS)
    assert error.value.field == "batch_size"
    with pytest.raises(ConfigError, match=r"8 devices \(cpu\): set at most 8") as error:
        Devices(replace(DevicesConfig(), count=9), ROWS)
    assert error.value.field == "devices.count"
