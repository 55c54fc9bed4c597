"""The folder of a stack, and runs trained on one: what is saved is loaded, and what was changed is refused by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from label_runs import arrays, config, make_place
from safetensors.numpy import load_file, save_file

import ctx_jax
from ctx_jax import cli
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.inspection import inspect
from ctx_jax.encoders.stack.files import PROJECTIONS, STACK
from ctx_jax.encoders.static import write_text
from ctx_jax.io.errors import ExistingFileError, InputError, InputTypeError, MissingFileError
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.training.run import run

SENTENCES = [["the", "film", "was"], ["Good"], []]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, a BERT, a table, and two stacks of both: side by side, and added with principal components."""
    place = make_place(tmp_path_factory.mktemp("stacks"))
    bert, table = ctx_jax.load(place / "bert"), ctx_jax.load(place / "table.vec", lowercase=True)
    ctx_jax.save_stack(place / "both", ctx_jax.stack([table, bert], layers=[None, "last"]))
    text = [line.split()[:3] for line in (place / "train.tsv").read_text().splitlines()]
    ctx_jax.save_stack(place / "sum", ctx_jax.stack([table, bert], how="add", fit=text))
    return place


def equal(one: ctx_jax.Encoder, other: ctx_jax.Encoder) -> None:
    assert one.model == other.model and one.processor.digest == other.processor.digest
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.mark.slow
def test_what_is_saved_is_loaded(place: Path) -> None:
    bert, table = ctx_jax.load(place / "bert"), ctx_jax.load(place / "table.vec", lowercase=True)
    mixing: Any = {"weights": np.float32([0.1, 0.2, -0.3]), "gamma": np.float32(0.7)}
    made = ctx_jax.stack([bert, table], how="add", layers=[mixing, None], rule="prose")
    ctx_jax.save_stack(place / "mixed", made)
    loaded = ctx_jax.load(place / "mixed")
    equal(loaded, made)
    assert {path.name for path in (place / "mixed").iterdir()} == {STACK, PROJECTIONS}
    assert {path.name for path in (place / "both").iterdir()} == {STACK}
    for one, other in zip(loaded.encode(SENTENCES), made.encode(SENTENCES), strict=True):
        np.testing.assert_array_equal(one, other)
    ctx_jax.save_stack(place / "again", loaded)  # one that was loaded is saved like any other
    equal(ctx_jax.load(place / "again"), made)
    nested = ctx_jax.stack([loaded, table], rule="prose")
    ctx_jax.save_stack(place / "nested", nested)
    equal(ctx_jax.load(place / "nested"), nested)
    with pytest.raises(ExistingFileError):
        ctx_jax.save_stack(place / "both", made)


