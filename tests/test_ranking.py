"""In-batch negatives: the loss, and its gradient over any division of a batch into devices and micro-batches."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.losses.ranking import RankedPairs, ranking_loss
from ctx_jax.ops.dense import unit_vectors
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import Collectives, State, TrainingStep

ROWS, WIDTH = 16, 4


def pairs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    found = np.random.default_rng(seed).normal(size=(2, count, WIDTH)).astype(np.float32)
    first, second = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return first, second


def all_of(texts: np.ndarray, weights: np.ndarray | None = None) -> RankedPairs:
    rows = np.arange(len(texts), dtype=np.int32)
    return RankedPairs(rows, texts.astype(np.int32), np.ones(len(texts), np.float32) if weights is None else weights)


def test_the_loss_is_a_cross_entropy_over_the_other_texts() -> None:
    first, second = pairs(6)
    # Rows 0 and 2, and rows 1 and 3 share a text; the second text of row 2 is the first of row 4.
    texts = np.array([[0, 10], [1, 11], [0, 4], [3, 11], [4, 14], [5, 15]])
    weights = np.float32([1, 1, 1, 1, 1, 0])
    known = all_of(texts, weights)
    nats, hits = [], 0
    for row in range(5):
        others = [i for i in range(5) if i == row or (texts[row, 0] not in texts[i] and texts[row, 1] != texts[i, 1])]
        scores = 7.0 * first[row] @ second[others].T
        own = scores[others.index(row)]
        nats.append(np.log(np.exp(scores).sum()) - own)
        hits += own == scores.max()
    terms = ranking_loss(first, second, known, known, 7.0)
    np.testing.assert_allclose(terms["label"], (np.sum(nats), 5), rtol=1e-5)
    np.testing.assert_allclose(terms["accuracy"], (hits, 5))


def test_the_loss_is_torchs_cross_entropy_of_scaled_cosines() -> None:
    torch = pytest.importorskip("torch")
    first, second = pairs(8, seed=1)
    known = all_of(np.arange(16).reshape(8, 2))
    total, count = ranking_loss(first, second, known, known, 20.0)["label"]
    cosines = torch.nn.functional.cosine_similarity(
        torch.from_numpy(first)[:, None], torch.from_numpy(second)[None], dim=-1
    )
    theirs = torch.nn.functional.cross_entropy(20.0 * cosines, torch.arange(8))
    np.testing.assert_allclose(total / count, theirs, rtol=1e-5)


class TextBatch(NamedTuple):
    first: Any  # float32 [B, D]
    second: Any
    texts: Any  # int32 [B, 2]
    weights: Any  # float32 [B]
    rows: Any  # int32 [B]


@dataclass(frozen=True)
class Ranking:
    """One matrix for both texts, with dropout by row, as far as the step needs a task."""

    coefficients = {"label": 1.0, "accuracy": 0.0}  # noqa: RUF012
    model = None
    groups = ()
    batch_size = ROWS

    def init(self, key: jax.Array) -> dict:
        return {"encoder": {"kernel": jax.random.normal(key, (WIDTH, 8))}, "head": {}}

    def zero_carry(self, rows: int) -> tuple[()]:
        return ()

    def row_vectors(self, params: Any, batch: TextBatch, key: jax.Array | None) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.rows)
        keep = jax.vmap(lambda each: jax.random.bernoulli(each, 0.8, (WIDTH,)))(keys)
        kernel = params["encoder"]["kernel"]
        return tuple(unit_vectors(jnp.where(keep, side, 0) @ kernel) for side in (batch.first, batch.second))

    def compare(self, vectors: Any, batch: TextBatch, gather: Any) -> Any:
        own = RankedPairs(batch.rows, batch.texts, batch.weights)
        return ranking_loss(vectors[0], gather(vectors[1]), own, gather(own), 5.0)

    def loss(self, params: Any, batch: TextBatch, carry: Any, key: jax.Array | None) -> Any:
        return self.compare(self.row_vectors(params, batch, key), batch, lambda tree: tree), carry


def after(config: DevicesConfig) -> State:
    """The state after two steps."""
    devices = Devices(config, ROWS)
    step = TrainingStep(Ranking(), AdamW(learning_rate=0.01, warmup=0), 2, 7, config.micro_batches)  # type: ignore[arg-type]
    compiled = devices.compile(step)
    state = devices.enter(devices.create(step.initial)[0])
    for seed in range(2):
        texts = np.random.default_rng(seed).integers(0, 40, (ROWS, 2)).astype(np.int32)
        weights = np.ones(ROWS, np.float32)
        weights[-3:] = 0
        batch = TextBatch(*pairs(ROWS, seed), texts, weights, np.arange(ROWS, dtype=np.int32))
        state = compiled(state, {}, devices.put(batch))
    return jax.device_get(devices.leave(state))


@pytest.fixture(scope="module")
def whole() -> State:
    return after(DevicesConfig(count=1))


@pytest.mark.parametrize(
    "config",
    [
        DevicesConfig("shard", 8),
        DevicesConfig("shard", 1, micro_batches=4),
        DevicesConfig("pmap", 2, micro_batches=4),
        DevicesConfig("fsdp", 4, micro_batches=2),
    ],
    ids=lambda config: f"{config.mode}-{config.count}x{config.micro_batches}",
)
def test_negatives_are_those_of_all_devices_and_micro_batches(config: DevicesConfig, whole: State) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), after(config), whole)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_mean_loss() -> None:
    task = Ranking()
    step = TrainingStep(task, AdamW(learning_rate=0.01, warmup=0), 2, 7)  # type: ignore[arg-type]
    state, _ = jax.jit(step.initial)()
    batch = TextBatch(*pairs(ROWS), np.arange(2 * ROWS, dtype=np.int32).reshape(ROWS, 2), np.ones(ROWS, np.float32),
                      np.arange(ROWS, dtype=np.int32))  # fmt: skip

    def mean(params: Any) -> jax.Array:
        terms, _ = task.loss(params, batch, (), step.key(state))
        return terms["label"][0] / terms["label"][1]

    def ours() -> Any:
        return step.gradient_output(state.params, {}, batch, (), step.key(state), Collectives()).gradients

    found, expected = jax.jit(ours)(), jax.grad(mean)(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
