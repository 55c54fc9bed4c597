"""The vectors of a text's lines, part by part."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ctx_jax.data.text_files import LineReader
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.text_parts import in_parts
from ctx_jax.io.errors import ConfigError
from ctx_jax.io.progress import Progress
from ctx_jax.typing import Log

_LOGGER = logging.getLogger("ctx_jax")


class LineVectors:
    """What `text_parts.store_parts` stores of a text: its lines in parts, and their vectors, with progress."""

    def __init__(
        self, encoder: Encoder, reader: LineReader, log: Log, *, level: str, dtype: str, **settings: Any
    ) -> None:
        """`settings`: those of `Encoder.encode`; None is left out."""
        self.sentences = 0
        """How many lines have been read."""
        self._encoder, self._reader, self._whole, self._dtype = encoder, reader, level == "sentence", np.dtype(dtype)
        self._settings = {"level": level, **{name: value for name, value in settings.items() if value is not None}}
        self._progress = Progress(f"embedding {reader.name}", "sentences", log=log)
        self._said = _SaidOnce()
        self._fractions = (0.0, 0.0)  # of the file, before and behind the part
        mix, count = settings.get("mix"), encoder.model.num_layers
        if mix is not None and np.shape(mix["weights"]) != (count,):  # before a text is read
            raise ConfigError("mix", f"has {np.size(mix['weights'])} weights, and the encoder has {count} layers")

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
        self._said.first = self.sentences - len(texts)
        _LOGGER.addFilter(self._said)
        try:
            for number, vectors in enumerate(self._encoder.encode(texts, **self._settings), start=1):
                yield (vectors[..., None, :] if self._whole else vectors).astype(self._dtype, copy=False)
                self._progress.add(1, before + (behind - before) * number / len(texts) if behind else None)
        finally:
            _LOGGER.removeFilter(self._said)


class _SaidOnce(logging.Filter):
    """Lets a message of `encode` through once for all parts, with the number of the sentence in the whole text."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 0
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in self._said:
            return False
        self._said.add(record.msg)
        if record.msg.startswith("sentence %d") and isinstance(record.args, tuple):
            record.args = (record.args[0] + self.first, *record.args[1:])  # type: ignore[operator]
        return True


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        arrays = {name: np.asarray(item).astype(np.float32).tolist() for name, item in value.items()}
        return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()
    return list(value) if isinstance(value, tuple) else value
