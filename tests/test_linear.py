"""The matrix product in its two precisions: values, gradients, and a word where a CPU has no use for the fast one."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.numerics import hardware
from ctx_jax.numerics.linear import linear

FLAGS = {
    "flags\t\t: fpu avx2 avx512f avx512_bf16\n": True,
    "processor : 0\nflags : fpu avx2 amx_bf16\n\nprocessor : 1\nflags : fpu avx2 amx_bf16\n": True,
    "Features : fp asimd bf16\n": True,
    "model name : avx512_bf16\nflags : fpu avx2 avx512f\n": False,
    "Features : fp asimd\n": False,
    "model name : a CPU\n": None,
    "": None,
}


def test_a_cpu_says_whether_it_multiplies_bf16() -> None:
    assert {text: hardware.multiplies_bf16(text) for text in FLAGS} == FLAGS


def test_the_device_asked_about_is_the_one_calls_go_to() -> None:
    second = jax.local_devices()[1]
    assert hardware.device() == jax.local_devices()[0]
    with jax.default_device(second):
        assert hardware.device() == second
    with jax.default_device("cpu"):
        assert hardware.device() == jax.local_devices(backend="cpu")[0] and hardware.platform() == "cpu"


@pytest.mark.parametrize("known", [True, False, None])
def test_a_cpu_without_bf16_is_named_once(
    known: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hardware, "_CPU", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware, "platform", lambda: "cpu")
    if known is not None:
        (tmp_path / "cpuinfo").write_text(next(text for text, found in FLAGS.items() if found is known))
    hardware.warn_of_slow_bf16.cache_clear()
    with caplog.at_level(logging.WARNING):
        jax.eval_shape(lambda x: linear(x, x, "float32"), jnp.ones((2, 2)))
        assert not caplog.messages
        for _ in range(2):
            jax.eval_shape(lambda x: linear(x, x, "bfloat16"), jnp.ones((2, 2)))
    assert len(caplog.messages) == (known is False)
    assert all("without bf16" in message and 'compute="float32"' in message for message in caplog.messages)
    hardware.warn_of_slow_bf16.cache_clear()


@pytest.mark.parametrize(("compute", "within"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_the_product_and_its_gradients_are_numpys(compute: str, within: float) -> None:
    random = np.random.default_rng(0)
    inputs, kernel, cotangent = (
        random.normal(size=shape).astype(np.float32) for shape in ((2, 3, 4), (4, 5), (2, 3, 5))
    )
    result, pullback = jax.vjp(lambda x, w: linear(x, w, compute), inputs, kernel)  # type: ignore[arg-type]
    found = (result, *pullback(jnp.asarray(cotangent)))
    wanted = (inputs @ kernel, cotangent @ kernel.T, np.einsum("bti,bto->io", inputs, cotangent))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=within, rtol=within)
