"""Pairs that belong together, trained with the other pairs of a batch as negatives.

Letters: B pairs, N pairs of a file or of all devices, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.labelled import Example
from ctx_jax.evaluation.ranking_scores import ranking_scores, ranks
from ctx_jax.losses.ranking import RankedPairs, ranking_loss
from ctx_jax.ops.dense import unit_vectors
from ctx_jax.ops.dropout import Dropout
from ctx_jax.tasks.label_network import LABELS
from ctx_jax.tasks.label_task import LabelTask
from ctx_jax.tasks.pair_network import SiameseNetwork
from ctx_jax.typing import Carry, Params, Terms


@dataclass(frozen=True)
class RankingNetwork(SiameseNetwork):
    """`SiameseNetwork` without a head of labels, whose outputs are the vectors of both texts."""

    scale: float = 20.0
    """What cosines are multiplied by in the loss."""

    @property
    def heads(self) -> dict[str, Any]:
        """The mix and the pooling, where there are any."""
        return {name: head for name, head in super().heads.items() if name != LABELS}

    def init_heads(self, key: jax.Array) -> dict[str, Params]:
        """Fresh parameters of the heads."""
        return {name: params for name, params in super().init_heads(key).items() if name != LABELS}

    def outputs(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        """The vectors of both texts, of length 1, side by side: [B, 2 D]."""
        return jnp.concatenate([unit_vectors(vectors) for vectors in self.texts(params, inputs)], axis=-1)

    def metrics(
        self, examples: Sequence[Example], values: np.ndarray, outputs: np.ndarray, batch_size: int
    ) -> dict[str, float]:
        """Mean reciprocal rank and recall among the second texts of all examples, and the loss of batches of them in
        their order."""
        first, second = np.split(outputs, 2, axis=1)
        loss = 0.0
        for start in range(0, len(first), batch_size):
            part = slice(start, start + batch_size)
            loss += float(self._terms(first[part], second[part], values[part])["label"][0])
        return {"loss": loss / len(first), **ranking_scores(ranks(first, second, values))}

    def _terms(self, first: np.ndarray, second: np.ndarray, texts: np.ndarray) -> Terms:
        """`ranking_loss` of some pairs alone."""
        count = len(first)
        pairs = RankedPairs(jnp.arange(count), jnp.asarray(texts), jnp.ones(count))
        return ranking_loss(jnp.asarray(first), jnp.asarray(second), pairs, pairs, self.scale)

    def answer(self, output: np.ndarray) -> dict[str, Any]:
        """{"cosine": ...}."""
        first, second = np.split(output.astype(np.float64), 2)
        return {"cosine": float(first @ second)}


@dataclass(frozen=True, eq=False)
class RankingTask(LabelTask):
    """A `training.task.ComparesRows`."""

    def row_vectors(self, params: Params, batch: Any, key: jax.Array | None) -> Any:
        """The vectors of both texts of a `LabelBatch`, of length 1."""
        network: Any = self.network
        found = network.texts(params, batch.inputs, None if key is None else Dropout(key, batch.rows))
        return tuple(map(unit_vectors, found))

    def compare(self, vectors: Any, batch: Any, gather: Callable[[Any], Any]) -> Terms:
        """`ranking_loss` with the pairs of all devices."""
        network: Any = self.network
        first, second = vectors
        pairs = RankedPairs(batch.rows, batch.labels, batch.weights)
        return ranking_loss(first, gather(second), pairs, gather(pairs), network.scale)

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Cross-entropy in nats and accuracy among the pairs of a `LabelBatch`."""
        return self.compare(self.row_vectors(params, batch, key), batch, lambda tree: tree), carry
