"""A toy task: is a sentence longer than `longer_than` words? With the toy encoder, frozen or trained.

Letters: B sentences of a batch, T words, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import ctx_jax
from ctx_jax import pool
from ctx_jax.checkpoints.run_files import Origin
from ctx_jax.data.batch import Batch
from ctx_jax.data.permutation import permuted
from ctx_jax.embedding.embed import embed
from ctx_jax.evaluation.reports import Report
from ctx_jax.flax import plain_params
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.config import RunConfig
from ctx_jax.training.parameter_groups import ParameterGroup
from ctx_jax.training.task import Evaluator, FunctionEvaluator, TaskContext
from ctx_jax.typing import Carry, Params, Terms
from toys.bag_of_characters import BagOfCharacters, ByteInputs
from toys.linear_head import LinearHead

LENGTH = 8  # T


class LengthBatch(NamedTuple):
    """Sentences with their label."""

    inputs: dict[str, Any]  # of the encoder
    labels: Any  # int32 [B]


@dataclass(frozen=True)
class LengthConfig:
    """The task's settings."""

    model: BagOfCharacters = field(default_factory=BagOfCharacters)
    sentences: tuple[str, ...] = ()
    longer_than: int = 3
    batch_size: int = 8
    frozen: bool = False
    evaluate_every: int = 2

    name: ClassVar[str] = "sentence_length"

    @staticmethod
    def run_defaults() -> dict[str, Any]:
        return {}

    def check(self, steps: int) -> None:
        if not self.sentences:
            raise ConfigError("sentences", "must hold a sentence, got none")

    def merged(self, old: "LengthConfig") -> "LengthConfig":
        return self

    def open(self, context: TaskContext) -> "LengthTask":
        return LengthTask(self, context.seed)

    def predictor(self, encoder: ctx_jax.Encoder) -> None:
        return None

    def report(self, encoder: ctx_jax.Encoder, run_dir: Path, options: Any) -> Report:
        """The accuracy on sentences, one a line of the files."""
        sentences = [line for name in options.texts for line in Path(name).read_text().splitlines()]
        task = LengthTask(self, seed=0)
        metrics = task.evaluated(encoder.run_params, sentences)
        return Report(f"accuracy  {metrics['accuracy']:.3f}  of {len(sentences)} sentences", metrics)


@dataclass(frozen=True)
class LengthRun(RunConfig):
    """A run of this task: what a configuration file of one's own would return."""

    # Without the name the flags are --sentences and --frozen, not --task.sentences and --task.frozen.
    task: Annotated[LengthConfig, tyro.conf.arg(name="")] = field(default_factory=LengthConfig)


@dataclass
class LengthBatches:
    """Batches without end, in a new order every epoch."""

    task: "LengthTask"
    rows: range
    next: int = 0

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        self.next = int(position["next"][0])

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        config = self.task.config
        places = [self.next * config.batch_size + row for row in self.rows]
        chosen = [permuted(place, len(config.sentences), self.task.seed) for place in places]
        self.next += 1
        position = {"next": np.full(len(self.rows), self.next, np.int32)}
        return Batch(self.task.batch([config.sentences[index] for index in chosen]), position)


@dataclass(frozen=True, eq=False)
class LengthTask:
    """See `training.task.Task`."""

    config: LengthConfig
    seed: int
    coefficients = {"label": 1.0, "accuracy": 0.0}  # noqa: RUF012
    processor = ByteInputs()
    files: tuple[str, ...] = ()
    prefetch = 2
    default_steps = 0
    origin = Origin()

    @property
    def model(self) -> BagOfCharacters:
        return self.config.model

    @property
    def heads(self) -> dict[str, Any]:
        return {"longer": LinearHead(2)}

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        return (ParameterGroup("^encoder/", frozen=True),) if self.config.frozen else ()

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

    @property
    def evaluators(self) -> Sequence[Evaluator]:
        sentences = self.config.sentences  # the training sentences once
        return (
            FunctionEvaluator(
                "valid", self.config.evaluate_every, lambda params, *_: self.evaluated(params, sentences)
            ),
        )

    def evaluated(self, params: Params, sentences: Sequence[str]) -> dict[str, float]:
        """The metrics of sentences."""
        terms, _ = self.loss(params, self.batch(sentences), (), None)
        return self.metrics({name: float(total / weight) for name, (total, weight) in terms.items()})

    def init(self, key: jax.Array) -> Params:
        encoder, head = jax.random.split(key)
        vectors = jnp.zeros((1, self.model.width), jnp.float32)
        return {
            "encoder": self.model.init(encoder),
            "head": {"longer": LinearHead(2).init(head, vectors)["params"]},
        }

    def initial(self, params: Params) -> Params:
        return params

    def zero_carry(self, rows: int) -> Carry:
        return ()

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        layers = embed(self.model, params["encoder"], batch.inputs)
        head = plain_params(params["head"]["longer"])
        logits = LinearHead(2).apply({"params": head}, pool(layers.values[-1], layers.mask))
        weight = jnp.float32(len(batch.labels))
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.labels[:, None], axis=1)
        hits = (jnp.argmax(logits, axis=1).astype(jnp.int32) == batch.labels).astype(jnp.float32)
        return {"label": (jnp.sum(nats), weight), "accuracy": (jnp.sum(hits), weight)}, carry

    def batch(self, sentences: Sequence[str]) -> LengthBatch:
        words = [sentence.split() for sentence in sentences]
        labels = np.array([len(each) > self.config.longer_than for each in words], np.int32)
        return LengthBatch(self.processor.arrays(words, length=LENGTH), labels)

    def batches(self, first: int, count: int) -> LengthBatches:
        return LengthBatches(self, range(first, first + count))

    def tokens(self, arrays: Any) -> int:
        return int(np.count_nonzero(arrays.inputs["word_mask"]))

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        return {"loss": means["label"], "accuracy": means["accuracy"]}

    def flops_per_token(self) -> float:
        return 3.0 * self.model.flops_per_token(LENGTH)