def test_relative_paths_move_with_the_stack(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    shutil.copy(place / "table.vec", tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    table, bert = ctx_jax.load("here/table.vec"), ctx_jax.load(place / "bert")
    made = ctx_jax.stack([table, bert])
    ctx_jax.save_stack("here/stacks/one", made)
    stored = [member["paths"]["path"] for member in json.loads(Path("here/stacks/one", STACK).read_text())["members"]]
    assert stored == ["../../table.vec", str(place / "bert")]
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(place)
    loaded = ctx_jax.load(tmp_path / "there" / "stacks" / "one")
    equal(loaded, made)
    assert Path(loaded.source.members[1].paths["path"]).samefile("bert")


def test_a_member_that_is_gone_or_was_changed_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.vec"
    shutil.copy(place / "table.vec", path)
    ctx_jax.save_stack(tmp_path / "stack", ctx_jax.stack([ctx_jax.load(place / "bert"), ctx_jax.load(path)]))
    table = ctx_jax.load(path)
    vectors = np.asarray(table.params["words"]["embedding"])[:-1]
    write_text(path, table.processor.words, vectors * 2)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"member_1.*table\.vec"):
        ctx_jax.load(tmp_path / "stack")
    path.unlink()
    with pytest.raises(MissingFileError, match=r"member_1.*table\.vec"):
        ctx_jax.load(tmp_path / "stack")
    assert inspect(tmp_path / "stack")["problems"]


def test_what_is_not_what_a_path_holds_is_not_saved(place: Path, tmp_path: Path) -> None:
    table = ctx_jax.load(place / "table.vec")
    changed = replace(table, params={"words": {"embedding": table.params["words"]["embedding"] + 1}})
    with pytest.raises(InputError, match=r"member_1.*table\.vec"):
        ctx_jax.save_stack(tmp_path / "stack", ctx_jax.stack([table, changed]))
    unread = ctx_jax.Encoder(table.model, table.params, table.processor)
    with pytest.raises(InputError, match="member_0"):
        ctx_jax.save_stack(tmp_path / "stack", ctx_jax.stack([unread, table]))
    with pytest.raises(InputTypeError, match="StaticTable"):
        ctx_jax.save_stack(tmp_path / "stack", table)
    assert not (tmp_path / "stack").exists()


def test_a_stack_that_is_a_member_of_itself_is_refused(place: Path) -> None:
    for name, other in (("ring", "ring"), ("here", "there"), ("there", "here")):
        folder = Path(shutil.copytree(place / "both", place / name, dirs_exist_ok=True))
        content = json.loads((folder / STACK).read_text())
        put(content, ("members", 1, "paths", "path"), f"../{other}")
        (folder / STACK).write_text(json.dumps(content))
    for name in ("ring", "here"):
        with pytest.raises(InputError, match="itself"):
            ctx_jax.load(place / name)


def put(content: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


@pytest.mark.parametrize(
    "keys, value, what",
    [
        (("how",), "multiply", "how"),
        (("how",), "concat", "projections"),
        (("dim",), 0, "dim"),
        (("dim",), 16, "projection"),
        (("extra",), 1, "extra"),
        (("members",), [], "members"),
        (("members", 0, "layers"), 4, "layers"),
        (("members", 0, "layers"), [0.5, 0.5], "layers"),
        (("members", 1, "layers"), [0.5], "layers"),
        (("members", 0, "paths"), {"folder": "bert"}, r"members\.0\.paths"),
        (("members", 0, "paths", "path"), 3, r"members\.0\.paths\.path"),
        (("members", 0, "choices"), {"heads": 3}, r"members\.0"),
        (("members", 0, "sha256"), "0" * 64, "member_0"),
        (("projections",), "0" * 64, "projections"),
        (("projections",), "", "projections"),
        (("rule",), "sentences", "rule"),
    ],
)
def test_a_damaged_stack_is_refused_by_file_and_field(place: Path, keys: Any, value: Any, what: str) -> None:
    folder = place / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "sum", folder)
    content = json.loads((folder / STACK).read_text())
    put(content, keys, value)
    (folder / STACK).write_text(json.dumps(content))
    with pytest.raises(InputError, match=what) as caught:
        ctx_jax.load(folder)
    assert "damaged" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("projection_1/bias"),
        lambda tensors: tensors.update({"projection_1/kernel": tensors["projection_1/kernel"].T.copy()}),
        lambda tensors: tensors.update({"projection_0/bias": tensors["projection_1/bias"]}),
    ],
)
def test_projections_that_do_not_fit_are_refused(place: Path, tmp_path: Path, change: Callable[[Any], None]) -> None:
    folder = Path(shutil.copytree(place / "sum", place / f"sum-{tmp_path.name}"))
    tensors = load_file(folder / PROJECTIONS)
    change(tensors)
    save_file(tensors, folder / PROJECTIONS)
    with pytest.raises(InputError, match="digest") as caught:
        ctx_jax.load(folder)
    assert PROJECTIONS in str(caught.value)
    content = json.loads((folder / STACK).read_text())
    found = inspect(folder)
    content["projections"] = found["digests"]["files"][PROJECTIONS]
    (folder / STACK).write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"{PROJECTIONS}.*projection_"):
        ctx_jax.load(folder)


