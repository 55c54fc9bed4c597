"""Scores of sentences against loops over single unpadded rows and against transformers, and BLiMP by them."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from evaluation_sets import write_blimp
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from ctx_jax.data.pair_sets import read_blimp
from ctx_jax.encoders.base import Source
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.encoders.elmo.inputs import CharacterInputs
from ctx_jax.encoders.transformer import Transformer, last_hidden
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.evaluation.minimal_pairs import blimp
from ctx_jax.evaluation.perplexity import sentence_scores
from ctx_jax.evaluation.sentence_likelihood import log_probabilities, pseudo_log_likelihoods
from ctx_jax.heads import Head, VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.vocabulary import Vocabulary

TEXT = ["the cat sat under the table.", "a quick dog barks under the house", "every bird can't sing over the table"] * 4
SENTENCES = [
    "the cat sits.", "every birdhouse can't", "a", "the quick quicktable barks, under the house", "tables",
]  # fmt: skip
WORDS = [sentence.split() for sentence in SENTENCES]
MASKED = train(TEXT, "wordpiece", 70)
CAUSAL = train(TEXT, "bpe", 290, causal=True)


@lru_cache
def transformer(causal: bool) -> tuple[Transformer, VocabularyHead, dict[str, Any]]:
    model = Transformer(
        len(CAUSAL if causal else MASKED),
        dim=8, depth=1, heads=2, feed_forward=12, max_positions=48, initial_scale=0.5, causal=causal,
        token_types=0 if causal else 2, norm="pre" if causal else "post", embedding_norm=not causal,
    )  # fmt: skip
    head = model.default_head()
    name = "causal_lm" if causal else "masked_lm"

    @jax.jit
    def init(key: jax.Array) -> dict[str, Any]:
        own = head.init(key, width=model.width, vocabulary=model.vocabulary, scale=1.0)
        return {"encoder": model.init(key), "head": {name: own}}

    return model, head, init(jax.random.key(0))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@lru_cache
def single_rows(causal: bool) -> Callable[[list[int]], np.ndarray]:
    """A function of one row of ids to its log probabilities [S, V], computed alone and without padding."""
    model, head, params = transformer(causal)
    own = params["head"]["causal_lm" if causal else "masked_lm"]

    @jax.jit
    def logits(ids: jax.Array) -> jax.Array:
        hidden = last_hidden(model, params["encoder"], ids[None])[0]
        return head.logits(own, hidden, params["encoder"]["embeddings"]["tokens"])

    return lambda ids: log_softmax(np.asarray(logits(np.array(ids, np.int32)), np.float64))


def slow_pseudo(rows: Any, subwords: Subwords, text: str) -> tuple[float, float]:
    """(original, within-word left-to-right) piece by piece, words as the tokenizer's own word_ids tell."""
    encoding = subwords.tokenizer.encode(text, add_special_tokens=False)
    ids, words = encoding.ids, encoding.word_ids
    before, after = [subwords.begin_id], [subwords.end_id]
    original = within = 0.0
    for piece, target in enumerate(ids):
        later = [i for i in range(piece, len(ids)) if words[i] == words[piece]]
        for masked in ([piece], later):
            row = [subwords.mask_id if i in masked else number for i, number in enumerate(ids)]
            own = rows([*before, *row, *after])[piece + 1, target]
            if masked is later:
                within += own
            else:
                original += own
    return original, within


@pytest.mark.parametrize("batch_size", [8, 64])
def test_pseudo_log_likelihoods_are_a_slow_loops(batch_size: int) -> None:
    """Whatever is in a batch with them, and where a sentence needs more rows than a batch has."""
    model, head, params = transformer(False)
    found = list(pseudo_log_likelihoods(model, params, MASKED, WORDS, head=head, batch_size=batch_size))
    rows = single_rows(False)
    expected = [slow_pseudo(rows, MASKED, text) for text in SENTENCES]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert abs(found[1].original - found[1].within_word_l2r) > 1e-3, "a word in several pieces"
    assert found[2].original == found[2].within_word_l2r


