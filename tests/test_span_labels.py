"""BIO and BIOES: spans, both ways of conversion, and what each scheme allows."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from ctx_jax.data.labelled import Example
from ctx_jax.data.span_labels import has_illegal, illegal_count, in_scheme, legal_steps, scheme_of, span_labels, spans
from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks.tag import TagConfig

BIO = ("O", "B-A", "I-A", "B-B", "I-B")
BIOES = (*BIO, "E-A", "S-A", "E-B")
SCHEMES = pytest.mark.parametrize("scheme, labels", [("BIO", BIO), ("BIOES", BIOES)])


def test_spans_by_hand() -> None:
    assert spans(["B-A", "I-A", "I-B", "O", "I-A", "B-A", "I-A"]) == [
        ("A", 0, 2),
        ("B", 2, 3),
        ("A", 4, 5),
        ("A", 5, 7),
    ]
    assert spans(["B-A", "E-A", "S-A", "S-B", "I-A", "E-A"]) == [("A", 0, 2), ("A", 2, 3), ("B", 3, 4), ("A", 4, 6)]
    assert spans([]) == spans(["O"]) == []


@pytest.mark.parametrize(
    "labels, expected",
    [(["O", "B-X", "I-X"], "BIO"), (["B-X"], "BIO"), (["O"], None), (["O", "I-X"], "BIO"), (["B-", "O"], None),
     (["NOUN", "B-X"], None), (["B-X", "E-X", "O"], "BIOES"), (["S-X-Y"], "BIOES"), (["L-X"], None), ([], None)],
)  # fmt: skip
def test_the_scheme_of_labels(labels: list[str], expected: str | None) -> None:
    assert scheme_of(labels) == expected


@SCHEMES
def test_a_sequence_is_legal_if_it_is_what_its_spans_are_written_as(scheme: Any, labels: tuple[str, ...]) -> None:
    legal = legal_steps(labels)
    assert legal is not None
    numbers = {label: number for number, label in enumerate(labels)}
    for length in range(1, 5):
        for sequence in product(labels, repeat=length):
            written = span_labels(spans(sequence), length, scheme)
            ids = [numbers[label] for label in sequence]
            allowed = legal.start[ids[0]] and legal.end[ids[-1]] and all(legal.steps[pair] for pair in pairwise(ids))
            assert allowed == (written == list(sequence)) == (illegal_count(sequence, scheme) == 0)


def test_conversion_there_and_back_keeps_spans() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        labels = random.choice(BIO, random.integers(1, 9)).tolist()
        found = spans(labels)
        both = [span_labels(found, len(labels), scheme) for scheme in ("BIO", "BIOES")]
        assert [spans(each) for each in both] == [found, found]
        assert span_labels(spans(both[1]), len(labels), "BIO") == both[0]


def test_labels_of_which_some_mark_no_spans_are_told() -> None:
    """One such label makes F1 the mean over labels and frees a CRF of the scheme."""
    examples = [Example(["a", "b", "c"], ["B-PER", "I-PER", "O"], ""), Example(["a"], ["PER"], "")]
    said: list[str] = []
    assert TagConfig().prepared(examples, "x", said.append) == examples and scheme_of({"PER", "B-PER"}) is None
    assert len(said) == 1 and said[0].startswith("x: ['PER'] ")
    for other in (examples[:1], examples[1:]):  # spans alone, and tags alone
        TagConfig().prepared(other, "x", said.append)
    assert len(said) == 1
    with pytest.raises(ConfigError, match=r"x has \['PER'\]") as caught:
        TagConfig(scheme="BIO").prepared(examples, "x", said.append)
    assert caught.value.field == "scheme"


def test_a_files_labels_are_converted_and_its_illegal_ones_counted() -> None:
    words = ["a", "b", "c"]
    legal, illegal = (
        Example(words, ["B-A", "I-A", "O"], "x, line 1"),
        Example(words, ["O", "I-A", "I-B"], "x, line 5"),
    )
    said: list[str] = []
    found = in_scheme([legal, illegal], "BIOES", "x", said.append)
    assert [each.label for each in found] == [["B-A", "E-A", "O"], ["O", "S-A", "S-B"]]
    assert len(said) == 1 and "1 of 2 sentences" in said[0] and "x, line 5" in said[0] and "2 in all" in said[0]
    assert in_scheme([legal, illegal], None, "x", said.append) == [legal, illegal] and len(said) == 2
    assert has_illegal([illegal]) and not has_illegal([legal]) and not has_illegal(found)
    assert in_scheme(found, "BIO", "x", said.append)[0] == legal and len(said) == 2
    plain = [Example(words, ["DET", "NOUN", "O"], "")]
    assert in_scheme(plain, None, "x", said.append) == plain
