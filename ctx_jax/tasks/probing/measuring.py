"""The results of one task for all encoders that are compared, computed where the folder does not have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import jax

from ctx_jax.data.labelled import Example
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.evaluation.minimal_pairs import language_model_head
from ctx_jax.evaluation.results import finite_metrics
from ctx_jax.io.errors import ConfigError, CtxJaxError
from ctx_jax.io.progress import Progress
from ctx_jax.tasks.probing.folder import ProbeFolder
from ctx_jax.tasks.probing.head_training import HeadTraining
from ctx_jax.tasks.probing.label_probes import LabelProbe
from ctx_jax.tasks.probing.results import MEAN, MIX, MOST_FREQUENT, RANDOM, TABLE, TaskResult, collected, layer_name
from ctx_jax.tasks.probing.untrained import UntrainedProbe
from ctx_jax.typing import Log

ENCODER = "encoder"


class NotMeasured(CtxJaxError):
    """A task that the encoder cannot be asked; the message is for the report."""


@dataclass(frozen=True)
class Source:
    """An encoder whose vectors are read: the one that is probed, its shape with random weights, or a table."""

    name: str
    encoder: Encoder

    @classmethod
    def of(cls, encoder: Encoder, table: Encoder | None, random: bool) -> "list[Source]":
        """All that are compared. ConfigError for a table of several layers."""
        found = [cls(ENCODER, encoder)]
        if random:
            params = jax.device_get(encoder.model.init(jax.random.key(0)))
            found.append(cls(RANDOM, replace(encoder, params=params, heads={})))
        if table is not None:
            if table.model.num_layers != 1:
                raise ConfigError("table", f"needs an encoder of one layer, got {type(table.model).__name__}")
            found.append(cls(TABLE, table))
        return found

    @property
    def trained_ways(self) -> dict[str, str]:
        """The ways for which heads are trained, and their names in the results."""
        count = int(self.encoder.model.num_layers)
        if self.name != ENCODER:
            return {MIX if count > 1 else layer_name(0): self.name}
        single = [layer_name(number) for number in range(count)]
        return {way: way for way in (*single, *((MEAN, MIX) if count > 1 else ()))}

    def own(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Records of a task without training, under their names in the results; what needs no encoder is there once."""
        if self.name == ENCODER:
            return [*map(dict, records)]
        whole = MEAN if self.encoder.model.num_layers > 1 else layer_name(0)
        names = {record["way"]: f"{self.name} {record['way']}" for record in records} | {whole: self.name}
        return [{**each, "way": names[each["way"]]} for each in records if each["way"] != MOST_FREQUENT]


def suited(task: LabelProbe, sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """The encoders that the task can be asked of, and a note for each other one; ConfigError if the one that is probed
    is not among them."""
    found, notes = [], []
    for source in sources:
        try:
            task.config.processed(source.encoder.processor, source.encoder.model)
            task.config.network(source.encoder, ())
        except ConfigError as error:
            if source.name == ENCODER:
                raise
            notes.append(f"{task.name} was not measured with the {source.name}: {error}.")
        else:
            found.append(source)
    return found, notes


def trained_result(
    task: LabelProbe, sources: Sequence[Source], folder: ProbeFolder, seeds: int, limit: int, log: Log
) -> TaskResult:
    """The results of a task with labels."""
    examples = task.read(limit, log)
    folder.open_task(task.name, task.identity(examples))
    parts = [(source, way, seed) for source in sources for way in source.trained_ways for seed in range(seeds)]
    missing = [part for part in parts if folder.read(task.name, _file(*part)) is None]
    progress = Progress(f"probing {task.name}", "runs", len(missing), log)
    for source, own in groupby(missing, key=lambda part: part[0]):
        _train(task, source, [(way, seed) for _, way, seed in own], examples, folder, progress, log)
    for source in sources:
        folder.drop_cache(_cache(task, source))
    records = [record for part in parts if (record := folder.read(task.name, _file(*part))) is not None]
    counts = {name: len(own) for name, own in examples.items()}
    ways = collected(records, task.metric)
    return TaskResult(task.name, task.kind, task.metric, task.chosen_on, task.measured_on, True, ways, counts)


def _cache(task: LabelProbe, source: Source) -> str:
    return f"{task.name}-{source.name}"


def _file(source: Source, way: str, seed: int) -> str:
    return f"{source.trained_ways[way]}-seed {seed}"


def _train(
    task: LabelProbe,
    source: Source,
    runs: Sequence[tuple[str, int]],
    examples: Mapping[str, Sequence[Example]],
    folder: ProbeFolder,
    progress: Progress,
    log: Log,
) -> None:
    """Train a head for each way and seed of one encoder, which reads the text once."""
    metric = task.metric
    opened = task.open(source.encoder, examples, folder.cache(_cache(task, source)), log)
    train = HeadTraining(task, log)
    for way, own in groupby(runs, key=lambda run: run[0]):
        reading = opened.reading(way)
        for _, seed in own:
            name = source.trained_ways[way]
            found = train(reading, seed, f"{task.name} {name}, seed {seed}")
            record = {"way": name, "seed": seed, **found._asdict()}
            folder.write(task.name, _file(source, way, seed), _finite(record))
            log(
                f"{task.name} {name}, seed {seed}: {metric} {found.dev[metric]:.4f} on {task.chosen_on} in epoch "
                f"{found.epoch}, {found.test[metric]:.4f} on {task.measured_on}"
            )
            progress.add()


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """With null in place of scores that are not finite."""
    return {name: finite_metrics(value) if isinstance(value, Mapping) else value for name, value in record.items()}


def _shown(task: UntrainedProbe, record: Mapping[str, Any]) -> str:
    """The scores of a record, and the threshold if one was chosen."""
    parts = [
        f"{task.metric} {record[half][task.metric]:.4f} on {where}"
        for half, where in (("dev", task.chosen_on), ("test", task.measured_on))
        if task.metric in record[half]
    ]
    if "threshold" in record["test"]:
        parts.append(f"threshold {record['test']['threshold']:.4f}")
    return ", ".join(parts)


def untrained_result(task: UntrainedProbe, sources: Sequence[Source], folder: ProbeFolder, log: Log) -> TaskResult:
    """The results of a task without training. NotMeasured for minimal pairs without a language model."""
    if not task.has_layers:  # the language model's own scores: of the encoder alone
        sources = [source for source in sources if source.name == ENCODER]
        if language_model_head(sources[0].encoder) is None:
            raise NotMeasured(f"{task.name} was not measured: the encoder has no head of a language model.")
    folder.open_task(task.name, task.identity(sources[0].encoder))
    records: list[dict[str, Any]] = []
    counts: dict[str, Any] = {}
    for source in sources:
        content = folder.read(task.name, source.name)
        if content is None:
            log(f"{task.name}: vectors of {source.name}")
            own, detail = task.measure(source.encoder, task.files[0], log)
            content = folder.write(task.name, source.name, {"records": [*map(_finite, own)], "result": detail})
            for record in source.own(own):
                log(f"{task.name} {record['way']}: {_shown(task, record)}")
        records += source.own(content["records"])
        counts = counts or content["result"]["counts"]
    ways = collected(records, task.metric)
    return TaskResult(task.name, task.kind, task.metric, task.chosen_on, task.measured_on, False, ways, counts)
