"""Several runs of one task with labels: by seeds, and by sizes of the training file (a learning curve).

runs/sst2/
  results.json, results.md      written after each finished run
  seed_0/, seed_1/ ...          runs; with sizes below size_100/, size_1000/, size_all/ ...
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctx_jax.checkpoints.run_files import CONFIG, RESULTS, RESULTS_TABLE, SELECTION, existing
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.labelled import nested_subset
from ctx_jax.distributed import processes
from ctx_jax.distributed.processes import is_first_process, on_first_process
from ctx_jax.evaluation.results import finite_metrics
from ctx_jax.io import configs
from ctx_jax.io.errors import ConfigError, InputError, listed
from ctx_jax.io.files import atomic_write, read_json
from ctx_jax.tasks.label_names import label_names
from ctx_jax.tasks.label_options import RepeatOptions
from ctx_jax.training import run as training_run
from ctx_jax.training.config import RunConfig, check_resume
from ctx_jax.training.devices import fix_kernels
from ctx_jax.training.metrics import print_line
from ctx_jax.typing import Log


class SubRun(NamedTuple):
    """One of the runs."""

    size: int | None  # examples of the training file; None: all
    config: RunConfig


def run(config: RunConfig) -> bool:
    """`training.run.run(config)`, or the runs that `config.task.repeats` asks for, one after the other.

    The same call again goes on with the runs that are not finished; one with other seeds or sizes adds theirs to the
    tables. False if one was stopped. Raises as `training.run.run`, and ConfigError for settings that give no table, or
    that are not those of the runs in the tables.
    """
    options = getattr(config.task, "repeats", None)
    if not isinstance(options, RepeatOptions) or not options.asked:
        return training_run.run(config)
    _check(config)
    sub_runs = list(_sub_runs(config, options))
    # Before the first use of jax, as `training.run.run` does.
    fix_kernels(config.devices, Path(sub_runs[0].config.run_dir))
    if config.devices.distributed:
        processes.join()
    with training_run.locked_directory(Path(config.run_dir)):
        return _run_all(Path(config.run_dir), config.task, sub_runs)


def _check_others(folder: Path, sub_runs: Sequence[SubRun]) -> None:
    """ConfigError if the table would have runs of other settings beside the new ones, apart from size and seed."""
    new = sub_runs[0].config
    for name in _others(folder, sub_runs, _known_so_far(folder)):
        old = configs.read(existing(folder / name, CONFIG), type(new))
        task = new.task.merged(old.task) if type(old.task) is type(new.task) else new.task
        task = replace(task, data=replace(task.data, examples=old.task.data.examples))
        same = replace(new, task=task, seed=old.seed, steps=new.steps or old.steps)
        check_resume(old, same, configs.differences(old, same))
        _check_steps(name, old, new)


def _check_steps(name: str, old: RunConfig, new: RunConfig) -> None:
    """ConfigError for other steps than an old run's. One that was trained without them has the patience of these."""
    by_epochs = old.task.evaluate.patience and new.task.evaluate.patience is None
    if new.steps and new.steps != old.steps:
        raise ConfigError("steps", f"is {new.steps}, and {name}, of the same table, has {old.steps}: set the same")
    if not new.steps and new.task.evaluate.patience is None and not by_epochs:
        raise ConfigError("steps", f"is left out, and {name}, of the same table, was trained with {old.steps}: set it")


def _known_so_far(folder: Path) -> dict[str, dict[str, Any]]:
    """`_known`; {} before the first table."""
    return _known(folder) if (folder / RESULTS).is_file() else {}


def _others(folder: Path, sub_runs: Sequence[SubRun], known: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The `known` runs that this command does not name, by their place; those that were removed are not."""
    named = {Path(each.config.run_dir) for each in sub_runs}
    return {
        name: each for name, each in known.items() if folder / name not in named and (folder / name / CONFIG).is_file()
    }


def measured(
    folder: Path, measure: Callable[[Path], Mapping[str, float]], log: Log
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The finished runs of a directory of several, each with the metrics that `measure` gives of it, and the rows of
    their table: as "runs" and "table" of `results.json`, with these metrics in place of validation's.

    Runs that were removed are left out, and `log` names those that are not finished. InputError if none is, or if
    `results.json` is not what `run` wrote.
    """
    known = {name: each for name, each in _known(folder).items() if (folder / name / CONFIG).is_file()}
    runs = [dict(each) for each in known.values() if each["step"] is not None]
    if not runs:
        raise InputError(f"{folder} has no finished run: give the command that trains them again, which goes on")
    if left := [name for name, each in known.items() if each["step"] is None]:
        log(f"not finished, and not measured: {listed(left)}")
    for each in runs:
        each["metrics"] = finite_metrics(measure(folder / each["run"]))
    return runs, _rows(runs)


def _known(folder: Path) -> dict[str, dict[str, Any]]:
    """The "runs" of `results.json`, by their place; InputError if they are none."""
    path = folder / RESULTS
    try:
        names = ("run", "size", "seed", "step", "metrics")
        return {str(each["run"]): {name: each[name] for name in names} for each in read_json(path)["runs"]}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no list of runs ({error!r}): remove it, and give the command that trained them again"
        ) from error


def _run_all(folder: Path, task: Any, sub_runs: Sequence[SubRun]) -> bool:
    """Train each run and write the tables after it; False if one was stopped.

    Tables of an earlier command stay until a run has ended well, and hold its numbers of the runs that are to follow.
    """
    _check_others(folder, sub_runs)
    _write(folder, task, sub_runs, 0)
    for number, sub_run in enumerate(sub_runs, 1):
        if is_first_process():
            print_line(f"run {number} of {len(sub_runs)}: {sub_run.config.run_dir}")
        if not training_run.run(sub_run.config):
            return False
        _write(folder, task, sub_runs, number)
    if is_first_process():
        print_line((folder / RESULTS_TABLE).read_text(encoding="utf-8").rstrip("\n"))
    return True


