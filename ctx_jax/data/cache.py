"""Text, read once, as an indexed cache on disk: any sentence by its number, in memory that does not grow with the text.

    <folder>/<name>-<key>/
      text.bin        sentences in UTF-8, a line each, words joined by one space
      offsets.bin     int64 [N + 1], where each sentence begins in text.bin
      documents.bin   int64 [documents], the number of each document's first sentence
      meta.json       counts, digest, the files' own digests and the source's identity; written last

The key is a digest of the source's identity (paths, sizes, times, rules), so that a second run finds what it needs and
unchanged text is not read again; the same text in another place, or touched since, is. A cache is built in a temporary
folder and renamed: it is there whole or not at all. Whoever asks for one that is there has its files hashed first, at
about 1 GB/s: a flipped bit costs another reading of the text, and is not trained on.
"""

import hashlib
import json
import os
import re
import time
import weakref
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ctx_jax.data.config import DataConfig
from ctx_jax.data.corpora import Source, source_of
from ctx_jax.io.build_once import build_once
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import file_digest
from ctx_jax.io.progress import Pace

VERSION = 2  # of the layout above and of what reading does to text
_BUFFER = 1 << 20  # bytes


class Sentences:
    """Sentences of a cache: `len`, `[i]` (a list of words) and iteration in order. Picklable, and safe among threads.

    Attributes:
        digest: SHA-256 of the text, of sentence ends and of document ends, in hexadecimal.
        words: the number of words in all.
        documents: int64 [documents], the number of each document's first sentence, mapped from the disk.
        source: the name of what was read.
    """

    def __init__(self, folder: str | Path) -> None:
        """Opens a cache; of its contents it looks at the sizes alone (`build_cache` at every byte).

        Raises:
            FileNotFoundError: no cache there.
            ValueError: a file of it is damaged, which is named.
        """
        self.folder = Path(folder)
        meta = _read_meta(self.folder)
        self.digest: str = meta["digest"]
        self.words: int = meta["words"]
        self.source: str = meta["source"]
        self.documents = np.memmap(self.folder / "documents.bin", np.int64, mode="r")
        # As a plain array: a slice of a memmap takes five times as long.
        self._offsets = np.memmap(self.folder / "offsets.bin", np.int64, mode="r").view(np.ndarray)
        # Read with pread, not mapped: pages of a mapped text would count as this process's memory.
        self._text = os.open(self.folder / "text.bin", os.O_RDONLY)
        weakref.finalize(self, os.close, self._text)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __reduce__(self) -> tuple[type["Sentences"], tuple[Path]]:
        return Sentences, (self.folder,)

    def text(self, index: int) -> str:
        """Sentence `index`, its words joined by one space. `IndexError` past the end."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"sentence {index} of a corpus of {count}")
        start, stop = self._offsets[index % count : index % count + 2].tolist()
        return os.pread(self._text, stop - start - 1, start).decode()

    def __getitem__(self, index: int) -> list[str]:
        return self.text(index).split(" ")

    def __iter__(self) -> Iterator[list[str]]:
        with (self.folder / "text.bin").open("rb", buffering=_BUFFER) as file:
            for line in file:
                yield line[:-1].decode().split(" ")


def load_sentences(
    config: DataConfig, split: str, folder: str | Path, *, report: Callable[[str], None] = print
) -> Sentences | None:
    """The sentences of a run's "train" or "valid" text, cached in `config.cache`, or in `folder` where that is empty.

    None for a validation text that is not there (text files without `valid`).
    """
    if split not in ("train", "valid"):
        raise InputError(f'a run reads "train" and "valid", not {split!r}')
    source = source_of(config, "train" if split == "train" else "valid")
    return None if source is None else build_cache(source, config.cache or folder, report=report)


def build_cache(source: Source, folder: str | Path, *, report: Callable[[str], None] = print) -> Sentences:
    """Reads a source into a cache under `folder`, unless an intact one is there, and opens it.

    Several processes may ask at once: one builds, the others wait; what is there they check side by side. `report` gets
    a line on counts, rate and size.

    Raises:
        ValueError: the source holds no word, or is damaged (see `text_files.read_lines`).
    """
    identity = {"layout": VERSION, **source.identity()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    target = Path(folder).expanduser() / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', source.name)[:40]}-{key}"
    if build_once(
        target,
        _check,
        lambda building: _write(source, identity, building, report),
        again="reading the text again",
        log=report,
    ):
        report(f"{source.name}: {_counts(_read_meta(target))}; cached in {target}")
    return Sentences(target)


def _check(folder: Path) -> None:
    for name, before in _read_meta(folder)["files"].items():
        if file_digest(folder / name) != before:
            raise InputError(f"{folder / name} does not hold what was written: delete {folder}")
    Sentences(folder)


class _Numbers:
    """An int64 file that grows by appending, with a bounded part of it in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.count = 0
        self._file = file
        self._waiting = array("q")

    def append(self, number: int) -> None:
        self._waiting.append(number)
        self.count += 1
        if len(self._waiting) >= _BUFFER // 8:
            self.flush()

    def flush(self) -> None:
        self._file.write(self._waiting.tobytes())
        del self._waiting[:]


