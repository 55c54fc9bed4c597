"""Stacks of encoders: numbers against the members' own vectors, and what cannot be stacked. The laws that a stack
shares with other encoders are in `test_families.py`, its folder and its runs in `test_stack_files.py`.

Letters: L layers, T words, D width.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from label_runs import BAD, GOOD, OTHER, make_place, sentence
from toys.bag_of_characters import BagOfCharacters

import ctx_jax
from ctx_jax.embedding.principal_components import principal_components
from ctx_jax.embedding.stacking import LayersOfMember
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.stack import Member, Stack
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError
from ctx_jax.training.parameter_groups import named

RANDOM = np.random.default_rng(3)
SENTENCES = [sentence(RANDOM, words)[:4] for words in (GOOD, BAD) * 12]
MIX: Any = {"weights": np.float32([0.5, -1.0, 2.0]), "gamma": np.float32(1.5)}
EMBED = jax.jit(ctx_jax.embed, static_argnums=0)
ELMO = BiLM(
    filters=((1, 4), (2, 4)), character_dim=4, highways=1, dim=8, projection=4, max_characters=8, vocabulary=0,
    length_buckets=(), dedup_table_factors=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("stacks"))


@pytest.fixture(scope="module")
def bert(place: Path) -> ctx_jax.Encoder:
    return ctx_jax.load(place / "bert")  # L = 3, D = 16, 24 positions


@pytest.fixture(scope="module")
def table(place: Path) -> ctx_jax.Encoder:
    return ctx_jax.load(place / "table.vec", lowercase=True)  # L = 1, D = 8


def vectors(encoder: ctx_jax.Encoder, sentences: Any = SENTENCES) -> list[np.ndarray]:
    return list(encoder.encode(sentences))


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


def chosen(values: np.ndarray, layers: Any) -> np.ndarray:
    """[1 or L, T, D] of the layers [L, T, D], in numpy."""
    match layers:
        case None | "all":
            return values
        case "last":
            return values[-1:]
        case int():
            return values[layers : layers + 1]
    powers = np.exp(layers["weights"])
    return layers["gamma"] * np.einsum("l,ltd->td", powers / powers.sum(), values)[None]


@pytest.mark.parametrize("layers", [None, "last", 1, MIX], ids=["all", "last", "number", "mix"])
def test_concatenated_vectors_are_the_members(
    bert: ctx_jax.Encoder, table: ctx_jax.Encoder, layers: LayersOfMember
) -> None:
    both = ctx_jax.stack([table, bert], layers=[None, layers])
    depth = 3 if layers is None else 1
    assert (both.model.num_layers, both.model.width) == (depth, 24)
    expected = []
    for static, own in zip(vectors(table), vectors(bert), strict=True):
        own = chosen(own, layers)
        expected.append(np.concatenate([np.repeat(static, depth, axis=0), own], axis=2))
    same(vectors(both), expected)


def principal(rows: np.ndarray, width: int) -> Any:
    """The projection to principal components by numpy's SVD; the largest number of each direction is positive."""
    mean = rows.mean(axis=0, dtype=np.float64)
    directions = np.linalg.svd(rows - mean, full_matrices=False)[2][:width]
    largest = directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)]
    directions = directions * np.sign(largest)[:, None]
    return lambda values: (values - mean) @ directions.T


@pytest.mark.parametrize("layers", [None, "last"])
def test_added_vectors_are_the_members_projected_by_numpys_svd(
    bert: ctx_jax.Encoder, table: ctx_jax.Encoder, layers: LayersOfMember
) -> None:
    both = ctx_jax.stack([table, bert], how="add", layers=[None, layers], fit=iter(SENTENCES))
    assert both.model.width == 8 and {*both.params} == {"member_0", "member_1", "projection_1"}
    own = [chosen(values, layers) for values in vectors(bert)]
    project = principal(np.concatenate([values.reshape(-1, 16) for values in own]), 8)
    same(vectors(both), [static + project(values) for static, values in zip(vectors(table), own, strict=True)])
    wide = ctx_jax.stack([bert, table], how="add", fit=SENTENCES)  # the table's 8 directions, and 8 zeros
    project = principal(np.concatenate([values.reshape(-1, 8) for values in vectors(table)]), 8)
    padded = [np.pad(project(values), [(0, 0), (0, 0), (0, 8)]) for values in vectors(table)]
    same(vectors(wide), [static + values for static, values in zip(padded, vectors(bert), strict=True)])
    assert wide.model.width == 16


