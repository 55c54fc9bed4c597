"""`probe`: what each layer of an encoder knows, by tasks on its vectors as they are."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctx_jax.distributed.sharding import process_share
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.load import load
from ctx_jax.io.errors import ConfigError, InputError, MissingPackageError
from ctx_jax.io.files import atomic_write
from ctx_jax.tasks.probing.catalogue import Probe, named_probe
from ctx_jax.tasks.probing.folder import ProbeFolder
from ctx_jax.tasks.probing.label_probes import LabelProbe
from ctx_jax.tasks.probing.measuring import NotMeasured, Source, suited, trained_result, untrained_result
from ctx_jax.tasks.probing.plot import plot
from ctx_jax.tasks.probing.report import ProbeReport
from ctx_jax.tasks.probing.results import TABLE, TaskResult
from ctx_jax.tasks.tag_head import HeadKind
from ctx_jax.typing import Log

_LOGGER = logging.getLogger("ctx_jax")


def probe(
    encoder: Encoder | str | Path,
    tasks: Sequence[str | Probe],
    *,
    output: str | Path,
    data: str | Path | None = None,
    table: Encoder | str | Path | None = None,
    seeds: int = 3,
    limit: int = 0,
    epochs: int = 0,
    head: HeadKind = "linear",
    random: bool = True,
    log: Log = _LOGGER.info,
) -> ProbeReport:
    """Scores of tasks on each single layer, the plain mean of all, and a learned mix of an encoder as it is.

        report = probe("path/to/bert", ["upos", "sst2", "wic"], data="data", output="probes/bert")
        report.results["upos"].ways["layer 3"].test       # one accuracy a seed
        report.results["upos"].best_layer                 # by development data
        print(report.text)                                # whether syntax is low, senses are high, the mix is best

    Each finished part is a file in `output`: a call that was stopped goes on, and one that is repeated trains nothing.
    `results.json`, `results.md` and, with matplotlib, `layers.png` are of the `tasks` of the call.

    Args:
      encoder: what `load` takes, or gave.
      tasks: names of `catalogue.NAMES`, or a `LabelProbe.of_run(name, TrainConfig(...))` of your own.
      data: the folder with the files of named tasks (`catalogue.FILES`).
      table: a table of word vectors, to compare with.
      seeds: how many heads are trained for each way, with seeds 0, 1 ...
      limit: of each trained task, so many training examples, evenly spaced; 0: all.
      epochs: of named tasks, passes over the training examples, of which the best counts; 0: 20.
      head: of ner, `TagHead.kind`.
      random: also probe an encoder of the same shape with random weights (one draw): its learned mix.

    Raises ConfigError for unknown tasks, missing files, and an `output` of other settings or another encoder;
    InputError for an empty split, and in a job of several processes; RunError for a loss that is not finite, and while
    another process uses `output`.
    """
    if process_share()[1] > 1:
        raise InputError("a probe runs in one process, and this job has several")
    if head != "linear" and "ner" not in tasks:
        raise ConfigError("head", f"{head} has no effect without the task ner: name it too, or leave head at linear")
    _check_numbers(seeds=(seeds, 1), limit=(limit, 0), epochs=(epochs, 0))
    probes = [named_probe(each, data, head=head, epochs=epochs) if isinstance(each, str) else each for each in tasks]
    _check(probes)
    own = _loaded(encoder)
    sources = Source.of(own, None if table is None else _loaded(table), random)
    about = _about(own, seeds, limit)
    tables = [encoder_digest(each.encoder) for each in sources if each.name == TABLE]
    folder = ProbeFolder(Path(output))
    with folder.opened({"encoder": about["digest"], "table": next(iter(tables), None), "limit": limit}):
        report = ProbeReport(about, *_measured(probes, sources, folder, seeds, limit, log))
        _write(report, folder.path, log)
    return report


def _measured(
    probes: Sequence[Probe], sources: Sequence[Source], folder: ProbeFolder, seeds: int, limit: int, log: Log
) -> tuple[dict[str, TaskResult], list[str]]:
    """The results by task, and what was not measured."""
    results, notes = dict[str, TaskResult](), list[str]()
    asked: dict[str, Sequence[Source]] = {}
    for each in probes:  # before anything is trained
        if isinstance(each, LabelProbe):
            asked[each.name], unsuited = suited(each, sources)
            notes += unsuited
    for each in probes:
        try:
            if isinstance(each, LabelProbe):
                results[each.name] = trained_result(each, asked[each.name], folder, seeds, limit, log)
            else:
                results[each.name] = untrained_result(each, sources, folder, log)
        except NotMeasured as reason:
            notes.append(str(reason))
    return results, notes


def _about(encoder: Encoder, seeds: int, limit: int) -> dict[str, Any]:
    """What is probed, as JSON."""
    return {
        "encoder": str(encoder.source.paths.get("path", type(encoder.model).__name__)),
        "model": type(encoder.model).__name__,
        "layers": int(encoder.model.num_layers),
        "width": int(encoder.model.width),
        "digest": encoder_digest(encoder),
        "seeds": seeds,
        "limit": limit,
    }


def _loaded(encoder: Encoder | str | Path) -> Encoder:
    return encoder if isinstance(encoder, Encoder) else load(encoder)


def _check_numbers(**settings: tuple[int, int]) -> None:
    for name, (value, least) in settings.items():
        if value < least:
            raise ConfigError(name, f"must be at least {least}, got {value}")


def _check(probes: Sequence[Probe]) -> None:
    names = [each.name for each in probes]
    if not names:
        raise ConfigError("task", "is needed: name one or more")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError("task", f"{twice[0]} is named twice")
    for each in probes:
        if isinstance(each, LabelProbe):
            each.check()


def _write(report: ProbeReport, folder: Path, log: Log) -> None:
    atomic_write(folder / "results.json", report.json_text())
    atomic_write(folder / "results.md", report.markdown)
    try:
        plot([*report.results.values()], folder / "layers.png")
    except MissingPackageError as missing:
        log(f"no layers.png: {missing}")
