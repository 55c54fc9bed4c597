"""Tasks with labels as a probe trains them: the encoder read once, its stored layers for every way and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctx_jax.checkpoints.run_files import Origin
from ctx_jax.data.batch import LabelBatch
from ctx_jax.data.epochs import Epochs
from ctx_jax.data.labelled import Example, digest
from ctx_jax.distributed.sharding import devices_in_use
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.vector_cache import StoredVectors, store_vectors
from ctx_jax.heads import LabelHead
from ctx_jax.io import configs
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.losses.labels import balanced_weights
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.label_names import label_names
from ctx_jax.tasks.label_network import LABELS
from ctx_jax.tasks.label_rows import UNKNOWN, Rows, StoredRows, measure
from ctx_jax.tasks.label_task import LabelTask
from ctx_jax.tasks.probing.results import Kind, layer_number
from ctx_jax.training.config import RunConfig
from ctx_jax.training.optimizer import OptimizerConfig
from ctx_jax.training.task import Batches
from ctx_jax.typing import Log, Params

HELD_OUT = 10
"""Where no file chooses, every tenth training example does."""
_ROW_WORDS = 128  # the words of a batch in one row are padded to a multiple
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class LabelProbe:
    """A task whose head is trained."""

    name: str
    config: Any
    """A LabelConfig that names the training file; `data.valid` chooses epoch and layer, every tenth training example
    where there is none."""
    optimizer: OptimizerConfig
    measured: str
    """The file that the scores are of."""
    measured_on: str = "test"
    steps: int = 0
    """0: as many as `config.epochs` take."""
    kind: Kind = "other"

    @classmethod
    def of_run(cls, name: str, run: RunConfig, kind: Kind = "other") -> "LabelProbe":
        """From the settings of a run of `classify`, `tag` or `pairs`. The scores are of its validation file, and every
        tenth training example chooses; its encoder, `frozen`, `encoder_rate`, `layers` and `mix` are the probe's.
        ConfigError."""
        task = run.task
        if not isinstance(task, LabelConfig):
            raise ConfigError("task", f"{name} must be of classify, tag or pairs, and is a run of {task.name}")
        if not task.data.valid:
            raise ConfigError("data.valid", f"of {name} is needed: a probe reports the scores of this file")
        data = replace(task.data, valid="", cache="")
        config = replace(task, data=data, frozen=True, encoder_rate=LabelConfig.encoder_rate, layers="mix", mix="")
        return cls(name, config, run.optimizer, task.data.valid, "dev", run.steps, kind)

    @property
    def metric(self) -> str:
        return str(self.config.metric)

    @property
    def chosen_on(self) -> str:
        """The data that choose, in words."""
        return "dev" if self.config.data.valid else f"every {HELD_OUT}th training example"

    def check(self) -> None:
        """ConfigError for settings that contradict each other, or that cannot be probed."""
        data = self.config.data  # where no file chooses, a part of the training file does
        replace(self.config, encoder="probed", data=replace(data, valid=data.valid or data.train)).check(self.steps)
        if self.metric == "loss":
            raise ConfigError("evaluate.metric", f"of {self.name} is loss, and a probe compares scores: set another")
        head: Any = getattr(self.config, "head", None)
        if "huggingface" in (head, getattr(head, "kind", None)):
            raise ConfigError("head", f"of {self.name} is huggingface, which reads the last layer alone: leave it out")
        for name in ("mix_norm", "mix_penalty"):
            if getattr(self.config.tuning, name):
                raise ConfigError(
                    name, f"of {self.name} is for a mix alone, which is compared with layers: leave it out"
                )
        if self.config.data.examples:
            raise ConfigError("data.examples", f"of {self.name} is for training: set the probe's limit")
        if self.config.predicted == "ranking":
            raise ConfigError("target", f"of {self.name} is ranking, which trains no head: set classes or number")

    def read(self, limit: int, log: Log) -> dict[str, list[Example]]:
        """The examples of "train", "valid" (what chooses) and "test" (what is reported); InputError if one is empty."""
        config = self.config
        paths = {"train": config.data.train, "valid": config.data.valid, "test": self.measured}
        found = {
            name: config.prepared(list(config.read(path)), path, log) if path else [] for name, path in paths.items()
        }
        if not config.data.valid:
            found["valid"] = found["train"][HELD_OUT - 1 :: HELD_OUT]
            found["train"] = [each for i, each in enumerate(found["train"]) if i % HELD_OUT != HELD_OUT - 1]
        if limit and len(found["train"]) > limit:
            found["train"] = [found["train"][i * len(found["train"]) // limit] for i in range(limit)]
        for name, path in paths.items():
            if not found[name]:
                raise InputError(f"{self.name}: {path or paths['train']} holds no example for {name}")
        return found

    def identity(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
        """All that the results depend on besides the encoder, as JSON."""
        data = replace(self.config.data, train="", valid="", cache="")
        config = replace(self.config, encoder="", data=data)
        return {
            "task": configs.to_json(config),
            "optimizer": configs.to_json(self.optimizer),
            "steps": self.steps,
            **{name: {"examples": len(own), "digest": digest(own)} for name, own in examples.items()},
        }

    def open(self, encoder: Encoder, examples: Mapping[str, Sequence[Example]], cache: Path, log: Log) -> "ProbedTask":
        """The task on an encoder, with the vectors of all layers stored in `cache`."""
        config, model = self.config, encoder.model
        encoder = replace(
            encoder,
            model=replace(model, compute=config.compute),  # type: ignore[type-var]
            params=jax.device_get(encoder.params),
            processor=config.processed(encoder.processor, model),
            heads={},
        )
        files = {name: examples[name] for name in ("train", "valid")}
        labels, counts = label_names(config.predicted, files, log)
        network = config.network(encoder, labels)
        first: dict[str, Any] = {}
        if config.predicted == "number":
            numbers = np.array([float(str(one.label)) for one in examples["train"]])
            first[LABELS] = network.first_scores(numbers)
        key = encoder_digest(encoder)
        task = ProbedTask(
            config=config,
            seed=0,
            encoder=encoder,
            network=network,
            first_heads=first,
            labelled={name: config.labelled(encoder, own, labels, log) for name, own in examples.items()},
            class_weights=balanced_weights(counts) if config.class_weights == "balanced" else np.ones_like(counts),
            identities={
                name: {"encoder": key, "texts": digest(own, labels=False), "length": config.length}
                for name, own in examples.items()
            },
            files=(),
            origin=Origin(encoder.architecture, None),
            cache=cache,
            log=log,
        )
        return replace(task, stored=task.store())


@dataclass(frozen=True, eq=False)
class ProbedTask(LabelTask):
    """A task on stored vectors, whose parameters are those of the heads alone."""

    stored: Mapping[tuple[str, str], StoredVectors] = field(default_factory=dict)
    """By split and part of it."""

    def store(self) -> dict[tuple[str, str], StoredVectors]:
        """The vectors of all layers and splits, computed where they are not there yet."""
        found: dict[tuple[str, str], StoredVectors] = {}

        def keep(name: str, part: str, texts: Sequence[Any]) -> Rows:
            identity, pooling = {**self.identities[name], "part": part}, self.network.stored_pooling
            stored = store_vectors(self.encoder, texts, identity, self.cache, pooling=pooling, log=self.log)
            found[name, part] = stored
            return StoredRows(stored, None)

        for name in SPLITS:
            self.config.rows(self.labelled[name].texts, partial(keep, name))
        return found

    def reading(self, way: str) -> "ProbedTask":
        """The task that reads one layer or the plain mean of all, from memory; itself for the learned mix.

        All of these have one network, so that one compiled program serves them.
        """
        if way == "mix":
            return self
        layer = layer_number(way)
        stored = {key: vectors.single(layer) for key, vectors in self.stored.items()}
        return replace(self, network=replace(self.network, layers=0), stored=stored)

    def _made(self, name: str, part: str, texts: Sequence[Any]) -> Rows:
        return StoredRows(self.stored[name, part], None)

    def batches(self, first: int, count: int) -> Batches:
        """As `LabelTask.batches`. Where a linear head reads each word by itself, the words of a batch stand in one row,
        which spares the padding: sentences of a batch differ in length."""
        network, labelled = self.network, self.labelled["train"]
        if network.pooling is not None or not isinstance(network.label_head, LabelHead):
            return super().batches(first, count)
        rows: Any = self._rows["train"]

        def make(examples: np.ndarray, own: range) -> LabelBatch:
            numbers = examples[own.start : own.stop].tolist()
            size = int(rows.sizes[numbers].sum())
            length = -(-max(size, 1) // _ROW_WORDS) * _ROW_WORDS
            labels = np.zeros((1, length), np.int32)
            labels[0, :size] = np.concatenate([labelled.labels[number] for number in numbers])
            known = np.arange(length)[None] < size
            weights = (known & (labels != UNKNOWN)).astype(np.float32)
            inputs = rows.vectors.joined(numbers, length)
            return LabelBatch(inputs, np.maximum(labels, 0), weights, np.zeros(1, np.int32), np.array([size], np.int32))

        return Epochs(len(rows.sizes), self.batch_size, range(first, first + count), self.seed, make)

    def init(self, key: jax.Array) -> Params:
        """Fresh heads, those of a run of the same seed."""
        _, heads = jax.random.split(key)
        return {"head": self.initial_heads(self.network.init_heads(heads))}

    def scores(self, params: Params, split: str) -> dict[str, float]:
        """The metrics of a split."""
        rows, devices = self._rows[split], devices_in_use()[:1]
        return measure(self.network, params, self.labelled[split], rows, self.batch_size, devices).metrics
