"""The compiled programs that the command line keeps: where, which, and what happens where that fails."""

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from ctx_jax.cli import main
from ctx_jax.io import compilation_cache
from ctx_jax.io.compilation_cache import Programs, clear, disable_default, enable, folder, programs, trim

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)
COMPILE = """
import jax
from ctx_jax.io import compilation_cache
compilation_cache.enable()
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(jax.jit(lambda x: x * 2 + 1)(3), sum(name.endswith("cache_hits") for name in hits))
"""


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """jax's settings and the hook of warnings as they were."""
    before, show = {name: getattr(jax.config, name) for name in SETTINGS}, warnings.showwarning
    yield
    warnings.showwarning = show
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home directory without settings; returns it."""
    for name in ("CTX_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def compiled(place: Path) -> tuple[str, int, str]:
    """(result, programs found in the cache, standard error) of a process that compiles one."""
    environment = os.environ | {"CTX_JAX_CACHE": str(place)}
    ran = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, env=environment)
    result, hits = ran.stdout.split()
    return result, int(hits), ran.stderr


def entry(place: Path, program: str, size: int, age: int = 0) -> Path:
    """A file named as jax names a program's."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{program}-{age:064x}-cache"
    path.write_bytes(b"x" * size)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_folder_is_the_first_that_the_environment_names(unset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder() == unset / ".cache" / "ctx_jax" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folder() == unset / ".cache" / "ctx_jax" / "compiled", "the specification ignores a relative path"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert folder() == Path("/xdg/ctx_jax/compiled")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/of/jax")
    assert folder() == Path("/of/jax")
    monkeypatch.setenv("CTX_JAX_CACHE", "~/mine")
    assert folder() == unset / "mine"
    monkeypatch.setenv("CTX_JAX_CACHE", "")
    assert folder() is None
    monkeypatch.setenv("CTX_JAX_CACHE", "gs://bucket/programs")
    assert folder() is None
    enable()
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/programs", "left to jax"


@pytest.mark.parametrize("value", [None, ""])
def test_it_is_on_by_default_and_off_where_the_variable_is_empty(
    unset: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("CTX_JAX_CACHE", value)
    enable()
    assert jax.config.jax_compilation_cache_dir == (None if value == "" else str(folder()))
    assert not (unset / ".cache").exists(), "nothing is made before there is a program to keep"


def test_settings_of_the_environment_stand(unset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 5.0)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "5")
    enable()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 5


def test_a_job_of_several_processes_uses_a_named_folder_alone(unset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enable()
    disable_default()
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("CTX_JAX_CACHE", str(unset / "shared"))
    enable()
    disable_default()
    assert jax.config.jax_compilation_cache_dir == str(unset / "shared")


@pytest.mark.slow
def test_a_second_process_finds_the_program_and_a_damaged_one_is_written_anew(tmp_path: Path) -> None:
    place = tmp_path / "new" / "programs"
    assert compiled(place) == ("7", 0, "")
    assert compiled(place) == ("7", 1, "")
    sizes = {path: path.stat().st_size for path in place.iterdir()}
    assert sizes and programs(place) == Programs(len(sizes), sum(sizes.values()))
    for path in sizes:
        path.write_bytes(path.read_bytes()[:20])
    assert compiled(place) == ("7", 0, "")
    assert {path: path.stat().st_size for path in place.iterdir()} == sizes
    assert compiled(place) == ("7", 1, "")


def test_a_folder_that_cannot_be_written_to_is_one_line_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("CTX_JAX_CACHE", str(file / "below"))
    with caplog.at_level(logging.WARNING, "ctx_jax"):
        enable()
    assert jax.config.jax_compilation_cache_dir is None
    assert len(caplog.records) == 1 and str(file / "below") in caplog.text and "CTX_JAX_CACHE" in caplog.text


def test_clearing_removes_the_programs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CTX_JAX_CACHE", str(tmp_path / "a"))
    assert main(["cache"]) == 0 and main(["cache", "--clear"]) == 0, "an empty one is no error"
    entry(tmp_path / "a", "jit_f", 2_000_000)
    entry(tmp_path / "a", "jit-with-dashes", 500_000, age=1)
    mine = tmp_path / "a" / "my-cache"
    mine.write_text("kept")
    capsys.readouterr()
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "a") in shown and "2 programs" in shown and "2.5 MB" in shown
    assert main(["cache", "--clear"]) == 0
    assert "2 programs" in capsys.readouterr().out
    assert [*(tmp_path / "a").iterdir()] == [mine]
    monkeypatch.setenv("CTX_JAX_CACHE", "")
    assert main(["cache", "--clear"]) == 0 and "CTX_JAX_CACHE" in capsys.readouterr().out
    assert clear(tmp_path / "nowhere") == Programs(0, 0)


def test_the_oldest_go_where_all_take_too_much(tmp_path: Path) -> None:
    files = [entry(tmp_path, "jit_f", 100, age) for age in range(10)]
    trim(tmp_path, most=1000)
    assert all(path.exists() for path in files)
    trim(tmp_path, most=999)
    assert [path.exists() for path in files] == [True] * 4 + [False] * 6, "at most half is left, the newest"


def test_other_warnings_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: shown.append(str(message)))
    monkeypatch.setenv("CTX_JAX_CACHE", str(tmp_path))
    compilation_cache.enable()
    kept, damaged = entry(tmp_path, "jit_other", 1), entry(tmp_path, "jit_f", 1)
    for text in ("mine", "Error reading persistent compilation cache entry for 'jit_f': no"):
        warnings.showwarning(UserWarning(text), UserWarning, "file.py", 1)
    assert shown == ["mine"] and kept.exists() and not damaged.exists()
