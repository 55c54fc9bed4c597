"""A trained run of a task with labels: what it predicts, and how good it is on labelled files.

Letters: K labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.evaluation.reports import Report, aligned
from ctx_jax.io.errors import InputError, listed
from ctx_jax.tasks.label_network import LabelNetwork, mix_metrics
from ctx_jax.tasks.label_rows import Rows, SplitRows, answers_of_rows, join_rows, measure
from ctx_jax.typing import Log

if TYPE_CHECKING:
    from ctx_jax.tasks.label_config import LabelConfig

_LOGGER = logging.getLogger("ctx_jax")
_FEW = 4096  # items; a call with more is worth shapes of its own, to be compiled


@dataclass(frozen=True, eq=False)
class LabelPredictor:
    """See `training.task.Predictor`."""

    encoder: Encoder
    config: LabelConfig
    network: LabelNetwork

    def predict(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """One answer an item, in their order (`LabelConfig.answer`). InputTypeError for items of another type."""
        items = self.config.checked(items, self.encoder.processor)
        rows = self.config.split(self.encoder.processor, items, _LOGGER.warning)
        counts = [[count for _, count in own] for own in rows]
        count_of = list(chain(*counts))
        source = self._rows([text for own in rows for text, _ in own], items, counts)
        answered = answers_of_rows(
            self.network, self.encoder.run_params, source, self.config.batch_size, few_shapes=len(items) <= _FEW
        )
        answers = {
            number: (found if self.network.pooling is None else found[None])[: count_of[number]]
            for number, found in answered
        }
        joined = join_rows(answers, np.cumsum([0, *map(len, rows)]))
        return [self.config.answer(item, self.network, own) for item, own in zip(items, joined, strict=True)]

    def _rows(self, texts: Sequence[Any], items: Sequence[Any], counts: Sequence[Sequence[int]]) -> Rows:
        rows = self.config.rows(texts, lambda _, part: SplitRows(self.encoder.processor, part))
        return self.config.completed(rows, items, counts)

    def read(self, path: str) -> Iterator[Any]:
        """The texts or sentences of a file, whose labels may be missing."""
        return (example.item for example in self.config.read(path, known=self.network.labels))

    def report(self, paths: Sequence[str], log: Log) -> Report:
        """The metrics of labelled files, and the mix. `log` gets labels that training has not seen."""
        examples = [
            example for path in paths for example in self.config.prepared(list(self.config.read(path)), path, log)
        ]
        if not examples:
            raise InputError(f"{', '.join(paths)}: no example to measure")
        has_names = self.network.target in ("classes", "several")
        if has_names and (unseen := {label for each in examples for label in each.labels} - {*self.network.labels}):
            log(f"labels that training has not seen, and which count as wrong: {listed(sorted(unseen))}")
        labelled = self.config.labelled(self.encoder, examples, self.network.labels, log)
        rows = self._rows(labelled.texts, [each.item for each in examples], labelled.counts)
        params = self.encoder.run_params
        found = measure(self.network, params, labelled, rows, self.config.batch_size)
        table = [(name, f"{value:.4f}") for name, value in (found.metrics | mix_metrics(params)).items()]
        table.append(("examples", f"{found.labels:,}"))
        return Report(aligned(table), found.metrics | {"examples": found.labels})
