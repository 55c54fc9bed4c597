"""The layers of a frozen encoder for many texts, computed once and kept on disk.

    <folder>/vectors-<key>/0 ...    neighbouring texts, 64 MiB each (`data.array_folder`)
      vectors.bin      float32, the texts' words or tokens one after the other, all layers of each: [words, L, D]
      offsets.bin      int64 [texts + 1], the first word of each text

The key is a digest of the encoder, its input processor and the texts. A part appears complete or not at all, so a run
that was stopped goes on with the next one.

Letters: L layers, B texts of a batch, T words or tokens, D width.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.array_folder import ArrayWriter, build_arrays, folder_name, open_arrays
from ctx_jax.distributed.processes import gather, own_share
from ctx_jax.distributed.sharding import RowFunction, pipelined
from ctx_jax.embedding.batching import plan
from ctx_jax.embedding.embed import embed
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.pooling import How, pool
from ctx_jax.encoders.base import InputProcessor, Model
from ctx_jax.io.errors import ConfigError
from ctx_jax.io.progress import Progress
from ctx_jax.typing import Log, Params

VERSION = 1  # of the layout above
PART_BYTES = 1 << 26
_KINDS = {"vectors": np.float32, "offsets": np.int64}
_BATCH_TOKENS = 1024


class StoredVectors:
    """The stored layers of N texts. `sizes` [N] are their words or tokens; 1 where they were pooled."""

    def __init__(self, parts: Sequence[Mapping[str, np.ndarray]], shape: tuple[int, int]) -> None:
        """`parts`: {"vectors", "offsets"} of neighbouring texts, as above; `shape`: (L, D)."""
        self.shape = shape
        self._parts = [part["vectors"] for part in parts]
        self._offsets = [part["offsets"] for part in parts]
        self._first = np.cumsum([0, *(len(offsets) - 1 for offsets in self._offsets)])  # text of each part
        self.sizes = np.concatenate([np.diff(offsets) for offsets in self._offsets])

    def batch(self, texts: Sequence[int], rows: int, length: int, layer: int | None = None) -> dict[str, np.ndarray]:
        """{"vectors": float32 [B, L, T, D], "mask": bool [B, T]} of some texts: B = `rows`, T = `length`. With a
        `layer`, of that one alone (L = 1)."""
        layers, width = self.shape
        chosen = slice(None) if layer is None else slice(layer, layer + 1)
        vectors = np.zeros((rows, layers if layer is None else 1, length, width), np.float32)
        mask = np.zeros((rows, length), bool)
        for row, text in enumerate(texts):
            words = self._words(text)[:, chosen]
            vectors[row, :, : len(words)] = words.swapaxes(0, 1)
            mask[row, : len(words)] = True
        return {"vectors": vectors, "mask": mask}

    def joined(self, texts: Sequence[int], length: int) -> dict[str, np.ndarray]:
        """As `batch`, the words of all texts one after the other in a single row: B = 1."""
        layers, width = self.shape
        vectors = np.zeros((1, layers, length, width), np.float32)
        size = 0
        for text in texts:
            words = self._words(text)
            vectors[0, :, size : size + len(words)] = words.swapaxes(0, 1)
            size += len(words)
        return {"vectors": vectors, "mask": np.arange(length)[None] < size}

    def _words(self, text: int) -> np.ndarray:
        """The vectors of a text, [T, L, D]."""
        part = int(np.searchsorted(self._first, text, side="right")) - 1
        start, stop = self._offsets[part][text - self._first[part] :][:2]
        return self._parts[part].reshape(-1, *self.shape)[start:stop]

    def single(self, layer: int | None) -> "StoredVectors":
        """One layer alone, or the plain mean of all for None: L = 1, in memory."""
        layers, width = self.shape
        parts = []
        for vectors, offsets in zip(self._parts, self._offsets, strict=True):
            words = vectors.reshape(-1, layers, width)
            own = words.mean(axis=1) if layer is None else np.ascontiguousarray(words[:, layer])
            parts.append({"vectors": own, "offsets": offsets})
        return StoredVectors(parts, (1, width))


def store_vectors(
    encoder: Encoder, texts: Sequence[Any], identity: Any, folder: Path, *, pooling: How | None, log: Log
) -> StoredVectors:
    """The layers of `texts`, split by the encoder's processor, in `folder`; computed where they are not there yet.

    `identity` (JSON) says what the texts and the encoder are. With `pooling` a text has one vector a layer. All
    processes of a job call it and share the work. ConfigError for a disk without room.
    """
    sizes = encoder.processor.sizes(texts)
    shape = encoder.model.num_layers, encoder.model.width
    item = 4 * shape[0] * shape[1]
    lengths = [min(size, 1) if pooling else size for size in sizes]
    target = folder / folder_name("vectors", {"layout": VERSION, "pooling": pooling, "identity": identity})
    parts = _parts(lengths, item)
    names = [target / str(number) for number in range(len(parts))]
    missing = [number for number, name in enumerate(names) if not name.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(lengths[i] for number in missing for i in parts[number]) * item, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            "data.cache_vectors",
            f"needs {needed / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB: set data.cache to a folder on "
            "another disk, or data.cache_vectors to False",
        )
    total = sum(sizes[i] for number in missing for i in parts[number])
    progress = Progress("computing vectors", "tokens", total, log)
    compute = RowFunction(_layers, (encoder.model, pooling), encoder.params)
    for number in own_share(range(len(parts))):
        write = partial(_write, encoder.processor, compute, texts, sizes, parts[number], progress)
        build_arrays(names[number], _KINDS, write, again="computing it again", log=log)
    gather(None)  # all parts are there
    return StoredVectors([open_arrays(name).arrays for name in names], shape)


def _parts(lengths: Sequence[int], item: int) -> list[range]:
    """Neighbouring texts, of about `PART_BYTES` together."""
    parts, start, size = [], 0, 0
    for number, length in enumerate(lengths):
        size += length * item
        if size >= PART_BYTES:
            parts.append(range(start, number + 1))
            start, size = number + 1, 0
    return [*parts, range(start, len(lengths))] if start < len(lengths) or not parts else parts


def _write(
    processor: InputProcessor,
    compute: RowFunction,
    texts: Sequence[Any],
    sizes: Sequence[int],
    part: range,
    progress: Progress,
    writer: ArrayWriter,
) -> None:
    """Compute and write the vectors of one part's texts."""
    found: dict[int, np.ndarray] = {}
    running = (
        (chosen, compute(processor.pad([texts[part[i]] for i in chosen], rows, length), rows))
        for chosen, rows, length in plan([sizes[i] for i in part], _BATCH_TOKENS, longest=processor.longest)
    )
    for chosen, (vectors, mask) in pipelined(running):
        batch, counts = np.asarray(vectors), np.asarray(mask).sum(axis=1)
        for row, number in enumerate(chosen):
            # A copy, so that no text keeps its whole batch in memory.
            found[number] = batch[row, : counts[row]].copy()  # [T, L, D]
            progress.add(sizes[part[number]])
    size = 0
    for number in range(len(part)):
        writer.append("offsets", size)
        writer.append("vectors", found[number])
        size += len(found[number])
    writer.append("offsets", size)


def _layers(static: tuple[Model, How | None], params: Params, inputs: Any) -> tuple[jax.Array, jax.Array]:
    """Layers [B, T, L, D] and their mask [B, T]; with a pooling, T = 1."""
    model, pooling = static
    layers = embed(model, params, inputs)
    if pooling is None:
        return jnp.moveaxis(layers.values, 0, 2), layers.mask
    pooled = jax.vmap(lambda values: pool(values, layers.mask, pooling))(layers.values)  # [L, B, D]
    return jnp.moveaxis(pooled, 0, 1)[:, None], jnp.any(layers.mask, axis=1, keepdims=True)
