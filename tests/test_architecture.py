"""The house holds: imports run downward by the table of docs/architecture.md, files and the import stay small."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ctx_jax
from ctx_jax import api

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ctx_jax"
FILES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "configs").glob("*.py"))
REFERENCES = {"torch", "transformers", "tensorflow", "allennlp", "sentence_transformers"}
FILE_LINES, FUNCTION_LINES = 350, 60


def _table() -> dict[str, tuple[int, set[str]]]:
    """room -> (floor, further rooms it may import), read from the table of docs/architecture.md."""
    rooms: dict[str, tuple[int, set[str]]] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if not re.match(r"\| \d \|", line):
            continue
        floor, names, *_, also = (cell.strip() for cell in line.strip().strip("|").split("|"))
        inside = re.findall(r"`([^`]+)`", names)
        further = {_room_of_path(name) for name in re.findall(r"`([^`]+)`", also)}
        for name in inside:
            rooms[_room_of_path(name)] = (int(floor), further - {_room_of_path(name)})
    return rooms


def _room_of_path(name: str) -> str:
    """`ctx_jax/commands/` -> commands, `cli.py` -> cli."""
    return Path(name.removeprefix("ctx_jax/")).with_suffix("").name


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file, wherever it stands; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its room"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _room(path: Path) -> str:
    """The room a file belongs to; `package` for ctx_jax/__init__.py, which names what a user meets."""
    if path.parent == ROOT / "configs":
        return "configs"
    inside = path.relative_to(PACKAGE)
    if inside.name == "__init__.py" and len(inside.parts) == 1:
        return "package"
    return inside.with_suffix("").parts[0]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_table_names_every_room() -> None:
    rooms = {_room(path) for path in FILES} - {"package", "configs"}
    assert len(_table()) >= 10
    assert rooms <= set(_table()), f"rooms without a row in docs/architecture.md: {sorted(rooms - set(_table()))}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_run_downward(path: Path) -> None:
    table, room = _table(), _room(path)
    # Configs stand above training, whose TrainConfig they state; the package's own file re-exports any room.
    table |= {"package": (7, set()), "configs": (7, set())}
    table["commands"][1].add("configs")
    floor, further = table[room]
    wrong = []
    for line, name in _imports(path):
        parts = name.split(".")
        if parts[0] != "ctx_jax" or len(parts) < 2 or parts[1] in {room, "__version__"}:
            continue
        if parts[1] not in table:
            wrong.append(f"{_name(path)}:{line} imports {name}: no such room in the table")
        elif parts[1] not in further and table[parts[1]][0] >= floor:
            wrong.append(f"{_name(path)}:{line} imports {name}: {room} is on floor {floor}, {parts[1]} not below it")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_reference_is_imported_at_run_time(path: Path) -> None:
    wrong = [f"{_name(path)}:{line} {name}" for line, name in _imports(path) if name.split(".")[0] in REFERENCES]
    assert not wrong, "\n".join(wrong)


def test_tokenizers_do_not_import_jax() -> None:
    above = {"jax", "jaxlib", "flax", "optax", "orbax"}
    waiting = [path for path in FILES if _room(path) == "tokenizers"]
    read: set[Path] = set()
    wrong = []
    while waiting:
        if (path := waiting.pop()) in read:
            continue
        read.add(path)
        for line, name in _imports(path):
            if name.split(".")[0] in above:
                wrong.append(f"{_name(path)}:{line} {name}")
            whole = ROOT.joinpath(*name.split("."))
            waiting += [file for file in (whole.with_suffix(".py"), whole.parent.with_suffix(".py")) if file in FILES]
    assert len(read) > 10 and not wrong, "\n".join(wrong)


MESHES = {"pmap", "shard_map", "Mesh", "make_mesh", "NamedSharding", "PositionalSharding"}
HOSTS = {"devices", "local_devices", "device_count", "local_device_count"}
HOSTS |= {"process_count", "process_index", "multihost_utils"}
ASKED = {  # file -> what it may ask jax about devices and processes
    "distributed/processes.py": {"process_count", "process_index", "local_device_count", "multihost_utils"},
    "distributed/watch.py": {"process_count", "process_index"},
    "distributed/sharding.py": MESHES | {"local_devices", "process_count", "process_index"},
    "training/devices.py": MESHES | HOSTS,
    "training/signals.py": {"process_count"},  # whether jax has to see SIGTERM itself
    "ops/hardware.py": {"local_devices"},  # their kind
    "evaluation/masked_lm_eval.py": {"local_devices"},  # how many rows they read at a time
    "checkpoints/orbax_manager.py": {"process_index"},  # who reads alone
    "checkpoints/steps.py": {"process_count", "process_index"},  # whose shards and digests to write
}


@pytest.mark.slow
def test_device_code_lives_where_the_plan_says() -> None:
    wrong, asked = [], dict[str, set[str]]()
    for path in FILES:
        name = path.relative_to(ROOT if _room(path) == "configs" else PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            for word in _asked_of_jax(node):
                asked.setdefault(name, set()).add(word)
                if word not in ASKED.get(name, ()):
                    wrong.append(f"{_name(path)}:{getattr(node, 'lineno', 0)} {word}")
    assert not wrong, "\n".join(wrong)
    assert asked.keys() == ASKED.keys(), "a file that asks nothing any more has no place in the list"


def _asked_of_jax(node: ast.AST) -> set[str]:
    """Words for meshes wherever they stand, words for devices and hosts where they are jax's own."""
    match node:
        case ast.Name(id=name):
            return {name} & MESHES
        case ast.Attribute(value=ast.Name(id="jax"), attr=name):
            return {name} & (MESHES | HOSTS)
        case ast.Attribute(attr=name):
            return {name} & MESHES
        case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "jax":
            return {alias.name for alias in names} & (MESHES | HOSTS)
    return set()


