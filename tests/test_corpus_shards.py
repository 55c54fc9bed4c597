"""A long text laid out shard by shard, and the index of its rows on disk: the laws of one shard in memory hold."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_text import Names, corpus

from ctx_jax.data import corpus_shards
from ctx_jax.data.array_folder import ArrayWriter, build_arrays, open_arrays
from ctx_jax.data.batch import CausalBatch
from ctx_jax.data.corpus_shards import LAYOUTS, lay_out
from ctx_jax.data.packing import Layout
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_shards, "SHARD", 9)  # sentences


def config_of(packing: Any, **settings: Any) -> SequenceConfig:
    return SequenceConfig(packing=packing, **({"length": 32, "batch_size": 4, "mask_rate": 0.2} | settings))


def sequences(
    tokens: Tokens, packing: str, *, rows: slice | None = None, epochs: int | None = 1, **settings: Any
) -> Sequences:
    return Sequences(tokens, Names(), config_of(packing, **settings), seed=3, rows=rows, epochs=epochs)


def on_disk(tokens: Tokens, folder: Path) -> Tokens:
    """The same text in a cache of tokens."""
    arrays = {name: getattr(tokens, name) for name in ("ids", "begins", "offsets", "documents")}

    def write(writer: ArrayWriter) -> None:
        for name, array in arrays.items():
            writer.append(name, array)

    kinds = {name: array.dtype for name, array in arrays.items()}
    build_arrays(folder / "tokens-1", kinds, write, again="", log=print)
    return Tokens(**open_arrays(folder / "tokens-1").arrays, folder=folder / "tokens-1")


def indexes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("rows-*"))


@pytest.mark.parametrize("packing", LAYOUTS)
def test_an_epoch_of_several_shards_has_every_token_once(packing: str) -> None:
    tokens = corpus(documents=30)
    whole = sequences(tokens, packing)
    assert len(tokens) > 6 * corpus_shards.SHARD and whole.examples > 12
    shown: list[int] = []
    for batch in whole:
        if isinstance(batch.arrays, CausalBatch):
            ids = batch.arrays.next_token_ids[batch.arrays.weights > 0]
        else:  # undo the masks
            ids = batch.arrays.tokens.token_ids.copy()
            rows, places = np.nonzero(batch.arrays.predicted_weights)
            ids[rows, batch.arrays.predicted_positions[rows, places]] = batch.arrays.predicted_ids[rows, places]
            if packing == "pairs":  # a second part of label 1 is another document's, shown besides
                away = (batch.arrays.next_sentence == 1)[:, None] & (batch.arrays.tokens.token_types == 1)
                for row in np.flatnonzero(away.any(axis=1)).tolist():
                    first, second = (ids[row][(away[row] == side) & (ids[row] > 4)] for side in (False, True))
                    assert document(tokens, first[:1]) != document(tokens, second[:1])
                ids = np.where(away, 0, ids)
        shown += ids[ids > 4].tolist()
    assert len(set(shown)) == len(shown)
    if packing != "pairs":  # where a random second part takes the place of the text's own
        assert sorted(shown) == tokens.ids.tolist()


def document(tokens: Tokens, ids: np.ndarray) -> int:
    """The document in which the first of some tokens stands."""
    sentence = np.searchsorted(tokens.offsets, ids - 5, side="right") - 1
    return int(np.searchsorted(tokens.documents, sentence, side="right")[0])


@pytest.mark.parametrize("packing", LAYOUTS)
def test_the_text_on_disk_hosts_and_resumption_give_the_same_batches(packing: str, tmp_path: Path) -> None:
    tokens = corpus(documents=30)
    whole = sequences(tokens, packing, epochs=None)
    batches = [next(whole) for _ in range(30)]
    lower = sequences(on_disk(tokens, tmp_path), packing, rows=slice(2, 4), epochs=None)
    for batch in batches:
        half = next(lower)
        for mine, all_rows in ((half.arrays.tokens, batch.arrays.tokens), (half.arrays[1:], batch.arrays[1:])):
            for one, other in zip(mine, all_rows, strict=True):
                assert (one is None) == (other is None)
                assert one is None or (one == other[2:]).all()
    lower.seek(batches[11].position)
    assert (next(lower).arrays.tokens.token_ids == batches[12].arrays.tokens.token_ids[2:]).all()


def test_hosts_without_a_row_of_the_last_batch_give_rows_of_padding() -> None:
    tokens = corpus(documents=30)
    size = sequences(tokens, "packed").examples - 1
    last = list(sequences(tokens, "packed", batch_size=size, rows=slice(1, 3)))[-1]
    assert not last.arrays.tokens.mask.any() and not last.arrays.predicted_weights.any()


@pytest.mark.parametrize("packing", LAYOUTS)
def test_the_row_index_is_built_once_and_mapped_in_few_files(
    packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = on_disk(corpus(documents=60), tmp_path)
    lay_out(tokens, Names(), config_of(packing), 3)
    assert len(indexes(tmp_path)) == 1

    def refuse(*arguments: object) -> None:
        raise AssertionError("the index is there")

    monkeypatch.setattr(LAYOUTS[packing], "build_index", staticmethod(refuse))  # type: ignore[index]
    before = open_files()
    layout = lay_out(tokens, Names(), config_of(packing), 3)
    assert len(layout.shards) > 10
    for shard in layout.shards:
        found = [each for each in arrays_of(shard) if each.dtype == np.int64]
        assert len(found) >= len(LAYOUTS[packing].ARRAYS)  # type: ignore[index]
        assert all(isinstance(root(each), np.memmap) and not each.flags.writeable for each in found)
    if before:  # every mapping keeps a file descriptor
        assert open_files() - before <= 8


def arrays_of(held: object) -> list[np.ndarray]:
    """The arrays that an object of ours and what it consists of hold."""
    if isinstance(held, np.ndarray):
        return [held]
    if not isinstance(held, tuple | dict):
        held = vars(held) if "ctx_jax" in type(held).__module__ else ()
    parts = held.values() if isinstance(held, dict) else held
    return [array for part in parts for array in arrays_of(part)]


def root(array: np.ndarray) -> object:
    """The array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def open_files() -> int:
    """How many this process has; 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_settings_that_decide_the_rows_have_an_index_of_their_own(tmp_path: Path) -> None:
    tokens = on_disk(corpus(documents=30), tmp_path)

    def built(packing: str, seed: int = 3, **settings: Any) -> int:
        before = len(indexes(tmp_path))
        lay_out(tokens, Names(), config_of(packing, **settings), seed)
        return len(indexes(tmp_path)) - before

    assert [built("full_sentences"), built("full_sentences", seed=4), built("full_sentences", mask_rate=0.3)] == [
        1,
        0,
        0,
    ]
    assert [built("full_sentences", length=16), built("full_sentences", cross_documents=False)] == [1, 1]
    assert [built("packed"), built("packed", seed=4), built("packed", batch_size=9)] == [1, 1, 0]
    assert [built("pairs"), built("pairs", seed=4), built("pairs", short_sequence_probability=0.5)] == [1, 1, 1]
    assert [built("causal_blocks"), built("causal_blocks", seed=4)] == [1, 0]


@pytest.mark.parametrize("damage", [b"x", None])
def test_a_damaged_index_is_named_and_built_again(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = on_disk(corpus(documents=30), tmp_path)
    whole = lay_out(tokens, Names(), config_of("packed"), 3)
    path = tmp_path / indexes(tmp_path)[0] / "members.bin"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(damage or content[:-1] + b"y")
    with caplog.at_level("INFO", "ctx_jax"):
        again = lay_out(tokens, Names(), config_of("packed"), 3)
    assert path.read_bytes() == content
    assert "members.bin" in caplog.messages[0] and "again" in caplog.messages[0]
    examples = np.arange(len(whole))
    np.testing.assert_array_equal(again.rows(examples, examples)["mask"], whole.rows(examples, examples)["mask"])


def test_beside_tokens_where_nobody_may_write_there_is_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = on_disk(corpus(documents=30), tmp_path / "cache")
    monkeypatch.setattr(os, "access", lambda path, kind: Path(path) != tmp_path / "cache")  # chmod keeps no root out
    layout = lay_out(tokens, Names(), config_of("packed"), 3)
    assert not indexes(tmp_path / "cache")
    examples = np.arange(len(layout))
    memory = lay_out(replace(tokens, folder=None), Names(), config_of("packed"), 3)
    for name, array in memory.rows(examples, examples).items():
        np.testing.assert_array_equal(layout.rows(examples, examples)[name], array)


GOLDEN = {
    "full_sentences": "938aaefe6266e09f",
    "pairs": "d98a87d62aac4982",
    "packed": "ab1698e8c41e224c",
    "causal_blocks": "1064c3331e37c70b",
}  # SHA-256 of token ids


@pytest.mark.parametrize("packing", GOLDEN)
def test_rows_of_a_seed_stay_what_they_are(packing: str) -> None:
    """A run that goes on with a later version reads the rows it would have read."""
    digest = hashlib.sha256()
    for batch in sequences(corpus(documents=30), packing, epochs=2):
        digest.update(batch.arrays.tokens.token_ids.tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[packing]


def test_a_document_that_never_ends_is_cut_but_for_pairs() -> None:
    endless = corpus(documents=30)

    def shards(documents: list[int], whole_documents: bool) -> list[Tokens]:
        text = replace(endless, documents=np.array(documents))
        return [corpus_shards._cut(text, *part) for part in corpus_shards._bounds(text, whole_documents)]

    cut = [len(shard) for shard in shards([0], whole_documents=False)]
    assert len(cut) > 3 and max(cut) <= 2 * corpus_shards.SHARD and sum(cut) == len(endless)
    assert [len(shard) for shard in shards([0, 40], whole_documents=True)] == [len(endless)]
    for documents in ([0, 40, 60], [0, 1, 2, 60], [0, 40, 60, 80]):
        parts = shards(documents, whole_documents=True)
        assert all(len(part.documents) >= 2 and part.documents[0] == 0 for part in parts)
        assert sum(len(part.documents) for part in parts) == len(documents)


def test_all_layouts_are_listed() -> None:
    assert set(LAYOUTS.values()) == set(Layout.__subclasses__())
