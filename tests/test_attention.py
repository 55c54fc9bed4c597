"""One function for all attention: the fused call equals the plain one, and nothing that limits attention is lost.

`xla` makes the fused path's very call on any machine; `fused` needs cuDNN and skips without a GPU. There:

    JAX_PLATFORMS=cuda pytest -n 0 tests/test_attention.py
"""

import warnings
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.ops import attention
from ctx_jax.ops.attention import attention_mask

# One compiled call is much quicker here than many small ones.
attend = jax.jit(attention.attend, static_argnames=("compute", "implementation", "scale", "maps"))

B, T, H, E = 2, 6, 2, 8
MASK = jnp.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], bool)
SEGMENTS = jnp.array([[1, 1, 2, 2, 2, 3], [1, 1, 1, 0, 0, 0]])
LIMITS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "causal": {"causal": True},
    "padding": {"mask": MASK},
    "padding by lengths": {"lengths": jnp.array([6, 3])},
    "padding by lengths, causal": {"lengths": jnp.array([6, 3]), "causal": True},
    "padding by lengths, a row of nothing": {"lengths": jnp.array([0, 4])},
    "padding by lengths, window": {"lengths": jnp.array([6, 3]), "window": 1},
    "padding, causal": {"mask": MASK, "causal": True},
    "packing": {"segments": SEGMENTS},
    "packing, padding, causal": {"segments": SEGMENTS, "mask": MASK, "causal": True},
    "window": {"window": 1},
    "window, packing": {"window": 1, "segments": SEGMENTS},
}


@pytest.fixture(params=["xla", "fused"])
def fused(request: pytest.FixtureRequest) -> Any:
    """The paths that make the fused call."""
    if request.param == "fused" and not attention._cuda():
        pytest.skip(f"cuDNN's kernel needs an NVIDIA GPU, not a {jax.default_backend()}: see the module's docstring")
    return request.param


@pytest.fixture
def heads() -> tuple[jax.Array, ...]:
    random = np.random.default_rng(0)
    return tuple(jnp.asarray(random.normal(size=(B, T, H, E)), jnp.float32) for _ in range(3))


def _allowed(limits: dict[str, Any]) -> np.ndarray:
    """Which query may attend to which key, [B, T, T], one rule at a time."""
    allowed = np.ones((B, T, T), bool)
    for b in range(B):
        for i in range(T):
            for j in range(T):
                allowed[b, i, j] = (
                    ("mask" not in limits or bool(MASK[b, j]))
                    and ("lengths" not in limits or j < limits["lengths"][b])
                    and ("segments" not in limits or SEGMENTS[b, i] == SEGMENTS[b, j])
                    and abs(i - j) <= limits.get("window", T)
                    and (not limits.get("causal") or j <= i)
                )
    return allowed


@pytest.mark.parametrize("name", LIMITS)
def test_both_implementations_follow_the_formula(name: str, fused: Any, heads: tuple[jax.Array, ...]) -> None:
    limits = LIMITS[name]
    mask = attention_mask(T, **limits)
    plain, maps = attend(*heads, mask, compute="float32", implementation="plain", maps=True)
    query, key, value = (np.asarray(part, np.float64) for part in heads)
    allowed = _allowed(limits)[:, None]
    weights = np.exp(np.einsum("bthe,bshe->bhts", query, key) / np.sqrt(E)) * allowed
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(maps, weights, atol=1e-6)
    np.testing.assert_allclose(plain, np.einsum("bhts,bshe->bthe", weights, value), atol=1e-6)
    low, none = attend(*heads, mask, compute="bfloat16", implementation=fused)
    assert none is None and low.dtype == jnp.float32
    np.testing.assert_allclose(low, plain, atol=3e-2)


def test_grouped_queries_scale_and_bias_follow_the_formula(heads: tuple[jax.Array, ...]) -> None:
    """Queries of a group share the first group's head of keys and values."""
    query, key, value = heads[0], heads[1][:, :, :1], heads[2][:, :, :1]
    mask, scale = attention_mask(T, causal=True), 0.7
    bias = jnp.asarray(np.random.default_rng(2).normal(size=(1, H, T, T)), jnp.float32)
    plain, maps = attend(query, key, value, mask, compute="float32", scale=scale, bias=bias, maps=True)
    allowed = np.tril(np.ones((T, T), bool))
    weights = np.exp(np.einsum("bthe,bse->bhts", query, key[:, :, 0]) * scale + np.asarray(bias)) * allowed
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(maps, weights, atol=1e-6)
    np.testing.assert_allclose(plain, np.einsum("bhts,bse->bthe", weights, value[:, :, 0]), atol=1e-6)


