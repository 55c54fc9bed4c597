"""An indexed cache of a text on disk: random access to sentences, in memory that does not grow with the text.

    <folder>/<name>-<key>/      see `array_folder`
      text.bin        uint8, sentences in UTF-8, a line each, words joined by one space
      offsets.bin     int64 [N + 1], where each sentence begins in text.bin
      documents.bin   int64 [documents], the number of each document's first sentence

The key is a digest of the source's identity (paths, sizes, modification times, rules): unchanged files are not read
again; the same text at another path, or with another modification time, is.
"""

import hashlib
import logging
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctx_jax.data import array_folder
from ctx_jax.data.array_folder import ArrayWriter, build_arrays, folder_name, open_arrays
from ctx_jax.data.config import Split, TextConfig
from ctx_jax.data.corpora import Source, source_of
from ctx_jax.io.errors import InputError
from ctx_jax.io.progress import Progress
from ctx_jax.typing import Log

VERSION = 4  # of the layout above and of how text is read
_KINDS = {"text": np.uint8, "offsets": np.int64, "documents": np.int64}
_LOGGER = logging.getLogger("ctx_jax")


class Sentences:
    """The sentences of a cache: `len`, `[i]` (a list of words) and iteration in order. Thread-safe.

    Attributes:
        digest: SHA-256 of words, sentence ends and document ends, in hexadecimal.
        words: the total number of words.
        size: bytes of UTF-8, with a line end after each sentence.
        documents: int64 [documents], the number of each document's first sentence, mapped from the disk.
        source: the name of the source.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a cache. Only file sizes are checked here; `build_cache` verifies the contents."""
        self.folder = Path(folder)
        arrays, digests, facts = open_arrays(self.folder)
        self.digest = hashlib.sha256((digests["text"] + digests["documents"]).encode()).hexdigest()
        self.words: int = facts["words"]
        self.source: str = facts["source"]
        self.size = int(arrays["offsets"][-1])
        self.documents, self._offsets = arrays["documents"], arrays["offsets"]
        # Read with pread instead of mmap, whose pages would count as this process's memory.
        self._text = os.open(self.folder / "text.bin", os.O_RDONLY)
        weakref.finalize(self, os.close, self._text)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> list[str]:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"sentence {index} of a corpus of {count}")
        start, stop = self._offsets[index % count : index % count + 2].tolist()
        return os.pread(self._text, stop - start - 1, start).decode().split(" ")

    def __iter__(self) -> Iterator[list[str]]:
        with (self.folder / "text.bin").open("rb", buffering=array_folder.BUFFER) as file:
            for line in file:
                yield line[:-1].decode().split(" ")


def load_sentences(
    config: TextConfig, split: Split, folder: str | Path, *, log: Log = _LOGGER.info
) -> Sentences | None:
    """The sentences of a run's text, cached in `config.cache`, or in `folder` if that is empty.

    None if there is no validation text (text files without `valid`).
    """
    source = source_of(config, split)
    return None if source is None else build_cache(source, config.cache or folder, log=log)


def build_cache(source: Source, folder: str | Path, *, log: Log = _LOGGER.info) -> Sentences:
    """Read a source into a cache under `folder`, unless an intact one exists, and open it.

    Several processes may call this at once (see `array_folder.build_arrays`). `log` gets a line of counts and rate.
    Raises InputError for a source that holds no word or is damaged (see `text_files.read_lines`).
    """
    target = Path(folder).expanduser() / folder_name(source.name, {"layout": VERSION, **source.identity()})

    def write(writer: ArrayWriter) -> None:
        size = words = sentences = 0
        progress = Progress(f"reading {source.name}", "MB", None if source.size is None else source.size / 1e6, log)
        begins = True  # the next sentence begins a document
        for sentence in source.documents():
            if not sentence:
                begins = True
                continue
            if begins:
                writer.append("documents", sentences)
                begins = False
            line = (" ".join(sentence) + "\n").encode()
            writer.append("offsets", size)
            writer.append("text", line)
            size += len(line)
            words += len(sentence)
            sentences += 1
            progress.add(len(line) / 1e6)
        if not sentences:
            raise InputError(f"{source.name} holds no word: give text with words in it")
        writer.append("offsets", size)
        writer.facts.update(source=source.name, words=words)

    started = time.monotonic()
    found = build_arrays(target, _KINDS, write, again="reading the text again", log=log)
    seconds = max(time.monotonic() - started, 1e-9)
    sentences = Sentences(target)
    how = f"cached in {target}" if found else f"read in {seconds:.1f} s ({sentences.words / seconds:,.0f} words/s)"
    log(
        f"{sentences.source}: {sentences.words:,} words, {len(sentences):,} sentences, "
        f"{len(sentences.documents):,} documents, digest {sentences.digest[:12]}; {how}"
    )
    return sentences