def test_vectors_of_one_width_are_added_as_they_are(table: ctx_jax.Encoder) -> None:
    same(vectors(ctx_jax.stack([table, table], how="add")), [2 * values for values in vectors(table)])


def test_projections_without_a_text_are_drawn_by_the_seed(table: ctx_jax.Encoder, bert: ctx_jax.Encoder) -> None:
    one, again, other = (ctx_jax.stack([table, bert], how="add", dim=8, seed=seed) for seed in (0, 0, 1))
    kernel = np.asarray(one.params["projection_1"]["kernel"])
    assert kernel.shape == (16, 8) and not np.asarray(one.params["projection_1"]["bias"]).any()
    np.testing.assert_array_equal(kernel, again.params["projection_1"]["kernel"])
    assert np.abs(kernel - other.params["projection_1"]["kernel"]).max() > 0.01
    assert named(jax.eval_shape(one.model.init, jax.random.key(0))).keys() == named(one.params).keys()


@pytest.mark.parametrize("count, width", [(20, 3), (5000, 4), (40, 6), (30, 9)])
def test_principal_components_are_numpys_whatever_the_parts(count: int, width: int) -> None:
    random = np.random.default_rng(count)
    rows = (random.normal(size=(count, 6)) * [5, 4, 3, 2, 1, 0.5] + 100).astype(np.float32)
    kernel, bias = principal_components(np.array_split(rows, 7), width)
    expected = np.pad(principal(rows, min(width, 6))(rows), [(0, 0), (0, max(width - 6, 0))])
    np.testing.assert_allclose(rows.astype(np.float64) @ kernel + bias, expected, atol=2e-4)


