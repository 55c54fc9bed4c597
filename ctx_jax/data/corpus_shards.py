"""The rows of a text, found shard by shard, so that memory does not grow with the text, and kept beside its tokens.

    sentences   0 ........ 1,048,576 ........ 2,097,152 ...     cut where a document ends, if one does before long
    examples    0 .. 380,411 | 380,412 .. 761,002 | ...         those of the first shard, of the second, ...

    <folder>/rows-<key>-of-tokens-<key>/      see `array_folder`; the layout's arrays, one shard's after another's

The key is a digest of the settings that the layout depends on. Finding the rows takes about a second for a
million sentences. A text of up to two shards is one; a text in memory needs no files. Letters: B rows.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ctx_jax.data.array_folder import ArrayWriter, build_arrays, folder_name, open_arrays
from ctx_jax.data.full_sentences import CausalBlocks, FullSentences
from ctx_jax.data.packing import Index, Layout, PackedSentences, Rows, Text
from ctx_jax.data.pairs import Pairs
from ctx_jax.data.permutation import mix_seed
from ctx_jax.data.sequence_config import Packing, SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.files import temporary_folder
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers.subwords import Subwords

VERSION = 2  # of the layouts and of the file layout above
SHARD = 1 << 20  # sentences: 100 MB or so while their rows are found
LAYOUTS: dict[Packing, type[Layout]] = {
    "full_sentences": FullSentences,
    "pairs": Pairs,
    "packed": PackedSentences,
    "causal_blocks": CausalBlocks,
}
_LOGGER = logging.getLogger("ctx_jax")
_SEEDS = 1 << 31  # behind the numbers of epochs, from which seeds are mixed too


class ShardedRows:
    """The rows of all shards as those of one text."""

    def __init__(self, shards: list[Layout]) -> None:
        self.shards = shards
        self._first = np.append(0, np.cumsum([len(shard) for shard in shards]))

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """See `Layout.rows`."""
        number = np.searchsorted(self._first, examples, side="right") - 1
        rows: Rows = {}
        for shard in np.unique(number).tolist() or [0]:  # a process may have no row of the last batch
            own = number == shard
            for name, array in self.shards[shard].rows(examples[own] - self._first[shard], epochs[own]).items():
                if name not in rows:
                    rows[name] = np.empty((len(examples), *array.shape[1:]), array.dtype)
                rows[name][own] = array
        return rows


def lay_out(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> ShardedRows:
    """The rows of a text, packed as `config` says; each shard has a seed of its own.

    The index of cached tokens is built once, by one of the processes that ask, and mapped; where nobody may write
    beside them it is built anew, among the temporary files. InputError or ConfigError for a text or a length that has
    no rows.
    """
    layout = LAYOUTS[config.packing]
    bounds = list(_bounds(tokens, whole_documents=layout is Pairs))
    seeds = [mix_seed(seed, _SEEDS + number) if number else seed for number in range(len(bounds))]
    built: Iterable[Index] = (
        layout.build_index(_cut(tokens, *shard), vocabulary, config, shard_seed)
        for shard, shard_seed in zip(bounds, seeds, strict=True)
    )
    if tokens.folder is not None:
        # All that decides the rows besides the tokens.
        identity: list[Any] = [VERSION, SHARD, config.packing, config.length]
        identity += [config.cross_documents, config.whole_sentences]
        if config.packing in ("packed", "pairs"):
            identity.append(seed)
        if config.packing == "pairs":
            identity += [config.pair_label, config.short_sequence_probability, vocabulary.pair_layout.separators]
        name = folder_name("rows", identity)
        progress = Progress("laying out rows", "shards", len(bounds))
        built = _cached(tokens.folder, name, layout, progress.track(built))
    return ShardedRows(
        [
            layout(_text(tokens, *shard), index, vocabulary, config, shard_seed)
            for shard, shard_seed, index in zip(bounds, seeds, built, strict=True)
        ]
    )


def _cached(tokens: Path, name: str, layout: type[Layout], indexes: Iterator[Index]) -> list[Index]:
    """The shards' indexes, mapped from files beside the `tokens`, which are built unless they are there."""

    def write(writer: ArrayWriter) -> None:
        counts = writer.facts["counts"] = []
        for index in indexes:
            counts.append([len(index[array]) for array in layout.ARRAYS])
            for array in layout.ARRAYS:
                writer.append(array, index[array])

    target = tokens.with_name(f"{name}-of-{tokens.name}")
    with ExitStack() as stack:
        if not target.exists() and not os.access(tokens.parent, os.W_OK):
            target = stack.enter_context(temporary_folder("rows")) / name  # what is mapped outlives its folder
        kinds = dict.fromkeys(layout.ARRAYS, np.int64)
        build_arrays(target, kinds, write, again="finding the rows of the text again", log=_LOGGER.info)
        arrays, _, facts = open_arrays(target)
    counts = np.array(facts["counts"])  # [shards, arrays]
    ends = np.cumsum(counts, axis=0)
    return [
        {array: arrays[array][start:end] for array, start, end in zip(layout.ARRAYS, *places, strict=True)}
        for places in zip((ends - counts).tolist(), ends.tolist(), strict=True)
    ]


def _bounds(tokens: Tokens, whole_documents: bool) -> Iterator[tuple[int, int]]:
    """The sentences (first, behind the last) of each shard.

    whole_documents: cut at the ends of documents alone, however long they are, and leave two of them together.
    """
    documents, count = tokens.documents, len(tokens)
    start = 0
    while count - start > 2 * SHARD:
        first, after = np.searchsorted(documents, [start, start + SHARD]).tolist()  # of documents: begun here, behind
        if whole_documents:
            after = max(after, first + 2)
            stop = int(documents[after]) if after + 2 <= len(documents) else count
        else:
            stop = int(documents[after]) if after < len(documents) else count
            stop = stop if stop < start + 2 * SHARD else start + SHARD
        yield start, stop
        start = stop
    if start < count or not count:
        yield start, count


def _text(tokens: Tokens, start: int, stop: int) -> Text:
    """What is read of a shard, in place."""
    places = slice(int(tokens.offsets[start]), int(tokens.offsets[stop]))
    return Text(tokens.ids[places], tokens.begins[places])


def _cut(tokens: Tokens, start: int, stop: int) -> Tokens:
    """A shard as a text of its own, whose places are counted from 0."""
    offsets = np.asarray(tokens.offsets[start : stop + 1])
    first, last = np.searchsorted(tokens.documents, [start, stop]).tolist()
    documents = np.asarray(tokens.documents[first:last]) - start
    if start and (not len(documents) or documents[0]):  # the shard begins within a document
        documents = np.append(0, documents)
    return Tokens(*_text(tokens, start, stop), offsets - offsets[0], documents)
