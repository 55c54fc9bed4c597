"""The matrix products of a Transformer's layer by themselves, in jax and in torch: what either library can reach.

Letters: B rows, T tokens, N = B T, D width, F width of the feed-forward part, H heads.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import Side, alternate

from ctx_jax.encoders.transformer import Transformer


def bare_products(model: Transformer, rows: int, length: int, device: str, rounds: int, seconds: float) -> str:
    """A line: GFLOP/s of either, and jax's speed over torch's, the median over the rounds.

    A layer: [N, D] by four [D, D], [N, D] by [D, F], [N, F] by [F, D], attention's two of [B H, T, D / H]; float32.
    """
    count, dim, wide, heads = rows * length, model.dim, model.feed_forward, model.heads
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    hidden, inner, head = draw(count, dim), draw(count, wide), draw(rows * heads, length, dim // heads)
    arrays = [hidden, inner, head, *(draw(dim, dim) for _ in range(4)), draw(dim, wide), draw(wide, dim)]
    flops = 2.0 * count * (4 * dim * dim + 2 * dim * wide) + 4.0 * count * length * dim
    makers = {"jax": _jax(arrays), "torch": _torch(arrays, device)}
    sides = {name: Side(call, count, flops) for name, call in makers.items()}
    alternate(sides, rounds, seconds)
    ratios = [theirs / ours for ours, theirs in zip(sides["jax"].seconds, sides["torch"].seconds, strict=True)]
    speeds = ", ".join(
        f"{name} {side.flops / side.tokens * side.rate / 1e9:,.0f} GFLOP/s" for name, side in sides.items()
    )
    return f"bare matrix products of {rows} x {length}: {speeds}; jax / torch {np.median(ratios):.2f}"


def _jax(arrays: list[np.ndarray]) -> Callable[[], object]:
    def products(hidden: jax.Array, inner: jax.Array, head: jax.Array, *weights: jax.Array) -> list[jax.Array]:
        *before, last = weights
        scores = jnp.matmul(head, head.mT, precision=jax.lax.Precision.HIGHEST)
        found = [jnp.matmul(hidden, weight, precision=jax.lax.Precision.HIGHEST) for weight in before]
        found.append(jnp.matmul(inner, last, precision=jax.lax.Precision.HIGHEST))
        return [*found, scores, jnp.matmul(scores, head, precision=jax.lax.Precision.HIGHEST)]

    run, inputs = jax.jit(products), [jnp.asarray(array) for array in arrays]
    return lambda: jax.block_until_ready(run(*inputs))


def _torch(arrays: list[np.ndarray], device: str) -> Callable[[], object]:
    hidden, inner, head, *weights = (torch.from_numpy(array).to(device) for array in arrays)

    @torch.inference_mode()
    def call() -> None:
        for weight in weights[:-1]:
            torch.matmul(hidden, weight)
        torch.matmul(inner, weights[-1])
        torch.matmul(torch.matmul(head, head.mT), head)
        if device == "cuda":
            torch.cuda.synchronize()

    return call
