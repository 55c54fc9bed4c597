"""A Transformer's settings: published sizes, depths of parameters, and every combination that is refused."""

from dataclasses import fields, replace
from math import nan
from typing import Any

import jax
import pytest
from tiny_transformers import BERT, MODERN

from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import Pooler, VocabularyHead
from ctx_jax.io.errors import ConfigError

MODERNBERT = Transformer(
    vocabulary=50368,
    depth=22,
    feed_forward=1152,
    gated=True,
    norm="pre",
    positions="rotary",
    token_types=0,
    first_attention_norm=False,
    **dict.fromkeys(("norm_bias", "attention_bias", "feed_forward_bias"), False),
)
NUMBERS = [field.name for field in fields(BERT) if type(field.default) in (int, float)]


@pytest.mark.parametrize(
    ("millions", "model", "heads"),
    [
        (110.1, Transformer(), (Pooler(), VocabularyHead())),
        (
            124.7,
            Transformer(vocabulary=50265, max_positions=514, token_types=1, pad_id=1, positions_after_padding=True),
            (VocabularyHead(),),
        ),
        (278.3, Transformer(vocabulary=250002, max_positions=514, token_types=1, pad_id=1), (VocabularyHead(),)),
        (67.0, Transformer(depth=6, token_types=0), (VocabularyHead(),)),
        (149.7, MODERNBERT, (MODERNBERT.default_head(),)),
    ],
    ids=["bert", "roberta", "xlm-r", "distilbert", "modernbert"],
)
def test_published_sizes(millions: float, model: Transformer, heads: tuple[Any, ...]) -> None:
    def init(key: jax.Array) -> Any:
        sizes = {"vocabulary": model.vocabulary}
        return model.init(key), [
            head.init(key, width=model.width, **(sizes if isinstance(head, VocabularyHead) else {})) for head in heads
        ]

    shapes = jax.eval_shape(init, jax.random.key(0))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == millions


def test_depth_follows_the_order_of_the_layers() -> None:
    names = ["embeddings/norm/scale", "layer_0/query/kernel", "layer_1/up/bias", "final_norm/scale"]
    assert [MODERN.depth_of(name) for name in names] == [0, 1, 2, MODERN.num_layers] == [0, 1, 2, 3]
    paths = jax.tree_util.tree_leaves_with_path(jax.eval_shape(MODERN.init, jax.random.key(0)))
    assert {MODERN.depth_of("/".join(key.key for key in path)) for path, _ in paths} == {0, 1, 2, 3}
    for model, name in ((MODERN, "layer_2/up/bias"), (MODERN, "masked_lm/dense"), (BERT, "final_norm/scale")):
        with pytest.raises(ValueError, match=name):
            model.depth_of(name)


@pytest.mark.parametrize(
    "field, value",
    [
        *((name, value) for name in NUMBERS for value in (-2, nan)),
        *((name, 0) for name in ("dim", "heads", "feed_forward", "max_positions", "rotary_theta")),
        *((name, value) for name in NUMBERS if name.endswith("_dropout") for value in (1.0, 3.0)),
    ],
)
def test_numbers_out_of_range_are_refused_by_field(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"must be .*, got {value}$") as raised:
        replace(BERT, **{field: value})  # type: ignore[arg-type]
    assert raised.value.field == field


@pytest.mark.parametrize(
    "changes, field, part",
    [
        ({"heads": 3}, "dim", "multiple of heads, got 8 and 3"),
        ({"heads": 8, "positions": "rotary"}, "dim", "even for rotary positions, got 1"),
        ({"local_layers": (2,)}, "local_layers", r"0..1, got \[2\]"),
        ({"first_attention_norm": False}, "first_attention_norm", 'norm="pre"'),
        ({"positions_after_padding": True, "pad_id": None}, "positions_after_padding", "pad_id"),
        ({"positions_after_padding": True, "pad_id": 1, "max_positions": 2}, "max_positions", "got 2"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(changes: dict[str, Any], field: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as raised:
        replace(BERT, **changes)
    assert raised.value.field == field
