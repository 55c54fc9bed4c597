"""Matrix products in two precisions: values, gradients, the warning of a CPU without bf16; lookups."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ctx_jax import losses
from ctx_jax.data.batch import BiLMBatch, MaskedBatch, TokenRows
from ctx_jax.encoders.elmo import BiLM, zero_carry
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import Pooler, SequenceHead, VocabularyHead
from ctx_jax.heads.attention_pooling import AttentionPooling
from ctx_jax.heads.label import LabelHead
from ctx_jax.heads.tagger import TaggerHead
from ctx_jax.losses import softmax
from ctx_jax.ops import attention, hardware
from ctx_jax.ops.linear import Compute, linear, lookup

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


def test_a_row_outside_the_table_is_nan() -> None:
    table = jnp.arange(6.0).reshape(3, 2)
    rows = np.asarray(lookup(table, jnp.array([[-3, -1, 0, 2, 3]])))[0]
    np.testing.assert_array_equal(rows, [[np.nan] * 2, [np.nan] * 2, [0, 1], [4, 5], [np.nan] * 2])


IDS = np.zeros((2, 4), np.int32)
MASKED = MaskedBatch(
    TokenRows(IDS), IDS[:, :2], IDS[:, :2], np.ones((2, 2), np.float32), IDS[:, 0], np.ones(2, np.float32)
)
CHARACTERS = np.zeros((2, 4, 9), np.int32)
STREAMS = BiLMBatch(CHARACTERS, CHARACTERS, IDS, IDS)


def gradient_products(model: BiLM | Transformer) -> list[str]:
    """Every product of a model's loss and gradients, as the program has it before any backend changes it."""

    def init(key: jax.Array) -> dict[str, Any]:
        if isinstance(model, BiLM):
            head = VocabularyHead(transform=False, tied=False)
            softmax_head = head.init(key, width=model.projection, vocabulary=30)
            return {"encoder": model.init(key), "head": {"softmax": softmax_head}}
        heads = {
            "masked_lm": model.default_head().init(key, width=model.width, vocabulary=model.vocabulary),
            "pooler": Pooler().init(key, width=model.width),
            "next_sentence": SequenceHead().init(key, width=model.width),
        }
        return {"encoder": model.init(key), "head": heads}

    def total(params: dict[str, Any]) -> jax.Array:
        if isinstance(model, BiLM):
            terms, _ = losses.bilm(model, params, STREAMS, zero_carry(model, 2))
        else:
            terms, _ = losses.masked_lm(model, params, MASKED)
        return jnp.stack([part for part, _ in terms.values()]).sum()

    program = jax.jit(jax.grad(total)).lower(jax.eval_shape(init, jax.random.key(0))).as_text()
    return [line for line in program.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]


MODELS = (
    Transformer(30, dim=8, depth=1, heads=2, feed_forward=8, max_positions=8, attention="plain"),
    BiLM(max_characters=9, character_dim=3, filters=((1, 4), (3, 6)), dim=7, projection=5),
)  # fmt: skip


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS, ids=["transformer", "bilm"])
def test_no_product_of_a_model_leaves_its_precision_to_the_backend(
    model: BiLM | Transformer, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in the program for a GPU, which a CPU cannot run: float32 is float32 there too, and not TF32."""
    for module in (attention, softmax):
        monkeypatch.setattr(module, "platform", lambda: "gpu")
    products = gradient_products(replace(model, compute=compute))
    assert len(products) > 30
    for product in products:
        if compute == "float32":
            assert "HIGHEST" in product
        else:
            assert product.count("xbf16>") == 2 and product.endswith("xf32>")


LABEL_HEADS = (
    (LabelHead(("a", "b")), ()),
    (AttentionPooling(), (np.ones((2, 3), bool),)),
    (TaggerHead(("a", "b"), hidden=2, crf=True, char_filters=2), (np.ones((2, 3), bool), np.ones((2, 3, 5), np.int32))),
)


@pytest.mark.parametrize("head, arguments", LABEL_HEADS, ids=["labels", "attention pooling", "tagger"])
def test_no_product_of_a_label_head_leaves_its_precision_to_the_backend(
    head: nn.Module, arguments: tuple[np.ndarray, ...]
) -> None:
    vectors = jnp.ones((2, 3, 4))

    def total(params: Any) -> jax.Array:
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(head.apply(params, vectors, *arguments)))

    params = jax.eval_shape(head.init, jax.random.key(0), vectors, *arguments)
    program = jax.jit(jax.grad(total)).lower(params).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in product for product in products)
