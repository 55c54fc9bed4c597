"""Labelled rows: texts, or parts of sentences, with the numbers of their labels, batched and measured.

An example is a text or a sentence; a sentence longer than the encoder takes is several rows.

Letters: N rows, B rows of a batch, T words or tokens, K labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

from ctx_jax.data.labelled import Example
from ctx_jax.data.span_labels import scheme_of
from ctx_jax.distributed.sharding import RowFunction, pipelined
from ctx_jax.embedding.batching import plan
from ctx_jax.embedding.vector_cache import StoredVectors
from ctx_jax.encoders.base import InputProcessor, rounded
from ctx_jax.evaluation.label_scores import accuracy, macro_f1, matthews, span_f1
from ctx_jax.io.errors import InputError
from ctx_jax.tasks.label_network import LabelNetwork
from ctx_jax.tasks.label_values import Target, value_arrays
from ctx_jax.typing import Log, Params

_ROW_TOKENS = 64  # a batch has so many tokens for each of `batch_size` rows
UNKNOWN = -1  # the number of a label that training has not seen


class Rows(Protocol):
    """Rows that can be batched by their numbers."""

    @property
    def sizes(self) -> np.ndarray:
        """The length of each row, [N], in what its encoder counts."""

    @property
    def tokens(self) -> np.ndarray:
        """How many of these are read in each row, [N]."""

    @property
    def stored(self) -> bool:
        """Whether they are vectors already, so that no encoder is run."""

    def batch(self, numbers: Sequence[int], rows: int, length: int) -> dict[str, Any]:
        """The inputs of `LabelNetwork.logits`: B = `rows`, T = `length`."""


@dataclass(frozen=True, eq=False)
class SplitRows:
    """Rows of texts split by an input processor."""

    processor: InputProcessor
    texts: Sequence[Any]
    stored: ClassVar[bool] = False

    @cached_property
    def sizes(self) -> np.ndarray:
        """See `Rows`."""
        return np.array(self.processor.sizes(self.texts), np.int64)

    @property
    def tokens(self) -> np.ndarray:
        """See `Rows`."""
        return self.sizes

    def batch(self, numbers: Sequence[int], rows: int, length: int) -> dict[str, np.ndarray]:
        """See `Rows`."""
        return self.processor.pad([self.texts[number] for number in numbers], rows, length)


class StoredRows(NamedTuple):
    """Rows of a frozen encoder's stored vectors."""

    vectors: StoredVectors
    layer: int | None

    @property
    def stored(self) -> bool:
        """See `Rows`."""
        return True

    @property
    def sizes(self) -> np.ndarray:
        """See `Rows`."""
        return self.vectors.sizes

    @property
    def tokens(self) -> np.ndarray:
        """See `Rows`."""
        return self.sizes

    def batch(self, numbers: Sequence[int], rows: int, length: int) -> dict[str, np.ndarray]:
        """See `Rows`."""
        return self.vectors.batch(numbers, rows, length, self.layer)