def _write(source: Source, identity: dict[str, Any], folder: Path, report: Callable[[str], None]) -> None:
    started = time.monotonic()
    digest = hashlib.sha256()
    size = words = 0
    pace = Pace(f"reading {source.name}", "MB", report, None if source.size is None else source.size / 1e6)
    with (
        (folder / "text.bin").open("wb", buffering=_BUFFER) as text,
        (folder / "offsets.bin").open("wb") as offsets_file,
        (folder / "documents.bin").open("wb") as documents_file,
    ):
        offsets, documents = _Numbers(offsets_file), _Numbers(documents_file)
        begins = True  # the next sentence begins a document
        for sentence in source.documents():
            if not sentence:
                begins = True
                continue
            if begins:
                documents.append(offsets.count)
                digest.update(b"\n")
                begins = False
            line = (" ".join(sentence) + "\n").encode()
            offsets.append(size)
            text.write(line)
            digest.update(line)
            size += len(line)
            pace.add(len(line) / 1e6)
            words += len(sentence)
        sentences = offsets.count
        offsets.append(size)
        offsets.flush()
        documents.flush()
    if not sentences:
        raise InputError(f"{source.name} holds no word: give text with words in it")
    meta = {
        "source": source.name,
        "sentences": sentences,
        "words": words,
        "documents": documents.count,
        "bytes": size,
        "digest": digest.hexdigest(),
        "files": {name: file_digest(folder / name) for name in ("text.bin", "offsets.bin", "documents.bin")},
        "identity": identity,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    seconds = max(time.monotonic() - started, 1e-9)
    report(
        f"{source.name}: {_counts(meta)}; read in {seconds:.1f} s ({words / seconds:,.0f} words/s, "
        f"{size / seconds / 1e6:.1f} MB/s), {(size + 8 * (sentences + documents.count)) / 1e6:.1f} MB cached"
    )


def _counts(meta: dict[str, Any]) -> str:
    return (
        f"{meta['words']:,} words, {meta['sentences']:,} sentences, {meta['documents']:,} documents, "
        f"digest {meta['digest'][:12]}"
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        expected = {
            "text.bin": meta["bytes"],
            "offsets.bin": 8 * (meta["sentences"] + 1),
            "documents.bin": 8 * meta["documents"],
        }
        if meta["files"].keys() != expected.keys():
            raise InputError("digests of other files")
    except FileNotFoundError as error:
        raise MissingFileError(f"no cached text in {folder}: {error.filename} is not there") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'meta.json'} is damaged ({error}): delete {folder}") from error
    for name, size in expected.items():
        found = (folder / name).stat().st_size
        if found != size:
            raise InputError(f"{folder / name} has {found} bytes, {size} were written: delete {folder}")
    return meta