def _check(config: RunConfig) -> None:
    """ConfigError for what gives no table of metrics, for more examples than the training file has, and for so few
    that they have one label."""
    task, options = config.task, config.task.repeats
    setting = "seeds" if options.seeds else "sizes"
    if not config.run_dir:
        raise ConfigError("run_dir", "is needed: name a directory for the runs")
    if (Path(config.run_dir) / "checkpoints").is_dir():
        raise ConfigError("run_dir", f"{config.run_dir} is a single run: name another directory for several")
    if not task.data.valid:
        raise ConfigError(setting, "gives a table of the metrics of data.valid: name a validation file")
    if task.evaluate.every == 0:
        raise ConfigError("evaluate.every", f"is 0, and {setting} gives a table of evaluations: leave it out")
    if task.data.examples and options.sizes:
        raise ConfigError("sizes", "takes the place of data.examples: leave one of them out")
    replace(task, repeats=RepeatOptions()).check(config.steps)
    sizes = [size for size in options.parsed_sizes if size is not None]
    if sizes:
        examples = task.prepared(list(task.read(task.data.train)), task.data.train, lambda _: None)
        if max(sizes) > len(examples):
            raise ConfigError("sizes", f"has {max(sizes)}, and {task.data.train} {len(examples)} examples")
    for seed in range(config.seed, config.seed + max(options.seeds, 1)) if sizes else ():
        least = min(sizes)  # which the larger ones hold
        try:
            label_names(task.predicted, {"train": nested_subset(examples, least, seed)}, lambda _: None)
        except ConfigError as error:
            raise ConfigError(
                "sizes", f"has {least}, and its examples of seed {seed} have too few labels ({error}): leave it out"
            ) from error


def _sub_runs(config: RunConfig, options: RepeatOptions) -> Iterator[SubRun]:
    """The runs, the smallest size first. They share the vectors of a frozen encoder where they train on the same
    examples: a size smaller than the file has others by each seed."""
    task, parent = config.task, Path(config.run_dir)
    cache = task.data.cache or (str(parent / "cache") if task.frozen else "")
    for size in options.parsed_sizes or (task.data.examples or None,):
        folder = parent / f"size_{size or 'all'}" if options.sizes else parent
        data = replace(task.data, examples=size or 0, cache=cache)
        for seed in range(config.seed, config.seed + max(options.seeds, 1)):
            own = replace(task, data=data, repeats=RepeatOptions())
            yield SubRun(size, replace(config, task=own, seed=seed, run_dir=str(folder / f"seed_{seed}")))


def _write(folder: Path, task: Any, sub_runs: Sequence[SubRun], finished: int) -> None:
    """The tables, on the first process: `finished` runs of this command, and what is known of the others."""

    def write() -> None:
        known = _known_so_far(folder)
        if known and not finished:
            return
        found = [_result(folder, each, number < finished, known) for number, each in enumerate(sub_runs)]
        found += _others(folder, sub_runs, known).values()
        found.sort(key=lambda each: (each["size"] is None, each["size"], each["seed"]))
        content = {"metric": task.metric, "runs": found, "table": _rows(found)}
        atomic_write(folder / RESULTS, json.dumps(content, indent=2) + "\n")
        atomic_write(folder / RESULTS_TABLE, markdown(content["table"], task.metrics))

    on_first_process(write)


def _result(folder: Path, sub_run: SubRun, finished: bool, known: Mapping[str, Any]) -> dict[str, Any]:
    """A run's place, and once it is finished its best step and the metrics there; before, those that are `known`."""
    run_dir = Path(sub_run.config.run_dir)
    place = str(run_dir.relative_to(folder))
    found = {"run": place, "size": sub_run.size, "seed": sub_run.config.seed}
    if not finished:
        return known.get(place, found | {"step": None, "metrics": None})
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        step = checkpoints.best()
        metrics = (checkpoints.metrics(step) if step is not None else None) or {}
    own = {name: value for name, value in metrics.items() if name != SELECTION}
    return found | {"step": step, "metrics": finite_metrics(own)}


def _rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each size the mean over its finished runs, the standard deviation (n - 1), the least and the greatest of
    every metric; of one run no deviation."""
    rows = []
    for size in dict.fromkeys(each["size"] for each in results):
        own = [each["metrics"] for each in results if each["size"] == size and each["metrics"]]
        row: dict[str, Any] = {"size": size, "seeds": len(own), "metrics": {}}
        for name in own[0] if own else ():
            values = np.array([np.nan if each.get(name) is None else each[name] for each in own], np.float64)
            if np.isfinite(values).all():
                spread = float(values.std(ddof=1)) if len(values) > 1 else None
                row["metrics"][name] = {
                    "mean": float(values.mean()), "deviation": spread, "least": values.min(), "greatest": values.max()
                }  # fmt: skip
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> str:
    """A table of the loss and `metrics`: mean, and standard deviation if there are several seeds."""
    names = ("loss", *(name for name in metrics if name != "loss"))

    def cell(found: dict[str, Any] | None) -> str:
        if found is None:
            return ""
        return f"{found['mean']:.4f}" + ("" if found["deviation"] is None else f" ± {found['deviation']:.4f}")

    lines = [["examples", "seeds", *names], ["---"] * (2 + len(names))]
    for row in rows:
        size = "all" if row["size"] is None else f"{row['size']:,}"
        lines.append([size, str(row["seeds"]), *(cell(row["metrics"].get(name)) for name in names)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
