"""The folder of a probe: what it was made with, and one small file for each finished part.

    <folder>/
      probe.json                    digests of the encoder and the table, settings of all tasks
      results/upos/task.json        the task's settings and the digests of its data
      results/upos/layer_3-seed_0.json
      results/wic/encoder.json      of a task without training: all layers
      cache/                        vectors, removed when their task is done
      results.json, results.md, layers.png

A file of `results/` appears whole or not at all, is computed once, and ends with the digest of its content.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctx_jax.io import configs
from ctx_jax.io.build_once import locked
from ctx_jax.io.errors import ConfigError, InputError, RunError
from ctx_jax.io.files import atomic_write, leftovers, read_json
from ctx_jax.io.sealed_json import read_sealed, sealed_text


class ProbeFolder:
    """The results that are there, and a place for those to come."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Lock the folder, which is made if it is not there, and compare what it was made with.

        A setting that is None, on either side, is not compared, and is kept. ConfigError for other settings or another
        encoder, and for a folder of something else; RunError while another process uses it.
        """
        if self.path.is_file():
            raise ConfigError("output", f"needs a folder, and {self.path} is a file")
        about = self.path / "probe.json"
        if self.path.is_dir() and not about.exists() and any(p for p in self.path.iterdir() if p.name[0] != "."):
            raise ConfigError("output", f"{self.path} is not empty and holds no probe: name a new folder")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                for partial in (*leftovers(self.path, "*"), *self.path.glob("results/*/.*.partial-*")):
                    partial.unlink()
                self._agree(about, settings)
                yield
        except BlockingIOError:
            raise RunError(
                f"another process is probing into {self.path}: wait until it ends, or name another folder"
            ) from None

    def open_task(self, task: str, identity: Mapping[str, Any]) -> None:
        """Compare what the results of a task were made with; ConfigError as `opened`."""
        folder = self.path / "results" / task
        folder.mkdir(parents=True, exist_ok=True)
        self._agree(folder / "task.json", identity)

    def read(self, task: str, name: str) -> dict[str, Any] | None:
        """A finished part; None if it is not there. InputError for one that was changed."""
        path = self._file(task, name)
        try:
            return read_sealed(path) if path.exists() else None
        except InputError as error:
            raise InputError(f"{error}. Delete it, and it is computed again") from error

    def write(self, task: str, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write a finished part, and return it as it is read."""
        path = self._file(task, name)
        atomic_write(path, sealed_text(content))
        return read_sealed(path)

    def cache(self, task: str) -> Path:
        """The folder of a task's vectors."""
        return self.path / "cache" / task

    def drop_cache(self, task: str) -> None:
        """Remove a task's vectors."""
        shutil.rmtree(self.cache(task), ignore_errors=True)
        if (folder := self.cache(task).parent).is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _file(self, task: str, name: str) -> Path:
        return self.path / "results" / task / f"{name.replace(' ', '_')}.json"

    def _agree(self, path: Path, new: Mapping[str, Any]) -> None:
        old = read_json(path) if path.exists() else {}
        given = {name: value for name, value in new.items() if value is not None}
        known = {name: value for name, value in old.items() if value is not None}
        shared = [name for name in known if name in given]
        found = configs.differences({name: known[name] for name in shared}, {name: given[name] for name in shared})
        if found:
            listed = "\n".join(f"  {name}: there {before!r}, now {after!r}" for name, before, after in found)
            raise ConfigError(
                "output",
                f"{path.parent} holds results of other settings:\n{listed}\nRepeat the original command, or name "
                "another folder",
            )
        if known | given != old:
            atomic_write(path, json.dumps(known | given, indent=1) + "\n")