def test_a_sentences_variants_are_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of a batch has a piece of its own; rows of padding fill it up."""
    from ctx_jax.evaluation import sentence_likelihood

    batches: list[Any] = []

    class Recorded:
        def __init__(self, function: Any, static: Any, params: Any, devices: Any) -> None:
            pass

        def __call__(self, batch: Any, size: int) -> np.ndarray:
            batches.append(batch)
            return np.arange(size, dtype=np.float32)

    monkeypatch.setattr(sentence_likelihood, "RowFunction", Recorded)
    model, _, _ = transformer(False)
    words = [["the", "cat", "sat"], ["a"] * 30, ["a"]]
    found = list(pseudo_log_likelihoods(model, {}, MASKED, words, batch_size=16))
    assert len(found) == 3
    sizes = [int(batch.predicted_weights.sum()) for batch in batches]
    pieces = [len(each.ids) for each in MASKED.tokenize_words(words)]
    extra = pieces[0] - 3
    assert sorted(sizes) == sorted([pieces[0] + extra + 1, 30]), "two short ones together, the long one in one of 32"
    assert sorted(len(batch.tokens.token_ids) for batch in batches) == [16, 32]


def slow_causal(rows: Any, subwords: Subwords, text: str, begin: int | None = None) -> float:
    ids = subwords.tokenizer.encode(text, add_special_tokens=False).ids
    logs = rows([subwords.end_id if begin is None else begin, *ids])
    return float(sum(logs[place, target] for place, target in enumerate(ids)))


def test_log_probabilities_are_a_slow_loops() -> None:
    model, head, params = transformer(True)
    found = list(log_probabilities(model, params, CAUSAL, WORDS, head=head, batch_size=2))
    rows = single_rows(True)
    np.testing.assert_allclose(found, [slow_causal(rows, CAUSAL, text) for text in SENTENCES], rtol=1e-4)


def test_a_sentence_begins_with_the_tokenizers_own_token() -> None:
    tokenizer = Tokenizer.from_str(CAUSAL.tokenizer.to_str())
    begin = tokenizer.token_to_id("t")
    tokenizer.post_processor = TemplateProcessing(single="t $A", special_tokens=[("t", begin)])
    subwords = Subwords(tokenizer, replace(CAUSAL.special, begin="t"))
    assert begin != subwords.end_id
    model, head, params = transformer(True)
    found = list(log_probabilities(model, params, subwords, WORDS, head=head))
    rows = single_rows(True)
    np.testing.assert_allclose(found, [slow_causal(rows, subwords, text, begin) for text in SENTENCES], rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_scores_are_those_of_transformers(causal: bool, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    subwords = CAUSAL if causal else MASKED
    model, head, params = transformer(causal)
    name = "causal_lm" if causal else "masked_lm"
    heads = {name: Head(head, params["head"][name])}
    huggingface.write(tmp_path / "model", model, params["encoder"], heads=heads)
    made = transformers.GPT2LMHeadModel if causal else transformers.BertForMaskedLM
    theirs = made.from_pretrained(tmp_path / "model").eval()

    def rows(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return log_softmax(theirs(input_ids=torch.tensor([ids])).logits[0].double().numpy())

    if causal:
        found: Any = list(log_probabilities(model, params, subwords, WORDS, head=head))
        expected: Any = [slow_causal(rows, subwords, text) for text in SENTENCES]
    else:
        found = list(pseudo_log_likelihoods(model, params, subwords, WORDS, head=head))
        expected = [slow_pseudo(rows, subwords, text) for text in SENTENCES]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_cannot_be_scored_is_refused() -> None:
    model, head, params = transformer(False)
    for sentences, message in (
        ([["a"], []], "sentence 1 has no token"),
        ([["a"] * 47], "sentence 0 has 49 tokens.*48"),
    ):
        with pytest.raises(InputError, match=message):
            list(pseudo_log_likelihoods(model, params, MASKED, sentences, head=head))
    with pytest.raises(InputError, match="causal"):
        list(log_probabilities(model, params, MASKED, WORDS))
    with pytest.raises(InputError, match="paradigms needs"):
        read_blimp("blimp", paradigms=[])
    causal, _, own = transformer(True)
    with pytest.raises(InputError, match="causal"):
        list(pseudo_log_likelihoods(causal, own, CAUSAL, WORDS))


def encoder_of(model: Any, params: dict[str, Any], processor: Any, **heads: Any) -> Any:
    """What `load` gives, as far as it is used."""
    return SimpleNamespace(
        model=model, run_params=params, processor=processor, source=Source(),
        heads={name: Head(head, params["head"][name]) for name, head in heads.items()},
    )  # fmt: skip


PAIRS = {
    "agreement": [("the cat sits.", "the cat table."), ("a dog barks", "a dogs barks"), ("a bird", "a bird")],
    "order": [("every bird sings", "bird every sings"), ("the house", "house the")],
}


def slow_blimp(scores: dict[str, float]) -> dict[str, float]:
    """The accuracy of each paradigm."""
    return {name: float(np.mean([scores[good] > scores[bad] for good, bad in own])) for name, own in PAIRS.items()}


@pytest.mark.parametrize("causal", [False, True])
def test_blimp_by_a_transformer(causal: bool, tmp_path: Path) -> None:
    subwords = CAUSAL if causal else MASKED
    model, head, params = transformer(causal)
    name = "causal_lm" if causal else "masked_lm"
    encoder = encoder_of(model, params, SubwordInputs(subwords, model.longest), **{name: head})
    result = blimp(encoder, write_blimp(tmp_path / "blimp", PAIRS))
    rows = single_rows(causal)
    texts = [text for own in PAIRS.values() for pair in own for text in pair]
    if causal:
        ways = {"log_probability": {text: slow_causal(rows, subwords, text) for text in texts}}
    else:
        both = {text: slow_pseudo(rows, subwords, text) for text in texts}
        ways = {way: {text: both[text][i] for text in texts} for i, way in enumerate(("original", "within_word_l2r"))}
    assert result.scores.keys() == ways.keys() and result.counts == {"pairs": 5, "paradigms": 2}
    for way, scores in ways.items():
        expected = slow_blimp(scores)
        for paradigm, share in expected.items():
            assert result.parts[paradigm].scores[way]["accuracy"] == pytest.approx(share)
        assert result.parts["agreement"].scores[way]["ties"] == pytest.approx(1 / 3)
        whole = result.scores[way]
        assert whole["paradigm_accuracy"] == pytest.approx(np.mean([*expected.values()]))
        assert whole["accuracy"] == pytest.approx((3 * expected["agreement"] + 2 * expected["order"]) / 5)
    one = blimp(encoder, tmp_path / "blimp", paradigms=["agreement"], limit=1)
    assert one.counts == {"pairs": 1, "paradigms": 1}


BILM = BiLM(max_characters=8, character_dim=3, filters=((1, 4), (2, 6)), highways=1, dim=7, projection=5, depth=1)
VOCABULARY = Vocabulary(("<S>", "</S>", "<UNK>", "the", "cat", "sat", "a", "dog", "barks", ".", "every", "bird"))


def bilm() -> Any:
    softmax = init_softmax(BILM, jax.random.key(1), vocabulary=len(VOCABULARY))
    params = {"encoder": BILM.init(jax.random.key(0)), "head": {"softmax": softmax}}
    params = jax.tree.map(lambda leaf: leaf * 3, params)
    return encoder_of(BILM, params, CharacterInputs(8), softmax=VocabularyHead(transform=False, tied=False))


def test_blimp_by_a_bilm(tmp_path: Path) -> None:
    """Its words are split as prose, so that `sits.` is two; the vocabulary is given or that of its run."""
    encoder, folder = bilm(), write_blimp(tmp_path / "blimp", PAIRS)
    result = blimp(encoder, folder, vocabulary=VOCABULARY)
    assert result.counts == {"pairs": 5, "paradigms": 2, "words": 28, "unknown": 7}
    texts = [text for own in PAIRS.values() for pair in own for text in pair]
    words = [text.replace(".", " .").split() for text in texts]
    scored = sentence_scores(BILM, encoder.run_params, VOCABULARY, words)
    nats = {text: (score.forward, score.backward) for text, score in zip(texts, scored, strict=True)}
    for way, pick in (("forward", lambda f, b: -f), ("backward", lambda f, b: -b), ("sum", lambda f, b: -f - b)):
        expected = slow_blimp({text: pick(*both) for text, both in nats.items()})
        found = {paradigm: part.scores[way]["accuracy"] for paradigm, part in result.parts.items()}
        assert found == pytest.approx(expected)
    white_space = blimp(encoder, folder, vocabulary=VOCABULARY, rule="whitespace")
    assert white_space.counts["words"] == 26, "`sits.` and `table.` are one word each"
    with pytest.raises(InputError, match="vocabulary"):
        blimp(encoder, folder)
    VOCABULARY.write(tmp_path / "vocabulary.txt")
    encoder.source = Source({"path": str(tmp_path)})
    assert blimp(encoder, folder).json() == result.json()


def test_words_that_the_softmax_does_not_tell_apart_are_ties(tmp_path: Path) -> None:
    """A biLM over words gives every unknown word the same vector and the same probability."""
    model = BiLM(token_input="words", vocabulary=len(VOCABULARY), dim=7, projection=5, depth=1)
    softmax = init_softmax(model, jax.random.key(1), vocabulary=len(VOCABULARY))
    params = {"encoder": model.init(jax.random.key(0)), "head": {"softmax": softmax}}
    encoder = encoder_of(model, params, CharacterInputs(8), softmax=VocabularyHead(transform=False, tied=False))
    folder = write_blimp(tmp_path / "blimp", {"x": [("the wug sat", "the dax sat")]})
    for scores in blimp(encoder, folder, vocabulary=VOCABULARY).scores.values():
        assert (scores["accuracy"], scores["ties"]) == (0.0, 1.0)


def test_an_encoder_without_a_language_model_is_refused(tmp_path: Path) -> None:
    model, _, params = transformer(False)
    encoder = encoder_of(model, params, SubwordInputs(MASKED, model.longest))
    with pytest.raises(InputError, match=r"masked_lm.*Transformer has the heads \[\]"):
        blimp(encoder, write_blimp(tmp_path / "blimp", PAIRS))


@pytest.mark.parametrize(
    "kind, words",
    [
        ("wordpiece", ["the", "cat", ".", "can", "'", "t"]),
        ("bpe", ["the", "cat", ".", "can", "'t"]),
        ("unigram", ["the", "cat.", "can't"]),
    ],
)
def test_pretokens_end_words_too(kind: Any, words: list[str]) -> None:
    subwords = MASKED if kind == "wordpiece" else train(TEXT, kind, 290 if kind == "bpe" else 60)
    (pieces,) = subwords.tokenize_pretokens([["the", "cat.", "can't"]])
    tokens = [token.removeprefix("##").lstrip("Ġ▁") for token in subwords.tokens(pieces.ids)]
    found = ["".join(t for t, w in zip(tokens, pieces.words, strict=True) if w == word) for word in range(len(words))]
    assert found == words and pieces.words.max() == len(words) - 1
    (same,) = subwords.tokenize_words([["the", "cat.", "can't"]])
    np.testing.assert_array_equal(pieces.ids, same.ids)
    (blank,) = subwords.tokenize_pretokens([["the", "\u200b", "cat"]])
    assert len({*blank.words.tolist()}) == 3
    assert subwords.tokenize_pretokens([[]])[0].ids.size == 0
