"""The training of a task with labels: batches, loss, metrics and evaluator (see `training.task.Task`).

Letters: B rows, T words or tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.checkpoints.run_files import Origin
from ctx_jax.data.batch import LabelBatch
from ctx_jax.data.epochs import Epochs
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.mixing import mix_penalty
from ctx_jax.embedding.vector_cache import store_vectors
from ctx_jax.encoders.base import InputProcessor
from ctx_jax.losses.labels import crf_loss, label_loss, number_loss, several_loss
from ctx_jax.ops.dropout import Dropout
from ctx_jax.tasks.label_network import MIX, LabelNetwork, Scored, mix_metrics
from ctx_jax.tasks.label_rows import Labelled, Rows, SplitRows, StoredRows, measure, row_length, row_limit
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.training.parameter_groups import ParameterGroup, named
from ctx_jax.training.task import Batches, Evaluator, FunctionEvaluator, Selection
from ctx_jax.training.unfreezing import Unfreezing
from ctx_jax.typing import Carry, Log, Params, Terms


@dataclass(frozen=True, eq=False)
class LabelTask:
    """See `training.task.Task`."""

    config: Any  # a LabelConfig
    seed: int
    encoder: Encoder  # of a resumed run only its shapes, unless it is frozen
    network: LabelNetwork
    first_heads: Mapping[str, Any]  # parameters of heads that do not start fresh: {"mix": ..., "labels": ...}
    labelled: Mapping[str, Labelled]  # of "train" and, if there is a file, "valid"
    class_weights: np.ndarray
    identities: Mapping[str, Any]  # of the vectors of "train" and "valid"
    files: tuple[str, ...]
    origin: Origin
    cache: Path
    log: Log

    @property
    def coefficients(self) -> Mapping[str, float]:
        """The loss, accuracy where there are labels, and the penalty of the mix, if there is one."""
        accuracy = {} if self.network.target == "number" else {"accuracy": 0.0}
        penalty = self.config.tuning.mix_penalty
        return {"label": 1.0} | accuracy | ({"mix_penalty": penalty} if penalty else {})

    @property
    def model(self) -> Any:
        return self.network.model

    @property
    def heads(self) -> Mapping[str, Any]:
        return self.network.heads

    @property
    def processor(self) -> InputProcessor:
        return self.encoder.processor

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The encoder frozen, all or part of it, or slower than the head; the mix faster than it."""
        if self.config.frozen:
            encoder = ParameterGroup("^encoder/", frozen=True)
        else:
            encoder = ParameterGroup("^encoder/", learning_rate_factor=self.config.encoder_rate, weight_decay=None)
        mix = ParameterGroup("^head/mix/", learning_rate_factor=self.config.mix_rate, weight_decay=False)
        crf = ParameterGroup("^head/labels/crf/", weight_decay=False)
        return *self.config.tuning.groups, encoder, mix, crf

    @property
    def batch_size(self) -> int:
        return int(self.config.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold every training row once."""
        return -(-len(self.labelled["train"].texts) // self.batch_size)

    @property
    def unfreezing(self) -> Unfreezing | None:
        """See `training.task.UnfreezesGradually`."""
        tuning: TuningOptions = self.config.tuning
        return tuning.unfreezing(self.steps_per_epoch)

    @property
    def default_steps(self) -> int:
        epochs = self.config.epochs or (20 if self.config.frozen else 3)
        return int(epochs * self.steps_per_epoch)

    @property
    def prefetch(self) -> int:
        return int(self.config.data.prefetch)

    def init(self, key: jax.Array) -> Params:
        encoder, heads = jax.random.split(key)
        return {"encoder": self.model.init(encoder), "head": self.network.init_heads(heads)}

    def initial(self, params: Params) -> Params:
        encoder = self.config.tuning.first_params(self.model, self.encoder.params, params["encoder"])
        return {"encoder": encoder, "head": self.initial_heads(params.get("head", {}))}

    def initial_heads(self, fresh: Params) -> Params:
        """The heads' parameters at the first step, from fresh ones."""
        return _replaced(fresh, self.first_heads)

    def zero_carry(self, rows: int) -> Carry:
        return ()

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """`label_terms`, and the penalty of the mix."""
        scored = self.network.scored(params, batch.inputs, None if key is None else Dropout(key, batch.rows))
        terms = self.label_terms(scored, batch)
        if self.config.tuning.mix_penalty:  # a constant of all rows, so that devices and micro-batches add up
            rows = float(len(batch.rows))
            terms["mix_penalty"] = (mix_penalty(params["head"][MIX], rows), jnp.float32(rows))
        return terms, carry

    def label_terms(self, scored: Scored, batch: Any) -> Terms:
        """Cross-entropy in nats and accuracy of a `LabelBatch`; of a number the squared error."""
        match self.network.target:
            case "number":
                return number_loss(scored.logits[:, 0], batch.labels, batch.weights)
            case "several":
                return several_loss(scored.logits, batch.labels, batch.weights)
        if scored.transitions is not None:
            return crf_loss(scored.logits, scored.mask, scored.transitions, batch.labels, batch.weights)
        return label_loss(scored.logits, batch.labels, batch.weights, self.class_weights)

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        """The rows of both files: split texts, or stored vectors, which all processes compute together."""
        return {
            name: self.config.completed(
                self.config.rows(each.texts, partial(self._made, name)),
                [example.item for example in each.examples],
                each.counts,
            )
            for name, each in self.labelled.items()
        }

    def _made(self, name: str, part: str, texts: Sequence[Any]) -> Rows:
        """The rows of one `part` of the texts of a file."""
        if not (self.config.frozen and self.config.data.cache_vectors):
            return SplitRows(self.processor, texts)
        identity, pooling = {**self.identities[name], "part": part}, self.network.stored_pooling
        stored = store_vectors(self.encoder, texts, identity, self.cache, pooling=pooling, log=self.log)
        return StoredRows(stored, self.network.layer)

    def batches(self, first: int, count: int) -> Batches:
        """Shuffled epochs of the training rows; the length of a batch is that of its longest row, rounded up."""
        rows = self._rows["train"]
        sizes, tokens = rows.sizes, rows.tokens.astype(np.int32)
        limit = row_limit(self.processor, self.config.length)

        def make(examples: np.ndarray, own: range) -> LabelBatch:
            length = row_length(sizes[examples], limit)
            numbers = examples[own.start : own.stop].tolist()
            labels, weights = self.labelled["train"].label_arrays(
                numbers, len(own), length if self.network.pooling is None else None
            )
            inputs = rows.batch(numbers, len(own), length)
            global_rows = np.arange(own.start, own.stop, dtype=np.int32)
            return LabelBatch(inputs, labels, weights, global_rows, tokens[numbers])

        return Epochs(len(sizes), self.batch_size, range(first, first + count), self.seed, make)

    def tokens(self, arrays: Any) -> int:
        """Words or tokens that the encoder read; of stored vectors those that the head reads."""
        return int(arrays.lengths.sum())

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """The loss of the labels alone, accuracy, and what the penalty adds."""
        others = {name: means[name] for name in ("accuracy", "mix_penalty") if name in means}
        if "mix_penalty" in others:
            others["mix_penalty"] *= self.coefficients["mix_penalty"]
        return {"loss": means["label"]} | others

    def flops_per_token(self) -> float:
        """Three times a forward pass; once that of a frozen encoder, and none of it with stored vectors."""
        shapes = named(jax.eval_shape(self.network.init_heads, jax.random.key(0)))
        head = 6.0 * sum(leaf.size for name, leaf in shapes.items() if name.endswith("kernel"))
        rows = self._rows["train"]
        if rows.stored:
            return head
        passes = 1.0 if self.config.frozen else 3.0
        return passes * float(self.model.flops_per_token(max(round(rows.sizes.mean()), 1))) + head

    @cached_property
    def evaluators(self) -> Sequence[Evaluator]:
        if "valid" not in self.labelled:
            return ()
        chosen = self.config.evaluate
        every = self.steps_per_epoch if chosen.every is None else chosen.every
        metric = self.config.metric
        selection = Selection(metric, metric != "loss", chosen.patience)
        return (FunctionEvaluator("valid", every, self.valid_metrics, selection=selection),)

    def valid_metrics(self, params: Params, devices: Sequence[jax.Device], log: Log) -> dict[str, float]:
        """Loss, accuracy and F1 of the validation file, and the mix: its weights after the softmax, and gamma."""
        found = measure(self.network, params, self.labelled["valid"], self._rows["valid"], self.batch_size, devices)
        return found.metrics | mix_metrics(params)


def _replaced(params: Params, values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict with the values of another in the places that this one has."""
    return {
        name: _replaced(part, values[name]) if isinstance(values.get(name), Mapping) else values.get(name, part)
        for name, part in params.items()
    }
