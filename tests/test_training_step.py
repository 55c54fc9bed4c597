"""The step's laws on a tiny recurrent stand-in with dropout, sampled negatives and uneven weights."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import Adagrad, AdamW, Lamb, Recipe, optimizer, schedule
from ctx_jax.training.step import State, initial_state, make_step

ROWS, WINDOW, WIDTH, WORDS, STEPS = 16, 2, 4, 11, 4


@dataclass(frozen=True)
class Recurrent:
    """A word-level RNN in both directions: enough to have every thing a step must get right."""

    dropout: bool = True
    coefficients: dict[str, float] = field(default_factory=lambda: {"forward": 0.5, "backward": 0.5})

    def init(self, key: jax.Array) -> dict:
        table, mix, top = jax.random.split(key, 3)
        return {
            "table": jax.random.normal(table, (WORDS, WIDTH)),
            "mix": jax.random.normal(mix, (WIDTH, WIDTH)) / 2,
            "bias": jnp.zeros((WIDTH,)),
            "top": jax.random.normal(top, (WORDS, WIDTH)),
        }

    def zero_carry(self, rows: int) -> dict:
        return {name: jnp.zeros((rows, WIDTH)) for name in self.coefficients}

    def loss(self, params: dict, batch: dict, carry: dict, key: jax.Array | None) -> tuple[dict, dict]:
        terms, after = {}, {}
        for place, name in enumerate(self.coefficients):
            state = carry[name]
            hidden = []
            for time in range(WINDOW):
                inputs = params["table"][batch[name][:, time]]  # [B, D]
                if self.dropout and key is not None:
                    here = jax.random.fold_in(key, 10 * place + time)
                    keys = jax.vmap(jax.random.fold_in, (None, 0))(here, batch["row"])
                    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 0.8, (WIDTH,)))(keys)
                    inputs = jnp.where(keep, inputs / 0.8, 0.0)
                state = jnp.tanh(inputs + state @ params["mix"] + params["bias"][None])
                hidden.append(state)
            after[name] = jax.lax.stop_gradient(state)
            words = params["top"]
            if key is not None:  # negatives: the same on every device
                words = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 99), 0.7, (WORDS, 1)), words, words / 2)
            logits = jnp.stack(hidden, 1) @ words.T  # [B, T, V]
            nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["target"][..., None], 2)[..., 0]
            terms[name] = ((nats * batch["weight"]).sum(), batch["weight"].sum())
        return terms, after


def batches(count: int = STEPS) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        words = lambda: random.integers(0, WORDS, (ROWS, WINDOW), dtype=np.int32)  # noqa: E731
        weight = (random.random((ROWS, WINDOW)) < 0.6).astype(np.float32)
        weight[:5] = 0  # some devices and micro-batches have no target at all
        row = np.arange(ROWS, dtype=np.int32)
        made.append({"forward": words(), "backward": words(), "target": words(), "weight": weight, "row": row})
    return made


def train(
    config: DevicesConfig, recipe: Recipe, data: list, objective: Recurrent | None = None, state: State | None = None
) -> State:
    objective = objective or Recurrent()
    devices = Devices(config, ROWS)
    step = devices.compile(make_step(objective, recipe, STEPS, seed=7, parts=config.micro_batches))
    state = devices.create(lambda: initial_state(objective, recipe, STEPS, 7, ROWS)) if state is None else state
    state = devices.enter(state)
    for batch in data:
        state = step(state, devices.put(batch))
    return jax.device_get(devices.leave(state))


def assert_close(one: State, other: State) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one, other)


@pytest.fixture(scope="module")
def reference() -> State:
    return train(DevicesConfig(count=1), AdamW(learning_rate=0.01, warmup=2), batches())


@pytest.mark.parametrize(
    "config",
    [
        DevicesConfig("shard", 8),
        DevicesConfig("pmap", 8),
        DevicesConfig("shard", 1, micro_batches=4),
        DevicesConfig("pmap", 2, micro_batches=8),
        DevicesConfig("fsdp", 4, micro_batches=2),
    ],
    ids=lambda c: f"{c.mode}-{c.count}x{c.micro_batches}",
)
def test_every_division_of_the_rows_computes_the_same(config: DevicesConfig, reference: State) -> None:
    assert_close(train(config, AdamW(learning_rate=0.01, warmup=2), batches()), reference)


@pytest.mark.slow
def test_shard_and_pmap_agree_bit_for_bit_with_adagrad() -> None:
    recipe = Adagrad(clip_norm=0.5, loss_scale=3.0)
    shard, pmap = (train(DevicesConfig(mode, 4), recipe, batches(3)) for mode in ("shard", "pmap"))
    jax.tree.map(np.testing.assert_array_equal, shard, pmap)


@pytest.mark.slow
def test_norms_and_trust_ratios_are_of_whole_arrays_where_devices_hold_parts() -> None:
    recipe = Lamb(learning_rate=0.02, warmup=1, clip_norm=0.05, average=0.9)
    one, divided = (train(config, recipe, batches(2)) for config in (DevicesConfig(count=1), DevicesConfig("fsdp", 4)))
    assert one.totals.gradient_norm > 0.05
    assert_close(divided, one)


def test_a_run_goes_on_with_fewer_devices_and_in_the_other_modes(reference: State) -> None:
    recipe, data = AdamW(learning_rate=0.01, warmup=2), batches()
    state = train(DevicesConfig("shard", 8), recipe, data[:2])
    for config, part in (
        (DevicesConfig("pmap", 4), data[2:3]),
        (DevicesConfig("fsdp", 2), data[3:4]),
        (DevicesConfig("shard", 1), data[4:]),
    ):
        state = jax.device_put(state, jax.devices()[0])
        layout = Devices(config, ROWS).abstract(lambda: initial_state(Recurrent(), recipe, STEPS, 7, ROWS))
        state = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), state, layout)
        state = train(config, recipe, part, state=state)
    assert_close(state, reference)


@pytest.mark.slow
def test_the_gradient_is_of_the_mean_over_all_targets() -> None:
    objective, batch = Recurrent(dropout=False), batches(1)[0]
    recipe = Adagrad(learning_rate=0.3, clip_norm=0.0, loss_scale=2.0)
    params = jax.jit(lambda: initial_state(objective, recipe, 1, 7, ROWS).params)()
    key = jax.random.fold_in(jax.random.key(7), 0)

    def mean(params: dict) -> jax.Array:
        terms, _ = objective.loss(params, batch, objective.zero_carry(ROWS), key)
        return sum(total / weight for total, weight in terms.values())  # 0.5 each, times 2

    slopes = jax.jit(jax.grad(mean))(params)
    after = train(DevicesConfig(count=8), recipe, [batch], objective)
    for name, slope in slopes.items():  # TensorFlow's Adagrad: accumulator 1, no epsilon
        expected = params[name] - 0.3 * slope / np.sqrt(1 + np.square(slope))
        np.testing.assert_allclose(after.params[name], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.totals.gradient_norm, optax.tree.norm(slopes), rtol=1e-5)


def test_every_step_has_a_key_of_its_own_from_the_seed() -> None:
    class Drawn(Recurrent):
        def loss(self, params: dict, batch: dict, carry: dict, key: jax.Array | None) -> tuple[dict, dict]:
            assert key is not None
            weight = batch["weight"].sum()
            return {name: (jax.random.uniform(key) * weight, weight) for name in self.coefficients}, carry

    data = batches(3)
    total, weight = train(DevicesConfig(count=8), Adagrad(), data, Drawn()).totals.terms["forward"]
    draws = [jax.random.uniform(jax.random.fold_in(jax.random.key(7), step)) for step in range(3)]
    counts = [batch["weight"].sum() for batch in data]
    np.testing.assert_allclose([total, weight], [np.dot(draws, counts), sum(counts)], rtol=1e-6)


def test_clipping_is_by_the_global_norm() -> None:
    params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    for limit, factor in ((10.0, 1.0), (2.5, 0.5)):
        chain = optimizer(Adagrad(learning_rate=1.0, clip_norm=limit), 1)
        updates, _ = jax.jit(lambda p, c=chain: c.update(p, c.init(p)))(params)
        for name, slope in params.items():
            np.testing.assert_allclose(updates[name], -factor * slope / np.sqrt(1 + (factor * slope) ** 2), rtol=1e-6)


def test_adamw_is_the_papers_and_leaves_vectors_undecayed() -> None:
    recipe = AdamW(learning_rate=0.1, schedule="constant", warmup=0, clip_norm=0, weight_decay=0.5)
    params = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones((2,))}
    with jax.numpy_dtype_promotion("standard"):
        chain = optimizer(recipe, 1)
        updates, _ = jax.jit(lambda p: chain.update(jax.tree.map(jnp.ones_like, p), chain.init(p), p))(params)
    np.testing.assert_allclose(updates["vector"], -0.1, rtol=1e-5)  # first step: the gradient's sign
    np.testing.assert_allclose(updates["matrix"], -0.1 * 1.5, rtol=1e-5)


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_its_end() -> None:
    rate = schedule(AdamW(learning_rate=1.0, warmup=4, final=0.1), 24)
    np.testing.assert_allclose([rate(step) for step in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose([rate(14), rate(24)], [0.55, 0.1], rtol=1e-6)


@pytest.mark.slow
def test_the_first_step_that_is_not_finite_is_remembered() -> None:
    data = batches(4)
    data[2]["weight"][7] = np.nan
    assert train(DevicesConfig(count=2), Adagrad(), data[:2]).totals.bad == -1
    assert train(DevicesConfig(count=2), Adagrad(), data).totals.bad == 3


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"16 rows .* 3 devices in 2 .*--data.lanes.* to a multiple of 6"):
        Devices(DevicesConfig(count=3, micro_batches=2), ROWS)
    with pytest.raises(ValueError, match=r"--devices.count 9, got 8 devices \(cpu\): set at most 8"):
        Devices(replace(DevicesConfig(), count=9), ROWS)