def test_load_takes_no_options_with_a_stack(place: Path) -> None:
    with pytest.raises(InputTypeError, match="lowercase"):
        ctx_jax.load(place / "both", lowercase=True)
    with pytest.raises(InputError, match="step"):
        ctx_jax.load(place / "both", step="latest")


def test_a_stack_is_described(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(place / "sum"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["family"], found["layers"], found["width"]) == ("stack", "Stack", 3, 8)
    assert found["members"][0] == {"path": str(place / "table.vec"), "lowercase": True}
    assert found["tokenizer"]["members"]["member_1"]["kind"] == "WordPiece"
    assert found["tensors"]["numbers"] == 16 * 8 + 8 and {*found["digests"]["files"]} == {STACK, PROJECTIONS}
    assert "Stack" in repr(ctx_jax.load(place / "sum"))


@pytest.mark.slow
def test_a_classifier_on_a_frozen_stack_is_trained_resumed_and_loaded(place: Path, tmp_path: Path) -> None:
    """Its texts are words, since its members have no tokens in common; the run holds its members' parameters."""
    settings = config(place, tmp_path / "run", encoder="both", frozen=True)
    assert run(replace(settings, steps=2))
    assert run(settings)
    given = ctx_jax.load(place / "both")
    found = ctx_jax.load(tmp_path / "run")
    assert found.model == given.model
    jax.tree.map(np.testing.assert_array_equal, found.params, given.params)
    for one, other in zip(found.encode(SENTENCES), given.encode(SENTENCES), strict=True):
        np.testing.assert_array_equal(one, other)
    files = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").glob("member_*/*"))
    assert files == ["member_0/words.txt", "member_1/tokenizer.json", "member_1/tokenizer_config.json"]
    answers = ctx_jax.tasks.load(tmp_path / "run").predict(["the film was good", "", "a " * 90])
    assert len(answers) == 3 and {*answers[0]["probabilities"]} == {"0", "1"}
    info = inspect(tmp_path / "run")
    assert not info["problems"] and {*files} <= {*info["digests"]["files"]}
    tokenizer = tmp_path / "run" / "member_1" / "tokenizer.json"
    text = tokenizer.read_text()
    tokenizer.write_text(text + " ")
    with pytest.raises(InputError, match=r"member_1/tokenizer\.json"):
        ctx_jax.load(tmp_path / "run")
    tokenizer.unlink()
    with pytest.raises(MissingFileError, match=r"member_1/tokenizer\.json"):
        ctx_jax.load(tmp_path / "run")
    tokenizer.write_text(text)
    (tokenizer.parent / "added_tokens.json").write_text("{}")
    with pytest.raises(InputError, match=r"member_1/added_tokens\.json"):
        ctx_jax.load(tmp_path / "run")


@pytest.mark.slow
def test_a_tagger_trains_the_projections(place: Path, tmp_path: Path) -> None:
    """And with `pieces` of its own, and of a stack whose member is cut where it is longer than the row."""
    settings = config(place, tmp_path / "run", TagConfig, encoder="sum", pieces="first", length=12)
    assert run(replace(settings, steps=2))
    before, after = ctx_jax.load(place / "sum").params, arrays(tmp_path / "run", 2)
    kernel = after["['encoder']['projection_1']['kernel']"]
    assert 0 < np.abs(kernel - np.asarray(before["projection_1"]["kernel"])).max() < 0.1
    found = ctx_jax.load(tmp_path / "run")
    assert found.processor.pieces == "first"
    (answer,) = ctx_jax.tasks.load(tmp_path / "run").predict([["the", "good", "film"]])
    assert len(answer["labels"]) == 3
    # A run's encoder is a member like any other, at the step that was loaded.
    again = ctx_jax.stack([found, found])
    ctx_jax.save_stack(tmp_path / "twice", again)
    assert encoder_digest(ctx_jax.load(tmp_path / "twice")) == encoder_digest(again)
    assert json.loads((tmp_path / "twice" / STACK).read_text())["members"][0]["choices"] == {"step": 2}
