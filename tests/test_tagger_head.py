"""A tagger's BiLSTMs, characters and placements."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.encoders.stack import Member, Stack
from ctx_jax.encoders.static import StaticTable
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads.characters import CharacterCNN
from ctx_jax.heads.tagger import BiLSTM, TaggerHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks.tag_head import TagHead
from ctx_jax.tokenizers.characters import encode_word

LENGTHS, D = (5, 2, 0), 6
LABELS = ("O", "B-A", "I-A")


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


MASK = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]


@pytest.mark.slow
def test_a_bilstm_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    hidden, values = 4, drawn(len(LENGTHS) - 1, max(LENGTHS), D)
    mask = MASK[: len(values)]
    module = BiLSTM(hidden)
    params = jax.tree.map(lambda array: drawn(*array.shape), module.init(jax.random.key(0), values, mask)["params"])
    theirs = torch.nn.LSTM(D, hidden, bidirectional=True, batch_first=True)
    gates = np.arange(4 * hidden).reshape(4, hidden)[[0, 2, 1, 3]].ravel()  # i j f o of ours, i f g o of theirs
    shift = np.repeat(np.float32([0, 1, 0, 0]), hidden)  # our forget gate adds 1
    with torch.no_grad():
        for name, suffix in (("forward", ""), ("backward", "_reverse")):
            kernel = params[f"{name}_kernel"].T[gates]
            getattr(theirs, f"weight_ih_l0{suffix}").copy_(torch.from_numpy(kernel[:, :D].copy()))
            getattr(theirs, f"weight_hh_l0{suffix}").copy_(torch.from_numpy(kernel[:, D:].copy()))
            getattr(theirs, f"bias_ih_l0{suffix}").copy_(torch.from_numpy(params[f"{name}_bias"][gates] + shift))
            getattr(theirs, f"bias_hh_l0{suffix}").zero_()
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.from_numpy(values), list(LENGTHS[: len(values)]), batch_first=True
        )
        expected, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    np.testing.assert_allclose(module.apply({"params": params}, values, mask), expected.numpy(), atol=1e-5)


@pytest.mark.slow
def test_characters_are_the_maximum_of_filters_by_hand() -> None:
    count, words = 8, ["cat", "", "longer-than-it-takes", "é"]
    char_ids = np.stack([encode_word(word, count) for word in words] + [np.zeros(count, np.int32)])[None]
    module = CharacterCNN(filters=5, dim=3)
    params = module.init(jax.random.key(0), char_ids)["params"]
    table, kernel = np.asarray(params["embedding"]), np.asarray(params["kernel"])
    found = np.asarray(module.apply({"params": params}, char_ids))[0]
    for row, word in enumerate(words):
        raw = [258, *word.encode()[: count - 2], 259]
        rows = np.concatenate([np.zeros((1, 3)), table[raw], np.zeros((1, 3))])
        expected = np.max([rows[i : i + 3].ravel() @ kernel for i in range(len(raw))], axis=0)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
    assert not found[-1].any()


def heads() -> list[TaggerHead]:
    common: dict[str, Any] = {"char_filters": 3, "char_dim": 2, "char_length": 5}
    return [
        TaggerHead(LABELS, hidden=4, layers=2, crf=True),
        TaggerHead(LABELS, crf=True, **common),
        TaggerHead(LABELS, hidden=4, layers=2, placement="first_output", static_columns=((2, 4),), **common),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("head", heads())
def test_a_padded_batch_is_its_rows_alone(head: TaggerHead) -> None:
    vectors = np.where(MASK[..., None], drawn(*MASK.shape, D), 0)
    char_ids = np.where(MASK[..., None], np.random.default_rng(1).integers(1, 260, (*MASK.shape, 5)), 0)
    char_ids = char_ids.astype(np.int32)
    params = head.init(jax.random.key(0), vectors, MASK, char_ids)
    params = jax.tree.map(lambda array: array + 0.1, params)
    found: Any = head.apply(params, vectors, MASK, char_ids)
    assert (found.transitions is None) is not head.crf
    for row, length in enumerate(LENGTHS[:2]):
        own = slice(row, row + 1), slice(length)
        alone: Any = head.apply(params, vectors[own], MASK[own], char_ids[own])
        np.testing.assert_allclose(alone.logits[0], found.logits[row, :length], atol=1e-5)


@pytest.mark.slow
def test_taglm_reads_static_vectors_and_characters_below_and_the_rest_at_the_first_output() -> None:
    head, vectors = heads()[2], jnp.asarray(drawn(1, 4, D))
    args = jnp.ones((1, 4), bool), jnp.ones((1, 4, 5), jnp.int32)
    params = head.init(jax.random.key(0), vectors, *args)
    shapes = {name: params["params"][name]["forward_kernel"].shape for name in ("lstm_0", "lstm_1")}
    assert shapes == {"lstm_0": (2 + 3 + 4, 16), "lstm_1": (2 * 4 + (D - 2) + 4, 16)}
    _, state = head.apply(params, vectors, *args, capture_intermediates=True)
    _, other = head.apply(params, vectors.at[:, :, :2].add(1).at[:, :, 4:].add(1), *args, capture_intermediates=True)
    first, second = (
        [np.asarray(each["intermediates"][name]["__call__"][0]) for name in ("lstm_0", "lstm_1")]
        for each in (state, other)
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1] - second[1]).max() > 0


def test_which_columns_of_a_stack_are_static() -> None:
    bert = Transformer(30, dim=16, depth=1, heads=2, feed_forward=24, max_positions=24)
    table = StaticTable(vocabulary=5, dim=8)
    taglm = TagHead("bilstm_crf", placement="first_output")
    width = table.width
    stack = Stack((Member(table), Member(bert, 1), Member(table)))
    assert taglm.module(stack, LABELS, 0.0).static_columns == ((0, width), (width + 16, 2 * width + 16))
    assert taglm.module(Stack((Member(bert), Member(table))), LABELS, 0.0).static_columns == ((16, 16 + width),)
    assert TagHead("bilstm_crf", placement="first_output", char_filters=2).module(bert, LABELS, 0.0)
    for model in (bert, table):
        with pytest.raises(ConfigError) as caught:
            taglm.module(model, LABELS, 0.0)
        assert caught.value.field == "head.placement"


@pytest.mark.parametrize(
    "field, changes",
    [
        ("head.hidden", {"hidden": 0}),
        ("head.layers", {"layers": 0}),
        ("head.char_length", {"char_length": 2}),
        ("head.placement", {"placement": "first_output"}),
    ],
)
def test_settings_that_cannot_be_used_are_named(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        TagHead(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "field, changes",
    [
        ("head.hidden", {"kind": "crf", "hidden": 100}),
        ("head.layers", {"layers": 2}),
        ("head.char_dim", {"kind": "bilstm", "char_dim": 10}),
        ("head.char_length", {"char_length": 30}),
        ("head.constrained", {"kind": "bilstm", "constrained": False}),
    ],
)
def test_settings_that_a_head_does_not_read_are_named(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        TagHead(**changes).check()
    assert caught.value.field == field
    TagHead("bilstm_crf", hidden=3, layers=2, constrained=False, char_filters=2, char_dim=4, char_length=9).check()