@pytest.mark.parametrize("rows, what", [(np.ones((3, 4)), "got 3"), (np.full((9, 4), np.nan), "NaN"), (None, "got 0")])
def test_components_that_the_vectors_do_not_give_are_refused(rows: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        principal_components([] if rows is None else [rows.astype(np.float32)], 3)


@pytest.mark.slow
def test_an_elmo_a_bert_and_a_table_stand_together(bert: ctx_jax.Encoder, table: ctx_jax.Encoder) -> None:
    elmo = ctx_jax.Encoder(ELMO, ELMO.init(jax.random.key(1)), ELMO.inputs())
    three = ctx_jax.stack([elmo, bert, table])
    same(
        vectors(three, SENTENCES[:4]),
        [
            np.concatenate([one, other, np.repeat(static, 3, axis=0)], axis=2)
            for one, other, static in zip(*(vectors(each, SENTENCES[:4]) for each in (elmo, bert, table)), strict=True)
        ],
    )
    # The state of the biLM comes out and goes in again.
    inputs = three.tokenize(SENTENCES[:2])
    first = EMBED(three.model, three.params, inputs)
    second = EMBED(three.model, three.params, inputs, carry=first.carry)
    own = {"char_ids": inputs["member_0/char_ids"]}
    expected = EMBED(elmo.model, elmo.params, own, carry=EMBED(elmo.model, elmo.params, own).carry)
    np.testing.assert_allclose(second.values[..., :8], expected.values, atol=2e-5)
    with pytest.raises(InputTypeError, match="carry"):
        EMBED(three.model, three.params, inputs, carry=first.carry[0])


def test_the_size_of_a_sentence_is_that_of_the_member_that_needs_most(
    bert: ctx_jax.Encoder, table: ctx_jax.Encoder
) -> None:
    processor = ctx_jax.stack([table, bert]).processor
    given = [["good", "film"], [], ["unheardof"] * 3]
    split = processor.split(given)
    own = bert.processor.sizes(bert.processor.split(given))
    assert processor.longest == 24 and processor.sizes(split) == own and own[2] > 3
    long = [str(word) for word in RANDOM.choice([*GOOD, *OTHER, "unheardof"], 60)]
    (whole,) = processor.split([long])
    for length in (23, 10, 3):
        cut = processor.cut(whole, length)
        words = len(cut.words)
        assert cut.words == long[:words] and processor.sizes([cut])[0] <= length
        further = processor.split([long[: words + 1]])
        assert words == 0 or processor.sizes(further)[0] > length
        inputs = processor.pad([cut], 1, length)
        masks = inputs["member_1/word_mask"].sum(), (inputs["member_0/token_ids"] != -1).sum()
        assert masks == (words, words)
    assert processor.cut(split[0], 24) == split[0] and processor.cut(split[1], 5) == split[1]
    # A first word longer than the row keeps its first pieces.
    words_alone = processor.split([[word] for word in (*GOOD, *BAD, *OTHER)])
    size, word = max(zip(processor.sizes(words_alone), words_alone, strict=True), key=lambda pair: pair[0])
    first = processor.cut(word, size - 1)
    assert size > 3 and processor.sizes([first]) == [size - 1] and first.words == word.words
    assert processor.prompt_length("a good film ", 2) == 2


def test_members_with_pieces_have_no_tokens_in_common(bert: ctx_jax.Encoder, table: ctx_jax.Encoder) -> None:
    both = ctx_jax.stack([table, bert])
    for refused in (
        lambda: both.tokenize(["a film"], level="tokens"),
        lambda: both.processor.split(["a film"], "tokens"),
    ):
        with pytest.raises(InputError, match="member_1"):
            refused()
    with pytest.raises(InputError, match="tokens=9"):
        ctx_jax.stack([table, table]).tokenize(["a film"], tokens=9)
    assert both.tokenize(["a film"], tokens=9)["member_1/token_ids"].shape == (1, 9)
    words = ctx_jax.stack([table, table]).tokenize(["a film"], level="tokens")
    assert {*words} == {"member_0/token_ids", "member_1/token_ids"}
    # A text is its words then.
    (found,) = both.encode(["the good film"], level="sentence")
    np.testing.assert_allclose(found, vectors(both, [["the", "good", "film"]])[0][-1].mean(axis=0), atol=1e-5)


def test_which_pieces_and_which_precision_hold_for_all(bert: ctx_jax.Encoder, table: ctx_jax.Encoder) -> None:
    low = replace(bert, model=replace(bert.model, compute="bfloat16"))  # type: ignore[type-var]
    with pytest.raises(InputError, match="compute"):
        ctx_jax.stack([bert, low], layers="last")
    both: Any = ctx_jax.stack([bert, low], layers="last", compute="bfloat16").model
    assert {member.model.compute for member in both.members} == {"bfloat16"}
    assert ctx_jax.stack([table, low]).model.compute == "bfloat16"  # a table computes nothing
    first = replace(bert, processor=bert.processor.with_pieces("first"))
    with pytest.raises(InputError, match="pieces"):
        ctx_jax.stack([bert, first], layers="last")
    assert ctx_jax.stack([table, bert]).processor.with_pieces("last").pieces == "last"
    prose = replace(table, processor=replace(table.processor, rule="prose"))  # type: ignore[type-var]
    with pytest.raises(InputError, match="rule"):
        ctx_jax.stack([prose, bert])
    one = ctx_jax.stack([prose, bert], rule="prose")
    np.testing.assert_array_equal(
        one.tokenize(["good, film"])["member_0/token_ids"], one.tokenize([["good", ",", "film"]])["member_0/token_ids"]
    )


def test_what_cannot_be_stacked_is_refused_by_name(bert: ctx_jax.Encoder, table: ctx_jax.Encoder) -> None:
    bag = BagOfCharacters()
    toy = ctx_jax.Encoder(bag, bag.init(jax.random.key(0)), bag.inputs())  # L = 2
    for members, changes, field in (
        ([bert, toy], {}, "layers"),
        ([bert, table], {"layers": ["last"]}, "layers"),
        ([bert, table], {"layers": "first"}, "layers"),
        ([bert, table], {"layers": [3, None]}, "layers"),
        ([bert, table], {"layers": [True, None]}, "layers"),
        ([bert, table], {"layers": MIX}, "layers"),
        ([bert, table], {"dim": 8}, "dim"),
        ([bert, table], {"fit": SENTENCES}, "fit"),
        ([table, table], {"fit": SENTENCES, "how": "add"}, "fit"),
        ([bert, table], {"how": "multiply"}, "how"),
    ):
        with pytest.raises(ConfigError) as caught:
            ctx_jax.stack(members, **changes)  # type: ignore[arg-type]
        assert caught.value.field == field, changes
    with pytest.raises(InputError, match="at least one"):
        ctx_jax.stack([])
    with pytest.raises(InputTypeError, match="Transformer"):
        ctx_jax.stack([bert.model])  # type: ignore[list-item]
    with pytest.raises(InputError, match="more than 8 vectors"):
        ctx_jax.stack([table, bert], how="add", fit=[["good"]])


def test_inputs_of_other_encoders_are_refused(bert: ctx_jax.Encoder, table: ctx_jax.Encoder) -> None:
    both = ctx_jax.stack([table, bert])
    inputs = both.tokenize([["good", "film"]])
    for wrong in (
        table.tokenize([["good"]]),
        inputs | {"member_2/token_ids": inputs["member_0/token_ids"]},
        {name: array for name, array in inputs.items() if name.startswith("member_0")},
        inputs | table_inputs(table, ["good", "good", "film"]),
    ):
        with pytest.raises(InputError):
            EMBED(both.model, both.params, wrong)


def table_inputs(table: ctx_jax.Encoder, words: list[str]) -> dict[str, np.ndarray]:
    return {f"member_0/{name}": array for name, array in table.tokenize([words]).items()}


def test_a_layer_that_was_chosen_has_the_depth_of_the_stack(bert: ctx_jax.Encoder, table: ctx_jax.Encoder) -> None:
    whole, last = ctx_jax.stack([bert, table]).model, ctx_jax.stack([bert, table], layers="last").model
    names = ("member_0/embeddings/tokens", "member_0/layer_1/up/kernel", "member_1/words/embedding")
    assert [whole.depth_of(name) for name in names] == [0, 2, 0]
    assert [last.depth_of(name) for name in names] == [0, 1, 0]
    added = ctx_jax.stack([bert, table], how="add").model
    assert added.depth_of("projection_1/kernel") == 3 == added.num_layers
    for name in ("projection_0/kernel", "member_2/words/embedding", "member_0/wavelet"):
        with pytest.raises(InputError):
            added.depth_of(name)
    assert added.flops_per_token(7) == bert.model.flops_per_token(7) + 2 * 8 * 16


@pytest.mark.slow
def test_a_stack_of_stacks(bert: ctx_jax.Encoder, table: ctx_jax.Encoder) -> None:
    inner = ctx_jax.stack([table, table], how="add")
    outer = ctx_jax.stack([bert, inner])
    flat = vectors(ctx_jax.stack([bert, table]), SENTENCES[:3])
    same(vectors(outer, SENTENCES[:3]), [values * np.repeat([1, 2], [16, 8]) for values in flat])
    assert isinstance(outer.model, Stack) and isinstance(outer.model.members[1], Member)
    assert jnp.shape(outer.params["member_1"]["member_0"]["words"]["embedding"])[1] == 8