@pytest.mark.parametrize(
    "path", [*FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted(ROOT.glob("*.py"))], ids=_name
)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES, f"{_name(path)} is over {FILE_LINES} lines: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{_name(path)}:{node.lineno} {node.name} has {lines} lines: split it"


def test_every_module_says_what_it_is_and_none_is_a_drawer() -> None:
    for path in FILES:
        assert not re.search(r"util|helper|misc|common", path.stem), f"{_name(path)}: name what it owns"
        assert ast.get_docstring(ast.parse(path.read_text())), f"{_name(path)} has no docstring"


IMPORTING = {  # what runs or imports by a name that is data
    "ctx_jax/commands/train.py": "runpy.run_path",  # a configuration that the user names
    "ctx_jax/data/python_docs.py": "pydoc.locate",  # the standard library's modules, for what they say of themselves
}


@pytest.mark.slow
def test_nothing_is_imported_by_string_and_nothing_unpickled() -> None:
    for path in FILES:
        for line, name in _imports(path):
            assert name.split(".")[0] not in {"pickle", "dill", "cloudpickle", "marshal"}, (
                f"{_name(path)}:{line} {name}"
            )
            assert name.split(".")[0] != "importlib" or name.split(".")[1] == "metadata", f"{_name(path)}:{line} {name}"
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node) if isinstance(node, ast.Name | ast.keyword | ast.Attribute) else ""
            assert called != "__import__" and not called.startswith("allow_pickle"), f"{_name(path)}: {called}"
            by_name = called in {"runpy.run_path", "runpy.run_module", "pydoc.locate"}
            assert not by_name or IMPORTING.get(_name(path)) == called, f"{_name(path)}: {called}"


def test_train_py_stays_short() -> None:
    path = ROOT / "train.py"
    assert path.is_file(), "train.py is the main job's command"
    assert len(path.read_text().splitlines()) < 80


HEAVY = [*sorted(REFERENCES), "tensorflow_datasets", "grain", "orbax", "optax", "tyro", "sentencepiece", "tensorboardX"]
NEEDED = ["jax", "numpy", "flax", "h5py", "tokenizers", "safetensors", "rich"]


@pytest.mark.parametrize(
    ("statement", "left_out"),
    [
        ("import ctx_jax", [*HEAVY, *NEEDED]),
        ("import ctx_jax.cli", [*HEAVY, *NEEDED]),  # `ctx-jax --help`
        ("from ctx_jax import load, embed, mix, losses, encoders", HEAVY),
    ],
)
def test_an_import_brings_only_what_it_needs_and_prints_nothing(statement: str, left_out: list[str]) -> None:
    code = f"import sys; {statement}; print([name for name in {left_out!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "[]", "")


def test_the_package_has_the_names_of_its_api_and_no_others() -> None:
    assert {*api.__all__, "tasks", "__version__"} <= {*dir(ctx_jax)}
    assert all(getattr(ctx_jax, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ctx_jax.nonsense


def test_what_is_built_holds_every_room_and_says_that_it_is_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    built = project["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    assert set(built["packages"]) == folders | {"ctx_jax.configs"}
    assert "py.typed" in built["package-data"]["ctx_jax"] and (PACKAGE / "py.typed").is_file()
    assert ctx_jax.__version__ == project["project"]["version"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "benchmarks/README.md"])
def test_the_files_that_documents_name_are_there(name: str) -> None:
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.py|\.md|/))`", (ROOT / name).read_text())
    of_runs = {"tensorboard/", "cache/", "autotune/", "checkpoints/", "frozen/"}
    places = (ROOT, PACKAGE, (ROOT / name).parent, ROOT / "tests", PACKAGE / "commands")
    missing = [path for path in named if path not in of_runs and not any((place / path).exists() for place in places)]
    assert named and not missing
