"""The vectors of a text's lines, part by part."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ctx_jax.data.text_files import LineReader
from ctx_jax.distributed.sharding import process_share
from ctx_jax.embedding.encode import encode_sentences
from ctx_jax.embedding.encode_call import Call
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.text_parts import in_parts
from ctx_jax.io.errors import ConfigError, RunError
from ctx_jax.io.progress import Progress
from ctx_jax.typing import Log


class LineVectors:
    """What `text_parts.store_parts` stores of a text: its lines in parts, and their vectors, with progress."""

    def __init__(
        self, encoder: Encoder, reader: LineReader, log: Log, *, level: str, dtype: str, **settings: Any
    ) -> None:
        """`settings`: those of `Encoder.encode`; None is left out."""
        if (count := process_share()[1]) > 1:
            raise RunError(f"vectors are written to a file by one process, and the job has {count}: start one")
        self.sentences = 0
        """How many lines have been read."""
        self._encoder, self._reader, self._whole, self._dtype = encoder, reader, level == "sentence", np.dtype(dtype)
        given = {name: value for name, value in settings.items() if value is not None}
        self._settings: dict[str, Any] = {"level": level, "dtype": dtype, **given}
        self._progress = Progress(f"embedding {reader.name}", "sentences", log=log)
        self._fractions = (0.0, 0.0)  # of the file, before and behind the part
        mix, count = settings.get("mix"), encoder.model.num_layers
        if mix is not None and np.shape(mix["weights"]) != (count,):  # before a text is read
            raise ConfigError("mix", f"has {np.size(mix['weights'])} weights, and the encoder has {count} layers")
        self._job = Call(**self._settings).job(encoder)

    def stated_settings(self) -> dict[str, Any]:
        """All that the vectors depend on besides the text, as JSON; arrays by their digests."""
        digest = encoder_digest(self._encoder, sentence=self._whole)
        stated = {name: _plain(value) for name, value in self._settings.items()}
        return {"encoder": digest, "dtype": self._dtype.name, **stated}

    def texts(self) -> Iterator[list[str]]:
        """The lines of each part."""
        layers = self._settings.get("layers", "last" if self._whole else "all")
        several = self._encoder.model.num_layers if layers == "all" else len(layers) if type(layers) is tuple else 1
        size = several * self._encoder.model.width * self._dtype.itemsize
        sizes = {"line_bytes": size, "item_bytes": 0} if self._whole else {"line_bytes": 0, "item_bytes": size}
        before = 0.0
        for part in in_parts((line.removesuffix("\r") for line in self._reader), **sizes):
            behind = self._reader.fraction or 0.0
            self._fractions = before, behind
            self.sentences += len(part)
            yield part
            before = behind

    def encode(self, texts: list[str]) -> Iterator[np.ndarray]:
        """[L, T, D] or [T, D] of each line; T = 1 where a line has one vector."""
        before, behind = self._fractions
        numbered = enumerate(texts, start=self.sentences - len(texts))
        job = replace(self._job, shapes=set())  # so that a part does not depend on those before it
        for number, vectors in enumerate(encode_sentences(numbered, job), start=1):
            yield vectors[..., None, :] if self._whole else vectors
            self._progress.add(1, before + (behind - before) * number / len(texts) if behind else None)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        arrays = {name: np.asarray(item).astype(np.float32).tolist() for name, item in value.items()}
        return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()
    return list(value) if isinstance(value, tuple) else value