def test_the_fused_call_takes_groups_and_a_scale_and_refuses_a_bias_once(
    fused: Any, heads: tuple[jax.Array, ...]
) -> None:
    query, key, value = heads[0], heads[1][:, :, :1], heads[2][:, :, :1]
    mask = attention_mask(T, mask=MASK)
    plain, _ = attend(query, key, value, mask, compute="float32", implementation="plain", scale=0.7)
    low, _ = attend(query, key, value, mask, compute="bfloat16", implementation=fused, scale=0.7)
    np.testing.assert_allclose(low, plain, atol=3e-2)
    attention._warn_once.cache_clear()
    bias = jnp.broadcast_to(jnp.arange(T, dtype=jnp.float32), (1, H, T, T))
    with pytest.warns(UserWarning, match="plain implementation.*bias"):
        attention.attend(*heads, mask, compute="bfloat16", implementation=fused, bias=bias)
    with warnings.catch_warnings(action="error"):
        found, _ = attention.attend(*heads, mask, compute="bfloat16", implementation=fused, bias=bias)
    expected, _ = attend(*heads, mask, compute="float32", implementation="plain", bias=bias)
    np.testing.assert_allclose(found, expected, atol=3e-2)


def test_dropped_probabilities_are_gone_and_the_others_grow(heads: tuple[jax.Array, ...]) -> None:
    mask, kept = attention_mask(T, mask=MASK), np.random.default_rng(1).random((B, H, T, T)) < 0.75
    mixed, maps = attend(
        *heads,
        mask,
        compute="float32",
        implementation="plain",
        dropout_mask=jnp.asarray(kept),
        dropout_rate=0.25,
        maps=True,
    )
    plain, whole = attend(*heads, mask, compute="float32", implementation="plain", maps=True)
    np.testing.assert_array_equal(maps, whole)
    expected = np.einsum("bhts,bshe->bthe", np.where(kept, np.asarray(whole) / 0.75, 0), heads[2])
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    assert np.abs(mixed - plain).max() > 0.1


def _not_leaking(compute: Any, implementation: Any, within: float, heads: tuple[jax.Array, ...]) -> None:
    query, key, value = heads
    mask = attention_mask(T, segments=SEGMENTS)
    here = SEGMENTS == 2
    moved = [jnp.where(here[:, :, None, None], part + 3.0, part) for part in heads]
    one, _ = attend(query, key, value, mask, compute=compute, implementation=implementation)
    two, _ = attend(*moved, mask, compute=compute, implementation=implementation)
    np.testing.assert_allclose(np.asarray(one)[~here], np.asarray(two)[~here], rtol=0, atol=within)
    assert np.abs(np.asarray(one - two))[here].min() > 0.1


def test_no_implementation_lets_packed_examples_attend_to_each_other(fused: Any, heads: tuple[jax.Array, ...]) -> None:
    _not_leaking("float32", "plain", 0.0, heads)
    _not_leaking("bfloat16", fused, 1e-6, heads)


