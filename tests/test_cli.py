"""The command line: what it accepts, what it refuses, and the errors it prints."""

import ast
import fcntl
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from toys.sentence_length import LengthRun

from ctx_jax import __version__
from ctx_jax.cli import main
from ctx_jax.commands.evaluate import Evaluate
from ctx_jax.commands.export import Export
from ctx_jax.commands.flags import with_flag
from ctx_jax.commands.tokenizer import TrainTokenizer
from ctx_jax.commands.train import find, load, names, read
from ctx_jax.io.build_once import locked
from ctx_jax.io.errors import ConfigError, InputTypeError
from ctx_jax.io.files import atomic_write
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tokenizers import subwords
from ctx_jax.training.config import check_config
from ctx_jax.training.optimizer import Adagrad

ROOT = Path(__file__).resolve().parents[1]
TEXT = ["--run-dir", "{tmp}/run", "--data.train", "{tmp}/text.txt"]


def test_flags_override_a_named_configuration() -> None:
    """The task's settings stand at the top, beside those of the run."""
    assert all(read([flag]).devices.deterministic for flag in ("--deterministic", "--devices.deterministic"))
    config = read(
        ["elmo_original", "--steps", "7", "--seed", "5", "--data.train", "a*.txt", "--data.valid", "b.txt"]
        + ["--devices.mode", "pmap", "--checkpoint.every", "3", "--log.every", "2", "--model.highways", "1"]
        + ["--optimizer.learning-rate", "0.5", "--evaluate.every", "4", "--run-dir", "here", "--zero-start", "0.25"]
    )
    task = config.task
    assert isinstance(task, BiLMConfig) and task.model.highways == 1 and task.model.dim == 4096
    assert (config.steps, config.seed, config.run_dir) == (7, 5, "here")
    assert (task.data.train, task.data.valid, config.devices.mode) == ("a*.txt", "b.txt", "pmap")
    assert (config.checkpoint.every, config.log.every, config.optimizer.learning_rate) == (3, 2, 0.5)
    assert (task.evaluate.every, task.zero_start) == (4, 0.25)
    assert isinstance(config.optimizer, Adagrad) and task.negatives == 8192  # what no flag named


def test_demonstrations_are_switched_off_by_a_flag() -> None:
    shown, off = read([]).task.evaluate, ["--evaluate.neighbours", "0", "--evaluate.ngrams", "0"]
    assert shown.neighbours and shown.ngrams
    assert (read(off).task.evaluate.neighbours, read(off).task.evaluate.ngrams) == (0, 0)
    filled = ["mlm_quickstart", "--evaluate.fill-mask"]
    assert read(filled[:1]).task.evaluate.fill_mask and not read([*filled, "0"]).task.evaluate.fill_mask


def test_an_import_is_a_flag_of_the_transformers_tasks() -> None:
    config = read(["bert_base", "--init", "path/to/bert", "--model.depth", "3", "--sequences.batch-size", "16"])
    assert isinstance(config.task, MaskedLMConfig)
    assert (config.task.init, config.task.model.depth, config.task.sequences.batch_size) == ("path/to/bert", 3, 16)


def test_without_a_configuration_it_is_quickstart_in_a_directory_of_its_name() -> None:
    assert read([]).run_dir == "runs/quickstart"
    assert read(["elmo_small"]).run_dir == "runs/elmo_small"
    assert read(["--steps", "3"]).task.data.train == "python-docs"


def test_a_file_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('"""Mine."""\nfrom ctx_jax.tasks import TrainConfig as T\ndef config(): return T(steps=9)\n')
    assert read([str(path)]).steps == 9 and read([str(path)]).run_dir == "runs/mine"
    path.write_text("def config(): return 3\n")
    with pytest.raises(InputTypeError, match="must define config"):
        read([str(path)])


