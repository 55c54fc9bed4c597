"""Labels that mark spans of words, by the schemes BIO and BIOES, and what each scheme allows.

    words    The  University  of     Oslo   near  Blindern
    BIO      O    B-ORG       I-ORG  I-ORG  O     B-LOC
    BIOES    O    B-ORG       I-ORG  E-ORG  O     S-LOC

Sources: Ramshaw and Marcus 1995 (BIO, its form IOB2 of Tjong Kim Sang and Veenstra 1999), Uchimoto et al. 2000 (BIOES).
Letters: K labels.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from ctx_jax.data.labelled import Example
from ctx_jax.typing import Log

Scheme = Literal["BIO", "BIOES"]
Span = tuple[str, int, int]  # type, first word, word after the last
OUTSIDE = "O"


def scheme_of(labels: Iterable[str]) -> Scheme | None:
    """The scheme of a file's or run's labels, BIOES if one begins with E- or S-. None if they mark no spans: if one is
    neither "O" nor a letter of BIOES, a hyphen and a type, or if all are "O"."""
    marked = {*labels} - {OUTSIDE}
    if not marked or without_mark(marked):
        return None
    return "BIOES" if any(label[0] in "ES" for label in marked) else "BIO"


def without_mark(labels: Iterable[str]) -> set[str]:
    """Those that are no letter of BIOES, a hyphen and a type."""
    return {label for label in labels if label[:2] not in ("B-", "I-", "E-", "S-") or len(label) == 2}


def spans(labels: Sequence[str]) -> list[Span]:
    """The spans of one sentence's labels, as conlleval counts: a label that continues none begins one.

    >>> spans(["B-LOC", "I-LOC", "O", "I-PER", "B-PER"])
    [('LOC', 0, 2), ('PER', 3, 4), ('PER', 4, 5)]
    """
    found: list[Span] = []
    start, kind, before = 0, "", ""
    for place, label in enumerate([*labels, OUTSIDE]):
        mark, _, own = label.partition("-")
        if kind and not (before in ("B", "I") and mark in ("I", "E") and own == kind):
            found.append((kind, start, place))
            kind = ""
        if mark in ("B", "I", "E", "S") and not kind:
            start, kind = place, own
        before = mark
    return found


def span_labels(found: Iterable[Span], length: int, scheme: Scheme) -> list[str]:
    """The labels of a sentence of `length` words with these spans, the inverse of `spans`."""
    labels = [OUTSIDE] * length
    for kind, start, stop in found:
        labels[start:stop] = [f"B-{kind}", *[f"I-{kind}"] * (stop - start - 1)]
        if scheme == "BIOES":
            labels[stop - 1] = f"{'E' if stop - start > 1 else 'S'}-{kind}"
    return labels


def allowed(before: str, after: str, scheme: Scheme) -> bool:
    """Whether a label may follow another one; "O" stands for what is before and behind a sentence."""
    mark, _, kind = after.partition("-")
    inside, _, open_kind = before.partition("-")
    continues = mark in ("I", "E")
    if inside in ("B", "I") and (continues or scheme == "BIOES"):
        return continues and kind == open_kind
    return not continues


class Legal(NamedTuple):
    """Which steps from label to label a scheme allows, bool arrays in the order of `heads.crf.Transitions`."""

    start: np.ndarray  # [K]
    end: np.ndarray  # [K]
    steps: np.ndarray  # [K, K], from the row's label to the column's


def legal_steps(labels: Sequence[str]) -> Legal | None:
    """What the scheme of these labels allows; None if they mark no spans."""
    scheme = scheme_of(labels)
    if scheme is None:
        return None
    return Legal(
        np.array([allowed(OUTSIDE, label, scheme) for label in labels]),
        np.array([allowed(label, OUTSIDE, scheme) for label in labels]),
        np.array([[allowed(one, other, scheme) for other in labels] for one in labels]),
    )


def illegal_count(labels: Sequence[str], scheme: Scheme) -> int:
    """How many steps of a sentence, its beginning and end included, the scheme does not allow."""
    return sum(not allowed(one, other, scheme) for one, other in pairwise([OUTSIDE, *labels, OUTSIDE]))


def has_illegal(examples: Sequence[Example]) -> bool:
    """Whether labels of these sentences, if they mark spans, stand where their own scheme does not allow them."""
    scheme = scheme_of(label for each in examples for label in each.labels)
    return scheme is not None and any(illegal_count(each.labels, scheme) for each in examples)


def in_scheme(examples: Sequence[Example], scheme: Scheme | None, path: str, log: Log) -> list[Example]:
    """The labelled sentences of a file, their labels in `scheme`; None: as they are.

    `log` gets the number of sentences with steps that the file's own scheme does not allow, which are read as `spans`
    does. Labels that mark no spans stay as they are.
    """
    own = scheme_of(label for each in examples for label in each.labels)
    if own is None:
        return list(examples)
    if illegal := [each for each in examples if illegal_count(each.labels, own)]:
        steps = sum(illegal_count(each.labels, own) for each in illegal)
        log(
            f"{path}: {len(illegal):,} of {len(examples):,} sentences have labels that {own} does not allow in their "
            f"place ({steps:,} in all, the first after {illegal[0].location}); they are read as conlleval does: what "
            "continues no span begins one"
        )
    if scheme is None:
        return list(examples)
    return [each._replace(label=span_labels(spans(each.labels), len(each.labels), scheme)) for each in examples]