@pytest.mark.parametrize("name", ["nothing", "causal", "padding, causal"])
def test_gradients_are_those_of_the_formula(name: str, heads: tuple[jax.Array, ...]) -> None:
    """A causal row's first query has one key alone: its softmax is 1 whatever the logit."""
    limits, goal = LIMITS[name], jnp.arange(B * T * H * E, dtype=jnp.float32).reshape(B, T, H, E)
    allowed = jnp.asarray(_allowed(limits))[:, None]

    def formula(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        logits = jnp.einsum("bthe,bshe->bhts", query, key, precision="highest") / E**0.5
        probabilities = jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf))
        return (goal * jnp.einsum("bhts,bshe->bthe", probabilities, value, precision="highest")).sum()

    def ours(*heads: jax.Array) -> jax.Array:
        return (goal * attend(*heads, attention_mask(T, **limits), compute="float32")[0]).sum()

    for found, wanted in zip(*(jax.jit(jax.grad(each, (0, 1, 2)))(*heads) for each in (ours, formula)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("by", ["mask", "lengths"])
def test_gradients_agree_and_stay_finite_without_any_key(by: str, fused: Any, heads: tuple[jax.Array, ...]) -> None:
    lengths = jnp.array([T - 2, 0])
    mask = attention_mask(
        T, **{by: lengths if by == "lengths" else jnp.arange(T)[None] < lengths[:, None]}, causal=True
    )

    def loss(heads: tuple[jax.Array, ...], compute: Any, implementation: Any) -> jax.Array:
        return jnp.square(attend(*heads, mask, compute=compute, implementation=implementation)[0]).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=(1, 2))
    plain = gradient(heads, "float32", "plain")
    with jax.numpy_dtype_promotion("standard") if fused == "xla" else nullcontext():
        low = gradient(heads, "bfloat16", fused)
    for ours, theirs in zip(low, plain, strict=True):
        assert np.isfinite(theirs).all() and not np.asarray(theirs)[1].any() and not np.asarray(ours)[1].any()
        np.testing.assert_allclose(ours, theirs, atol=6e-2)


def test_padding_by_lengths_is_padding_by_mask_bit_for_bit_on_the_plain_path(heads: tuple[jax.Array, ...]) -> None:
    by_mask = attend(*heads, attention_mask(T, mask=MASK), compute="float32", implementation="plain", maps=True)
    by_lengths = attend(
        *heads, attention_mask(T, lengths=MASK.sum(1)), compute="float32", implementation="plain", maps=True
    )
    for one, other in zip(by_mask, by_lengths, strict=True):
        np.testing.assert_array_equal(one, other)


def test_off_the_cpu_the_plain_path_sums_bf16_products_in_float32_both_ways(
    heads: tuple[jax.Array, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in the program, which a CPU cannot run: every product takes bf16 and gives float32."""
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    mask = attention_mask(T, mask=MASK)

    def loss(heads: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.square(attention.attend(*heads, mask, compute="bfloat16", implementation="plain")[0]).sum()

    program = jax.jit(jax.value_and_grad(loss)).lower(heads).as_text()
    products = [line.split(" : ")[-1] for line in program.splitlines() if "dot_general" in line]
    assert len(products) == 6
    for product in products:  # (tensor<2x6x2x8xbf16>, tensor<2x6x2x8xbf16>) -> tensor<2x2x6x6xf32>
        assert product.count("xbf16>") == 2 and product.endswith("xf32>")


def test_what_the_fused_path_cannot_do_falls_back_and_says_so_once(heads: tuple[jax.Array, ...]) -> None:
    attention._warn_once.cache_clear()
    mask = attention_mask(T, segments=SEGMENTS)
    kept = jnp.ones((B, H, T, T), bool)
    plain, _ = attend(*heads, mask, compute="float32", implementation="plain")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("compute is float32", {"compute": "float32"}),
        ("attention_dropout=0", {"compute": "bfloat16", "dropout_mask": kept}),
        ("attention maps", {"compute": "bfloat16", "maps": True}),
    ]
    for reason, given in cases:
        with pytest.warns(UserWarning, match=reason):
            mixed, _ = attention.attend(*heads, mask, implementation="xla", **given)
        np.testing.assert_allclose(mixed, plain, atol=3e-2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attention.attend(*heads, mask, implementation="xla", **given)
    odd = [part[:, :5] for part in heads]
    with pytest.warns(UserWarning, match="even length, got 5"):
        attention.attend(*odd, attention_mask(5, mask=MASK[:, :5]), compute="bfloat16", implementation="xla")
    if jax.default_backend() == "cpu":
        with pytest.warns(UserWarning, match="this machine has a cpu"):
            attention.attend(*heads, mask, compute="bfloat16", implementation="fused")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attention.attend(*heads, mask, compute="bfloat16", implementation="auto")


@pytest.mark.slow
def test_a_gpu_too_old_for_the_fused_path_takes_the_plain_one(
    heads: tuple[jax.Array, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_cuda", lambda: True)
    monkeypatch.setattr(attention, "_capability", lambda: 7.5)
    attention._warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"compute capability 8.0 or more .* this one has 7.5"):
        mixed, _ = attention.attend(*heads, attention_mask(T, mask=MASK), compute="bfloat16", implementation="auto")
    plain, _ = attention.attend(*heads, attention_mask(T, mask=MASK), compute="bfloat16", implementation="plain")
    np.testing.assert_array_equal(mixed, plain)
