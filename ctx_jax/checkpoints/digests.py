"""SHA-256 digests of the files of a checkpoint step, kept beside it: they complete the step and name damaged files.

```
checkpoints/
  40/                   the step's files
  40.sha256.json        process 0's digests, written last: {"processes": 2, "files": {"state/d/ab": {...}}, ...}
  40.sha256.1.json      process 1's
```
Orbax gives each process a folder of its own, `ocdbt.process_<i>`; process 0 writes everything else. Each digest file
ends with its own digest (`io.sealed_json`), so that damage to it is not taken for damage to another file.
"""

import re
from pathlib import Path

from ctx_jax.io.errors import InputError
from ctx_jax.io.files import atomic_write, file_digest, fsync
from ctx_jax.io.sealed_json import read_sealed, sealed_text

_PROCESS_FOLDER = re.compile(r"(?:^|/)ocdbt\.process_(\d+)/")


class DamagedFile(InputError):
    """A file of a step is missing, truncated or changed."""


def path_of(step_folder: Path, process: int = 0) -> Path:
    """`<step>.sha256.json` for process 0, `<step>.sha256.<process>.json` for the others."""
    return step_folder.with_name(step_folder.name + (f".sha256.{process}.json" if process else ".sha256.json"))


def all_paths(step_folder: Path) -> list[Path]:
    """The existing digest files of a step, process 0's first."""
    others = step_folder.parent.glob(f"{step_folder.name}.sha256.*.json")
    return [path for path in (path_of(step_folder), *sorted(others)) if path.is_file()]


def write(step_folder: Path, *, process: int = 0, processes: int = 1) -> Path:
    """Hash the files of a step that this process wrote, and write its digest file; returns that file's path.

    Process 0 must come last, since its file completes the step.
    """
    entries = {}
    for path in sorted(path for path in step_folder.rglob("*") if path.is_file()):
        name = path.relative_to(step_folder).as_posix()
        match = _PROCESS_FOLDER.search(name)
        if processes == 1 or process == (int(match[1]) if match else 0):
            fsync(path)  # the data must be on disk before its digest
            entries[name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    target = path_of(step_folder, process)
    atomic_write(target, sealed_text({"processes": processes, "files": entries}))
    return target


def _read(path: Path) -> tuple[int, dict[str, tuple[int, str]]]:
    """The number of processes, and (size, digest) by file; DamagedFile unless the file is as it was written."""
    try:
        content = read_sealed(path)
        files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in content["files"].items()}
        return int(content["processes"]), files
    except (ValueError, FileNotFoundError) as error:
        raise DamagedFile(str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{path}: is not a digest file ({error!r})") from error


def is_complete(step_folder: Path) -> bool:
    """True if the step and process 0's digest file exist, which is written last and removed first.

    Their contents are not verified: a damaged step was complete once, and `verify` names the damage.
    """
    return step_folder.is_dir() and path_of(step_folder).is_file()


def verify(step_folder: Path) -> None:
    """Compare a step's files with its digests; `DamagedFile` names the first one missing, changed or not listed."""
    processes, files = _read(path_of(step_folder))
    for process in range(1, processes):
        files |= _read(path_of(step_folder, process))[1]
    _compare(step_folder, files, step_folder)


def verify_entry(step_folder: Path, entry: str) -> bool:
    """`verify`, of the folder `entry` of the step alone, which process 0 wrote; whether the step was saved with it.

    Reads no other file of the step, so that many steps can be asked for their metrics.
    """
    _, files = _read(path_of(step_folder))
    files = {name: kept for name, kept in files.items() if name.startswith(f"{entry}/")}
    _compare(step_folder, files, step_folder / entry)
    return bool(files)


def _compare(step_folder: Path, files: dict[str, tuple[int, str]], folder: Path) -> None:
    """Compare the files below `folder`, a part of the step, with those that the digest files list there."""
    for name, (size, digest) in files.items():
        path = step_folder / name
        if not path.is_file():
            raise DamagedFile(f"{path}: missing; it had {size} bytes")
        found = path.stat().st_size
        if found != size:
            raise DamagedFile(f"{path}: {'truncated' if found < size else 'grown'}, from {size} to {found} bytes")
        if file_digest(path) != digest:
            raise DamagedFile(f"{path}: changed; its SHA-256 differs from the one it was saved with")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(step_folder).as_posix() not in files:
            raise DamagedFile(f"{path}: is none of the files that {path_of(step_folder).name} lists")


def remove(step_folder: Path) -> None:
    """Remove a step's digest files, process 0's first, so that the step is incomplete at once."""
    for path in all_paths(step_folder):
        path.unlink(missing_ok=True)
