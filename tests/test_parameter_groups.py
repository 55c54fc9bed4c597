"""Parameter groups: names to rates, weight decay and frozen; the arrays that each optimizer acts on, by name."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from ctx_jax.checkpoints.frozen import merge_params
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import Pooler, SequenceHead, VocabularyHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.parameter_groups import (
    ParameterGroup,
    decayed,
    group_of,
    map_named,
    matrices_of_layers,
    named,
    rate_factors,
    split_frozen,
)

BERT = Transformer(20, dim=8, depth=2, heads=2, feed_forward=16, max_positions=8)
MODERN = replace(
    BERT, norm="pre", positions="rotary", gated=True, first_attention_norm=False, token_types=0, norm_bias=False
)  # fmt: skip
GPT2 = replace(BERT, norm="pre", causal=True, embedding_norm=False, token_types=0)
ELMO = BiLM(max_characters=5, character_dim=2, filters=((1, 2), (2, 3)), dim=6, projection=4, highways=1)
GRU = BiLM(token_input="words", vocabulary=9, dim=6, projection=4, depth=1, cell="gru")


class Case(NamedTuple):
    """A model with its heads, and the names of its arrays, written out."""

    model: Any
    heads: dict[str, Any]
    matrices: str  # of the layers: what Muon acts on, weight decay too
    tables: str  # what else weight decay acts on
    vectors: str  # what it does not act on
    depths: dict[str, int]  # by the beginning of a name, how many layers lie above


def layers(count: int, parts: str, tail: str = "") -> str:
    """`a b` -> encoder/layer_0/a encoder/layer_0/b encoder/layer_1/a ..."""
    return " ".join(f"encoder/layer_{layer}/{part}{tail}" for layer in range(count) for part in parts.split())


def directions(count: int, parts: str) -> str:
    return " ".join(
        f"encoder/{direction}_{layer}/{part}"
        for direction in ("forward", "backward")
        for layer in range(count)
        for part in parts.split()
    )


SIX, SEVEN = "query key value output up down", "query key value output up gate down"
NORM = "{0}/bias {0}/scale"
TRANSFORM = "head/masked_lm/dense/bias head/masked_lm/norm/bias head/masked_lm/norm/scale head/masked_lm/decoder/bias"
CASES = {
    "bert": Case(
        BERT,
        {"masked_lm": VocabularyHead(tied=False), "pooler": Pooler(), "next_sentence": SequenceHead()},
        matrices=layers(2, SIX, "/kernel"),
        tables="encoder/embeddings/tokens encoder/embeddings/positions encoder/embeddings/types "
        "head/masked_lm/dense/kernel head/masked_lm/decoder/matrix head/pooler/kernel head/next_sentence/kernel",
        vectors=f"encoder/embeddings/norm/bias encoder/embeddings/norm/scale {layers(2, SIX, '/bias')} "
        f"{layers(2, NORM.format('attention_norm'))} {layers(2, NORM.format('feed_forward_norm'))} "
        f"{TRANSFORM} head/pooler/bias head/next_sentence/bias",
        depths={"encoder/embeddings": 3, "encoder/layer_0": 2, "encoder/layer_1": 1, "head": 0},
    ),
    "modern": Case(
        MODERN,
        {"masked_lm": VocabularyHead()},
        matrices=layers(2, SEVEN, "/kernel"),
        tables="encoder/embeddings/tokens head/masked_lm/dense/kernel",
        vectors=f"encoder/embeddings/norm/scale encoder/final_norm/scale {layers(2, SEVEN, '/bias')} "
        f"encoder/layer_1/attention_norm/scale {layers(2, 'feed_forward_norm/scale')} {TRANSFORM}",
        depths={
            "encoder/embeddings": 3, "encoder/layer_0": 2, "encoder/layer_1": 1, "encoder/final_norm": 0, "head": 0,
        },
    ),
    "gpt2": Case(
        GPT2,
        {"causal_lm": VocabularyHead(transform=False, decoder_bias=False)},
        matrices=layers(2, SIX, "/kernel"),
        tables="encoder/embeddings/tokens encoder/embeddings/positions",
        vectors=f"encoder/final_norm/bias encoder/final_norm/scale {layers(2, SIX, '/bias')} "
        f"{layers(2, NORM.format('attention_norm'))} {layers(2, NORM.format('feed_forward_norm'))}",
        depths={"encoder/embeddings": 3, "encoder/layer_0": 2, "encoder/layer_1": 1, "encoder/final_norm": 0},
    ),
    "elmo": Case(
        ELMO,
        {"softmax": VocabularyHead(transform=False, tied=False)},
        matrices=directions(2, "kernel projection"),
        tables="encoder/characters/embedding encoder/convolution_0/kernel encoder/convolution_1/kernel "
        "encoder/highway_0/kernel encoder/highway_0/gate_kernel encoder/projection/kernel head/softmax/decoder/matrix",
        vectors="encoder/convolution_0/bias encoder/convolution_1/bias encoder/highway_0/bias "
        f"encoder/highway_0/gate_bias encoder/projection/bias {directions(2, 'bias')} head/softmax/decoder/bias",
        depths={
            "encoder/characters": 3, "encoder/convolution_0": 3, "encoder/convolution_1": 3, "encoder/highway_0": 3,
            "encoder/projection": 3, "encoder/forward_0": 2, "encoder/backward_0": 2, "encoder/forward_1": 1,
            "encoder/backward_1": 1, "head": 0,
        },
    ),
    "elmo over words": Case(
        GRU,
        {"softmax": VocabularyHead(transform=False, tied=True)},
        matrices=directions(1, "kernel projection"),
        tables="encoder/words/embedding",
        vectors=f"{directions(1, 'bias')} head/softmax/decoder/bias",
        depths={"encoder/words": 2, "encoder/forward_0": 1, "encoder/backward_0": 1, "head": 0},
    ),
}  # fmt: skip


def shapes(case: Case) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        key, model = jax.random.key(0), case.model
        width = 4 if isinstance(model, BiLM) else model.width  # the biLM's softmax reads one direction
        heads = {
            name: head.init(key, width=width, **({"vocabulary": 20} if isinstance(head, VocabularyHead) else {}))
            for name, head in case.heads.items()
        }
        return {"encoder": model.init(key), "head": heads}

    return jax.eval_shape(make)


def of(flags: Any) -> set[str]:
    return {name for name, flag in named(flags).items() if flag}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_optimizer_acts_on_the_arrays_of_this_list(case: Case) -> None:
    params, matrices = shapes(case), set(case.matrices.split())
    decaying = matrices | set(case.tables.split())
    assert named(params).keys() == decaying | set(case.vectors.split())
    assert of(decayed(params)) == decaying
    assert of(matrices_of_layers(params, case.model)) == matrices
    for name, factor in named(rate_factors(params, (), 0.5, case.model)).items():
        (above,) = [above for start, above in case.depths.items() if name.startswith(f"{start}/")]
        assert factor == 0.5**above, name
    assert set(named(rate_factors(params, (), 1.0, None)).values()) == {1.0}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_weight_decay_goes_by_name_and_not_by_shape(case: Case) -> None:
    """Stacked over layers, a norm has two axes."""
    params = shapes(case)
    stacked = map_named(lambda _, leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), params)
    assert of(decayed(stacked)) == of(decayed(params))


def test_the_first_pattern_that_meets_a_name_decides() -> None:
    groups = (ParameterGroup("layer_0", 0.5), ParameterGroup("layer", 0.1, weight_decay=False))
    params = shapes(CASES["bert"])
    factors = named(rate_factors(params, groups, 1.0, None))
    assert factors["encoder/layer_0/up/kernel"] == 0.5 and factors["encoder/layer_1/up/kernel"] == 0.1
    assert factors["encoder/embeddings/tokens"] == 1.0
    kept = of(decayed(params, groups))
    assert "encoder/layer_0/up/kernel" in kept and "encoder/layer_1/up/kernel" not in kept
    both = named(rate_factors(params, groups, 0.5, BERT))
    assert both["encoder/layer_0/up/kernel"] == 0.5 * 0.25


def test_the_groups_of_a_run_and_of_its_task_count_together() -> None:
    """Rates multiply, either freezes, and weight decay is the run's where it has one."""
    run = (ParameterGroup("kernel$", 0.5, weight_decay=False), ParameterGroup("scale$", 3.0, weight_decay=None))
    task = (
        ParameterGroup("layer_0/query", frozen=True),
        ParameterGroup("^encoder/", 0.1, weight_decay=None),
        ParameterGroup("^head/", 2.0, weight_decay=False),
    )
    expected = {
        "encoder/layer_0/query/kernel": (0.5, False, True),
        "encoder/layer_0/up/kernel": (0.05, False, False),
        "encoder/layer_0/up/bias": (0.1, False, False),  # no weight decay by default
        "encoder/embeddings/tokens": (0.1, True, False),
        "encoder/embeddings/norm/scale": (pytest.approx(0.3), False, False),
        "head/pooler/kernel": (1.0, False, False),
        "head/masked_lm/decoder/matrix": (2.0, False, False),
    }
    for name, (rate, decay, frozen) in expected.items():
        group = group_of(name, run, task)
        assert (group.learning_rate_factor, group.weight_decay, group.frozen) == (rate, decay, frozen), name
    assert group_of("encoder/layer_0/up/kernel", (ParameterGroup("up", frozen=True),), task).frozen
    with pytest.raises(ConfigError, match="wavelet"):
        group_of("encoder/layer_0/wavelet", (), task)


def test_frozen_parameters_are_split_off_and_joined_again() -> None:
    params = shapes(CASES["bert"])
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