class Labelled(NamedTuple):
    """The rows of a file's examples, with their labels."""

    examples: Sequence[Example]
    texts: Sequence[Any]  # of the rows, split by the encoder's processor
    labels: Sequence[np.ndarray]
    """Of the rows: int32, one number for a text, one a word for a sentence; what `value_arrays` gives for a target that
    is no class."""
    starts: np.ndarray  # [examples + 1], the first row of each example

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        rows: Sequence[Sequence[tuple[Any, int]]],
        names: Sequence[str],
        target: Target = "classes",
    ) -> "Labelled":
        """From the rows of each example, (split text, number of labels), and the K names of the labels."""
        numbers = {name: number for number, name in enumerate(names)}
        texts = [text for own in rows for text, _ in own]
        starts = np.cumsum([0, *map(len, rows)])
        if target != "classes":
            return cls(examples, texts, list(value_arrays(examples, target, names)), starts)
        labels: list[np.ndarray] = []
        for example, own in zip(examples, rows, strict=True):
            ids = np.array([numbers.get(name, UNKNOWN) for name in example.labels], np.int32)
            ends = np.cumsum([count for _, count in own])
            labels += [ids[stop - count : stop] for stop, (_, count) in zip(ends, own, strict=True)]
        return cls(examples, texts, labels, starts)

    @property
    def counts(self) -> list[list[int]]:
        """The number of labels of each row, by example."""
        return [[len(own) for own in self.labels[first:stop]] for first, stop in pairwise(self.starts.tolist())]

    def label_arrays(self, numbers: Sequence[int], rows: int, length: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Labels and weights (float32) of some rows, [B, ...] of texts, [B, T] of words with T = `length`; the weight
        is 0 where there is no label or an unknown one."""
        kind = self.labels[0]
        labels = np.zeros((rows, length or 1, *kind.shape[1:]), kind.dtype)
        weights = np.zeros(labels.shape[:2], np.float32)
        for row, number in enumerate(numbers):
            own = self.labels[number]
            classes = own.ndim == 1 and own.dtype == np.int32
            labels[row, : len(own)] = np.maximum(own, 0) if classes else own
            weights[row, : len(own)] = own != UNKNOWN if classes else 1.0
        return (labels[:, 0], weights[:, 0]) if length is None else (labels, weights)


class Measured(NamedTuple):
    """The metrics of examples, and how many labels, numbers or pairs were measured."""

    metrics: dict[str, float]
    labels: int


def measure(
    network: LabelNetwork,
    params: Params,
    labelled: Labelled,
    rows: Rows,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> Measured:
    """Loss (nats a label), accuracy, F1 and, of texts, Matthews correlation of labelled rows; the network's own
    metrics of a target that is no class.

    F1 is that of spans for words with labels of BIO or BIOES (`span_f1`), else the mean over labels. A label that
    training has not seen counts as wrong and is left out of the loss, which is nan if there is no other.
    """
    if network.target != "classes":
        found = dict(answers_of_rows(network, params, rows, batch_size, devices))
        outputs = np.stack([found[number] for number in range(len(labelled.examples))])
        values = np.concatenate(labelled.labels)
        return Measured(network.metrics(labelled.examples, values, outputs, batch_size), len(outputs))
    predicted: dict[int, np.ndarray] = {}
    nats, known = 0.0, 0
    for number, (best, own_nats) in _by_row(_measured, network, params, rows, batch_size, devices, labelled):
        ids = labelled.labels[number]
        predicted[number] = np.atleast_1d(best)[: len(ids)]
        nats += float(own_nats)
        known += int(np.count_nonzero(ids != UNKNOWN))
    predictions = [[network.labels[k] for k in ids] for ids in join_rows(predicted, labelled.starts)]
    truths = [example.labels for example in labelled.examples]
    true_labels, predicted_labels = list(chain(*truths)), list(chain(*predictions))
    spans = network.pooling is None and scheme_of(network.labels) is not None
    metrics = {
        "loss": nats / known if known else float("nan"),
        "accuracy": accuracy(true_labels, predicted_labels),
        "f1": span_f1(truths, predictions) if spans else macro_f1(true_labels, predicted_labels),
    }
    if network.pooling is not None:
        metrics["matthews"] = matthews(true_labels, predicted_labels)
    return Measured(metrics, len(true_labels))


def join_rows(rows: dict[int, np.ndarray], starts: np.ndarray) -> Iterator[np.ndarray]:
    """The arrays of each example's rows, one after the other."""
    for first, stop in pairwise(starts.tolist()):
        yield np.concatenate([rows[number] for number in range(first, stop)])


def answers_of_rows(
    network: LabelNetwork,
    params: Params,
    rows: Rows,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    few_shapes: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """(number, answer) of every row, longest rows first: `LabelNetwork.outputs` [K] of a text, the numbers of the best
    labels [T] of words. `few_shapes`: those of `batching.plan`, which calls with other rows share."""
    return _by_row(_answers, network, params, rows, batch_size, devices, few_shapes=few_shapes)


def _answers(network: LabelNetwork, params: Params, batch: dict[str, Any]) -> jax.Array:
    if network.pooling is None:
        return network.best(network.scored(params, batch["inputs"]))
    return network.outputs(params, batch["inputs"])


def _measured(network: LabelNetwork, params: Params, batch: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """The best labels [B] or [B, T], and the loss of the right ones, [B]."""
    scored = network.scored(params, batch["inputs"])
    return network.best(scored), network.nats(scored, batch["labels"], batch["weights"])


def _by_row(
    function: Callable[..., Any],
    network: LabelNetwork,
    params: Params,
    rows: Rows,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
    labelled: Labelled | None = None,
    few_shapes: bool = False,
) -> Iterator[tuple[int, Any]]:
    """(number, result) of every row: a tree of arrays, without the batch's axis. A batch has its labels if given."""
    if rows.stored:
        params = {"head": params["head"]}  # the encoder is not read
    compute = RowFunction(function, network, params, devices)

    def batch(chosen: Sequence[int], height: int, length: int) -> dict[str, Any]:
        own: dict[str, Any] = {"inputs": rows.batch(chosen, height, length)}
        if labelled is not None:
            words = length if network.pooling is None else None
            own["labels"], own["weights"] = labelled.label_arrays(chosen, height, words)
        return own

    running = (
        (chosen, compute(batch(chosen, height, length), height))
        for chosen, height, length in plan(rows.sizes.tolist(), _ROW_TOKENS * batch_size, few_shapes=few_shapes)
    )
    for chosen, found in pipelined(running):
        arrays = jax.tree.map(np.asarray, found)
        for row, number in enumerate(chosen):
            yield number, jax.tree.map(lambda array, row=row: array[row], arrays)


def row_length(sizes: np.ndarray, longest: int | None) -> int:
    """The length of a batch's rows: that of the longest, rounded up so that few shapes are compiled."""
    length = rounded(int(sizes.max(initial=0)))
    return length if longest is None else min(length, longest)


def row_limit(processor: InputProcessor, length: int) -> int | None:
    """The longest row: `length`, if it is not 0, but no more than the encoder takes. None: any."""
    limits = [limit for limit in (length, processor.longest) if limit]
    return min(limits, default=None)


def cut_texts(processor: InputProcessor, texts: Sequence[Any], length: int, log: Log, what: str) -> list[Any]:
    """Split texts, or pairs of them, cut to the `row_limit`; `log` says once how many of them, which it calls `what`,
    were longer."""
    longest = row_limit(processor, length)
    if longest is None or not (long := sum(size > longest for size in processor.sizes(texts))):
        return list(texts)
    log(f"{long:,} of {len(texts):,} {what} are longer than {longest} tokens: what is beyond is cut off")
    return [processor.cut(text, longest) for text in texts]


def split_to_fit(processor: InputProcessor, words: list[str], longest: int | None) -> list[list[str]]:
    """A sentence as parts that fit a row of `longest`, cut in halves as often as needed: a word's vector then sees its
    part alone. InputError for a single word that does not fit."""
    if longest is None or processor.sizes(processor.split([words]))[0] <= longest:
        return [words]
    if len(words) == 1:
        raise InputError(
            f"the word {words[0][:40]!r}... has more pieces than the {longest} tokens of a row: shorten it"
        )
    middle = len(words) // 2
    return [part for half in (words[:middle], words[middle:]) for part in split_to_fit(processor, half, longest)]
