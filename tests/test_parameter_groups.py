"""Parameter groups: names to rates, weight decay and frozen; the arrays are those that the optimizers act on."""

from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax.checkpoints.frozen import merge_params
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import Pooler, VocabularyHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.parameter_groups import (
    ParameterGroup,
    decayed,
    group_of,
    matrices_of_layers,
    named,
    rate_factors,
    split_frozen,
)

BERT = Transformer(20, dim=8, depth=2, heads=2, feed_forward=16, max_positions=8)
ELMO = BiLM(max_characters=5, character_dim=2, filters=((1, 2), (2, 3)), dim=6, projection=4, highways=1)


def shapes(model: Any) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        key = jax.random.key(0)
        head = VocabularyHead(transform=isinstance(model, Transformer), tied=isinstance(model, Transformer))
        heads = {"masked_lm": head.init(key, width=8, vocabulary=20), "pooler": Pooler().init(key, width=8)}
        return {"encoder": model.init(key), "head": heads}

    return jax.eval_shape(make)


def of(flags: Any) -> set[str]:
    return {name for name, flag in named(flags).items() if flag}


@pytest.mark.parametrize("model", [BERT, ELMO], ids=["bert", "elmo"])
def test_decay_acts_on_arrays_of_two_axes_and_on_no_norm(model: Any) -> None:
    params = shapes(model)
    expected = {name for name, leaf in named(params).items() if leaf.ndim >= 2}
    assert of(decayed(params)) == expected
    assert expected and all("norm" not in name and not name.endswith("bias") for name in expected)


def test_muon_acts_on_the_matrices_of_layers_alone() -> None:
    bert = of(matrices_of_layers(shapes(BERT), BERT))
    parts = ("query", "key", "value", "output", "up", "down")
    assert bert == {f"encoder/layer_{layer}/{part}/kernel" for layer in range(2) for part in parts}
    elmo = of(matrices_of_layers(shapes(ELMO), ELMO))
    assert elmo == {
        f"encoder/{direction}_{layer}/{part}"
        for direction in ("forward", "backward")
        for layer in range(2)
        for part in ("kernel", "projection")
    }


def test_rates_fall_with_the_layers_above() -> None:
    for model, names in (
        (BERT, {"encoder/embeddings/tokens": 0.125, "encoder/layer_0/up/bias": 0.25, "encoder/layer_1/up/bias": 0.5}),
        (ELMO, {"encoder/characters/embedding": 0.125, "encoder/highway_0/gate_kernel": 0.125,
                "encoder/backward_0/bias": 0.25, "encoder/forward_1/kernel": 0.5}),
    ):  # fmt: skip
        factors = named(rate_factors(shapes(model), (), 0.5, model))
        assert {name: factors[name] for name in names} == names
        assert factors["head/masked_lm/decoder/bias"] == factors["head/pooler/kernel"] == 1.0


def test_the_first_pattern_that_meets_a_name_decides() -> None:
    groups = (ParameterGroup("layer_0", 0.5), ParameterGroup("layer", 0.1, weight_decay=False))
    params = shapes(BERT)
    factors = named(rate_factors(params, groups, 1.0, None))
    assert factors["encoder/layer_0/up/kernel"] == 0.5 and factors["encoder/layer_1/up/kernel"] == 0.1
    assert factors["encoder/embeddings/tokens"] == 1.0
    kept = of(decayed(params, groups))
    assert "encoder/layer_0/up/kernel" in kept and "encoder/layer_1/up/kernel" not in kept
    both = named(rate_factors(params, groups, 0.5, BERT))
    assert both["encoder/layer_0/up/kernel"] == 0.5 * 0.25


def test_frozen_parameters_are_split_off_and_joined_again() -> None:
    params = shapes(BERT)
    trained, frozen = split_frozen(params, (ParameterGroup("^encoder/(embeddings|layer_0)", frozen=True),))
    assert set(trained["encoder"]) == {"layer_1"} and set(frozen["encoder"]) == {"embeddings", "layer_0"}
    assert set(trained) == {"encoder", "head"} and set(frozen) == {"encoder"}
    assert named(merge_params(trained, frozen)).keys() == named(params).keys()
    assert split_frozen(params, ())[1] == {}
    none, everything = split_frozen(params, (ParameterGroup("", frozen=True),))
    assert none == {} and named(everything).keys() == named(params).keys()


def test_what_no_pattern_meets_and_no_regular_expression_is_refused() -> None:
    with pytest.raises(ConfigError, match="encoder/layer_0/wavelet"):
        group_of("encoder/layer_0/wavelet", ())
    assert group_of("encoder/layer_0/wavelet", (ParameterGroup("wavelet", 0.3),)).learning_rate_factor == 0.3
    with pytest.raises(ConfigError, match=r"\(unclosed"):
        ParameterGroup("(unclosed")
    with pytest.raises(ConfigError, match="-1"):
        ParameterGroup("x", -1.0)
    with pytest.raises(ValueError, match="nothing"):
        rate_factors({"encoder": {"nothing": {"kernel": np.zeros(1)}}}, (), 0.5, BERT)