def test_a_task_of_ones_own_has_its_flags(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from toys.sentence_length import LengthRun as config\n")
    config = read([str(path), "--longer-than", "5", "--sentences", "a b", "c", "--steps", "2"])
    assert (config.task.longer_than, config.task.sentences, config.steps) == (5, ("a b", "c"), 2)


def test_an_error_names_the_flag_of_the_configuration_that_was_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from toys.sentence_length import LengthRun as config\n")
    assert main(["train", str(path), "--run-dir", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "--sentences" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_closed_pipe_ends_the_help_without_a_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, stdout=writer, stderr=-1, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("name", names())
def test_every_shipped_configuration_states_what_to_expect_and_is_valid(name: str) -> None:
    config, about = load(find(name))
    check_config(config)
    batches = config.task.data if isinstance(config.task, BiLMConfig) else config.task.sequences
    assert batches.batch_size % 8 == 0, "eight devices must be able to share it"
    for part in ("Command:", "Hardware:", "Time:", "Expect:"):
        assert part in about, f"configs/{name}.py must state its {part}"


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--stepz", "3"], "--steps"),
        (["--devices.mode", "both"], "shard"),
        (["--steps", "many"], "int"),
    ],
)
def test_a_wrong_flag_or_value_ends_with_status_2_and_a_hint(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.count(part) >= 1 and not printed.out


@pytest.mark.parametrize(
    "arguments, status, part",
    [
        (["trian"], 2, "did you mean 'train'"),
        (["train", "quikstart"], 1, "did you mean 'quickstart'"),
        (["train", "none.py"], 1, "no configuration file none.py"),
        (["train", "--steps", "0"], 1, "error: --steps must"),
        (["train", "--model.dropout", "2"], 1, "error: --model.dropout must"),
        (["train", "--data.batch-size", "0"], 1, "error: --data.batch-size must"),
        (["train", "--negatives", "-1"], 1, "error: --negatives must"),
        (["train", "--evaluate.neighbours", "-1"], 1, "error: --evaluate.neighbours must"),
        (["train", "--optimizer.learning-rate", "-1"], 1, "error: --optimizer.learning-rate must"),
        (["train", "mlm_quickstart", "--model.heads", "3"], 1, "error: --model.dim must"),
        (["train", "mlm_quickstart", "--sequences.mask-rate", "2"], 1, "error: --sequences.mask-rate must"),
        (["train", "--data.train", "no/such*.txt", "--run-dir", "{tmp}"], 1, "no/such*.txt"),
        (["train", "--run-dir", "{tmp}/text.txt"], 1, "error: --run-dir needs a directory"),
        (["train", *TEXT, "--data.vocabulary", "nope.txt"], 1, "error: nope.txt: No such file"),
        (["train", *TEXT, "--data.vocabulary", "{tmp}"], 1, "Is a directory"),
        (
            ["train", "mlm_quickstart", *TEXT, "--tokenizer.file", "nope.json"],
            1,
            "error: --tokenizer.file nope.json: nope.json: No such file",
        ),
        (["train", "mlm_quickstart", *TEXT, "--init", "nowhere"], 1, "error: --init nowhere: nowhere does not exist"),
        (["train", "--steps", "3", "quickstart"], 1, "goes before the flags: ctx-jax train quickstart --flags"),
        (["train", "{tmp}/typo.py"], 1, "typo.py, line 3: TypeError"),
        (["train", "{tmp}/syntax.py"], 1, "syntax.py, line 1: SyntaxError"),
        (["train", "{tmp}/type.py"], 1, "--steps needs int, got '3'"),
        (
            ["tokenizer", "{tmp}/new", "--convert", "nope.json", "--size", "90"],
            1,
            "error: --size means nothing to --convert",
        ),
        (
            ["tokenizer", "{tmp}/new", "--train", "{tmp}/text.txt", "--minimum-count", "0"],
            1,
            "error: --minimum-count must",
        ),
        (["tokenizer", "{tmp}/new", "--train", "{tmp}/text.txt", "--size", "3"], 1, "error: --size must"),
        (
            ["tokenizer", "{tmp}/text.txt", "--train", "{tmp}/text.txt"],
            1,
            "exists and is not empty (text.txt): give a new folder",
        ),
    ],
)
def test_our_errors_are_one_line_without_a_traceback(
    arguments: list[str], status: int, part: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog\n")
    begins = "from ctx_jax.tasks import TrainConfig\ndef config():\n"
    (tmp_path / "typo.py").write_text(f"{begins}    return TrainConfig(stepz=3)\n")
    (tmp_path / "type.py").write_text(f"{begins}    return TrainConfig(steps='3')\n")
    (tmp_path / "syntax.py").write_text("def config(:\n")
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == status
    printed = capsys.readouterr().err
    assert part in printed and "Traceback" not in printed
    assert status == 2 or (printed.startswith("error: ") and printed.count("\n") == 1)
    if "--init" in arguments:
        assert not (tmp_path / "run" / "cache").exists(), "the text was read before"


def test_sigterm_leaves_no_partial_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(path: Path, text: str) -> None:
        written.append(path)
        atomic_write(path, text)
        if len(written) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    (tmp_path / "text.txt").write_text("the cat sat\nthe dog\n" * 50)
    monkeypatch.setattr(subwords, "atomic_write", write)
    before = signal.getsignal(signal.SIGTERM)
    line = ["tokenizer", str(tmp_path / "made"), "--train", str(tmp_path / "text.txt"), "--size", "300"]
    with pytest.raises(SystemExit) as left:
        main(line)
    assert left.value.code == 128 + signal.SIGTERM
    assert len(written) == 1 and [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert main(line) == 0 and len(written) == 3


def test_a_directory_in_which_another_process_trains_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with locked(tmp_path / ".lock", fcntl.LOCK_EX):
        assert main(["train", "--run-dir", str(tmp_path)]) == 1
    assert f"another process is training in {tmp_path}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("done, status", [(True, 0), (False, 128 + signal.SIGTERM)])
def test_a_stopped_run_ends_with_another_status_than_a_finished_one(
    done: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctx_jax.commands.train.run", lambda config: done)
    assert main(["train"]) == status


def test_the_config_of_another_program_is_not_written_over(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    theirs = '{"model_type": "bert"}'
    (tmp_path / "config.json").write_text(theirs)
    assert main(["train", "--run-dir", str(tmp_path)]) == 1
    assert f"{tmp_path}/config.json" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == theirs


def test_a_run_removes_what_a_killed_one_left_of_its_own_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # refused, once the directory is swept
    left = [f".{name}.partial-12ab" for name in ("config.json", "metrics.jsonl", "tokenizer.json")]
    others = [".scores.tsv.partial-12ab", ".hf.partial-12ab"]  # an evaluation's and an export's, which may be at work
    for name in (*left, others[0]):
        (tmp_path / name).touch()
    (tmp_path / others[1]).mkdir()
    assert main(["train", "--run-dir", str(tmp_path)]) == 1
    assert {path.name for path in tmp_path.iterdir() if ".partial-" in path.name} == set(others)


def test_a_traceback_can_be_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["tokenizer", "new", "--convert", "nope.json", "--size", "90"]) == 1
    monkeypatch.setenv("CTX_JAX_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="size"):
        main(["tokenizer", "new", "--convert", "nope.json", "--size", "90"])
    assert main(["--help"]) == 0
    assert "CTX_JAX_TRACEBACK" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [OSError("no path: not of a file"), KeyError("missing"), ValueError("a mistake"), TypeError("a mistake")]
)
def test_errors_that_are_not_ours_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("ctx_jax.commands.train.main", broken)
    with pytest.raises(type(error)):
        main(["train"])


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ctx-jax {__version__}\n"


def test_the_flag_of_a_setting() -> None:
    for options, field, flag in (
        (TrainConfig, "max_positions", "--model.max-positions"),
        (TrainConfig, "data.batch_size", "--data.batch-size"),
        (TrainConfig(), "dropout", "--model.dropout"),
        (TrainConfig(task=TagConfig()), "dropout", "--dropout"),
        (TrainConfig, "run_dir", "--run-dir"),
        (TrainConfig, "task.negatives", "--negatives"),
        (TrainConfig, "tokenizer.size", "--tokenizer.size"),
        (TrainConfig, "every", "every"),  # of three settings
        (TrainConfig, "wavelet", "wavelet"),
        (LengthRun, "longer_than", "--longer-than"),
        (LengthRun, "task.sentences", "--sentences"),
        (Evaluate, "batch", "--batch"),
        (Export, "format", "--format"),
        (TrainTokenizer, "tokenizer.size", "--size"),
        (TrainTokenizer, "minimum_count", "--minimum-count"),
    ):
        assert with_flag(field, options) == flag


def _configs(kind: Any) -> Iterator[type]:
    """The dataclasses from which a run's flags are made."""
    if is_dataclass(kind):
        yield kind  # type: ignore[misc]
    for inner in (*(get_type_hints(kind).values() if is_dataclass(kind) else ()), *get_args(kind)):
        yield from _configs(inner)


def _explained(config: type) -> Iterator[str]:
    """The fields with a docstring below them, those of base classes too."""
    for base in config.__mro__[:-1]:
        for field, text in pairwise(ast.walk(ast.parse(inspect.getsource(base)))):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                yield ast.unparse(field.target)


def test_every_flag_of_a_run_has_help() -> None:
    for config in dict.fromkeys(_configs(TrainConfig)):
        # A field that is itself a configuration has its class's docstring.
        hints = {field.name: get_type_hints(config)[field.name] for field in fields(config)}
        flags = {name for name, kind in hints.items() if kind is not Any and not list(_configs(kind))}
        missing = sorted(flags - set(_explained(config)))
        assert not missing, f"{config.__name__}: write a docstring below {missing}"


@pytest.mark.slow
def test_help_of_train_py_names_configurations_and_flags() -> None:
    ran = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for word in ("quickstart", "elmo_original", "--run-dir", "--devices.mode", "{shard,pmap,fsdp}", "--data.train"):
        assert word in ran.stdout
    assert "task" not in ran.stdout.replace("tasks", "") and "jax.jit(" not in ran.stdout
