"""Gradual unfreezing: what is trained at which step, and with which moments."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.encoders.transformer import Transformer
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.optimizer import Adagrad, AdamW, Lamb, Muon, OptimizerConfig, apply_gradients, optimizer
from ctx_jax.training.parameter_groups import named
from ctx_jax.training.unfreezing import Unfreezing, first_steps

MODEL = Transformer(7, dim=4, depth=2, heads=2, feed_forward=6, max_positions=5, norm="pre", token_types=0)
STEPS, EVERY = 9, 2
FIRST = {"head": 0, "encoder/final_norm": 2, "encoder/layer_1": 2, "encoder/layer_0": 4, "encoder/embeddings": 6}


def parameters() -> dict[str, Any]:
    head = {"labels": {"scores": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}}}
    return {"encoder": MODEL.init(jax.random.key(0)), "head": head}


def first_of(name: str) -> int:
    (first,) = [step for start, step in FIRST.items() if name.startswith(f"{start}/")]
    return first


def gradients(params: Any, step: int) -> Any:
    return jax.tree.map(lambda array: jnp.sin(array * 3.0 + step + 1.0), params)


def trajectory(config: OptimizerConfig, every: int) -> list[dict[str, np.ndarray]]:
    """The parameters before each step and after the last."""
    chain, params = optimizer(config, STEPS, model=MODEL, unfreezing=Unfreezing(every)), parameters()
    state, found = chain.init(params), [named(params)]
    update = jax.jit(lambda *given: apply_gradients(chain, *given))
    for step in range(STEPS):
        params, state = update(gradients(parameters(), step), state, params)
        found.append(named(params))
    return found


def test_the_head_is_trained_first_and_the_embeddings_last() -> None:
    steps = named(first_steps(parameters(), MODEL, Unfreezing(EVERY)))
    assert steps == {name: first_of(name) for name in steps}
    assert {*steps.values()} == {0, 2, 4, 6}


def test_fresh_layers_are_trained_with_the_head_and_the_others_follow() -> None:
    for fresh in (1, 2):
        steps = named(first_steps(parameters(), MODEL, Unfreezing(EVERY, fresh)))
        assert steps == {name: max(first_of(name) - EVERY * fresh, 0) for name in steps}


@pytest.mark.slow
@pytest.mark.parametrize("config", [AdamW(), Lamb(), Muon(), Adagrad()], ids=lambda config: type(config).__name__)
def test_a_group_is_trained_from_its_first_step_as_by_an_optimizer_begun_there(config: OptimizerConfig) -> None:
    """Neither decay nor moments before. Without clipping the groups do not see each other."""
    config = replace(config, learning_rate=0.1, clip_norm=0.0, schedule="constant", warmup=0)
    config = replace(config, weight_decay=0.1) if hasattr(config, "weight_decay") else config
    found = trajectory(config, EVERY)
    chain = optimizer(config, STEPS, model=MODEL)
    update = jax.jit(lambda *given: apply_gradients(chain, *given))
    for first in {*FIRST.values()}:
        params = parameters()
        state = chain.init(params)
        for step in range(STEPS):
            expected = named(params)
            for name in (name for name in expected if first_of(name) == first):
                np.testing.assert_allclose(found[step][name], expected[name], atol=1e-6, err_msg=f"{step} {name}")
                assert step > first or np.array_equal(found[step][name], found[0][name])
            if step >= first:
                params, state = update(gradients(parameters(), step), state, params)


@pytest.mark.slow
def test_the_rate_and_the_clipping_are_those_of_the_run() -> None:
    """torch's way: groups that are not trained yet have no gradient, and the schedule counts the run's steps."""
    config = AdamW(learning_rate=0.1, schedule="linear", warmup=0, clip_norm=0.5, weight_decay=0.0)
    found, params = trajectory(config, EVERY), {name: np.float64(leaf) for name, leaf in named(parameters()).items()}
    moments = {name: (np.zeros_like(leaf), np.zeros_like(leaf), 0) for name, leaf in params.items()}
    for step in range(STEPS):
        given = {name: np.float64(leaf) for name, leaf in named(gradients(parameters(), step)).items()}
        trained = {name: leaf for name, leaf in given.items() if step >= first_of(name)}
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in trained.values()))
        for name, gradient in trained.items():
            gradient = gradient * min(1, 0.5 / norm)
            mean, square, count = moments[name]
            mean, square, count = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2, count + 1
            moments[name] = mean, square, count
            direction = mean / (1 - 0.9**count) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
            params[name] = params[name] - 0.1 * (1 - step / STEPS) * direction
        for name, expected in params.items():
            np.testing.assert_allclose(found[step + 1][name], expected, atol=1e-5, err_msg=f"{step} {name}")


@pytest.mark.slow
def test_it_needs_the_model() -> None:
    with pytest.raises(ConfigError):
        optimizer(AdamW(), 4, unfreezing=Unfreezing(1))
