"""A long text laid out chunk by chunk: the laws of one chunk hold for several, on disk and in memory."""

from pathlib import Path

import numpy as np
import pytest
from numbered_text import Names, corpus

from ctx_jax.data import corpus_shards as chunks
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens
from ctx_jax.io import mmap_spill as scratch

FORMS = ("full", "causal", "packed", "pairs")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 9)  # sentences


def sequences(tokens: Tokens, form: str, *, rows: slice | None = None, epochs: int | None = 1) -> Sequences:
    config = SequenceConfig(form=form, length=32, rows=4, rate=0.2)  # type: ignore[arg-type]
    return Sequences(tokens, Names(), config, seed=3, rows=rows, epochs=epochs)


def mapped(tokens: Tokens, folder: Path) -> Tokens:
    """The same text on disk."""
    arrays = []
    for name in ("ids", "begins", "offsets", "documents"):
        array = getattr(tokens, name)
        array.tofile(folder / name)
        arrays.append(np.memmap(folder / name, array.dtype, mode="r"))
    return Tokens(*arrays)


@pytest.mark.parametrize("form", FORMS)
def test_an_epoch_of_several_chunks_has_every_token_once(form: str) -> None:
    tokens = corpus(documents=30)
    whole = sequences(tokens, form)
    assert len(tokens) > 6 * chunks.CHUNK and whole.examples > 12
    shown: list[int] = []
    for batch in whole:
        ids = batch.arrays["token_ids"].copy()
        if form == "causal":
            ids = batch.arrays["next_token_id"][batch.arrays["weight"] > 0]
        else:  # undo the masks
            rows, places = np.nonzero(batch.arrays["predicted_weights"])
            columns = batch.arrays["predicted_positions"][rows, places]
            ids[rows, columns] = batch.arrays["predicted_ids"][rows, places]
            if form == "pairs":  # a second part of label 1 is another document's, shown besides
                away = (batch.arrays["next_sentence"] == 1)[:, None] & (batch.arrays["token_types"] == 1)
                for row in np.flatnonzero(away.any(axis=1)).tolist():
                    first, second = (ids[row][(away[row] == side) & (ids[row] > 4)] for side in (False, True))
                    assert document(tokens, first[:1]) != document(tokens, second[:1])
                ids = np.where(away, 0, ids)
        shown += ids[ids > 4].tolist()
    assert len(set(shown)) == len(shown)
    if form != "pairs":  # where a random second part takes the place of the text's own
        assert sorted(shown) == tokens.ids.tolist()


def document(tokens: Tokens, ids: np.ndarray) -> int:
    """The document in which the first of some tokens stands."""
    sentence = np.searchsorted(tokens.offsets, ids - 5, side="right") - 1
    return int(np.searchsorted(tokens.documents, sentence, side="right")[0])


@pytest.mark.parametrize("form", FORMS)
def test_the_text_on_disk_hosts_and_resumption_give_the_same_batches(form: str, tmp_path: Path) -> None:
    tokens = corpus(documents=30)
    whole = sequences(tokens, form, epochs=None)
    batches = [next(whole) for _ in range(30)]
    lower = sequences(mapped(tokens, tmp_path), form, rows=slice(2, 4), epochs=None)
    for batch in batches:
        half = next(lower)
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(half.arrays[name], array[2:], name)
    lower.seek(batches[11].position)
    np.testing.assert_array_equal(next(lower).arrays["token_ids"], batches[12].arrays["token_ids"][2:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begins", "documents", "ids", "offsets"]


def open_files() -> int:
    """How many this process has; 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.mark.parametrize("form", FORMS)
def test_what_is_known_of_a_text_on_disk_lies_there_too_in_few_files(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "FIRST", 2048)  # bytes
    tokens = mapped(corpus(documents=60), tmp_path)
    before = open_files()
    layout = sequences(tokens, form)._layout
    assert isinstance(layout, chunks._Chunks) and len(layout._parts) > 10
    for part in layout._parts:
        parts = [*vars(part).values(), *vars(vars(part).get("_stream", part)).values()]
        arrays = [each for held in parts for each in (held if isinstance(held, tuple) else (held,))]
        arrays += [each for held in parts if isinstance(held, Tokens) for each in vars(held).values()]
        found = [each for each in arrays if isinstance(each, np.ndarray)]
        assert len(found) > 4 and all(isinstance(each, np.memmap) and not each.flags.writeable for each in found)
    if before:  # every mapping keeps a file descriptor
        assert open_files() - before <= 8


def test_a_document_that_never_ends_is_cut_but_for_pairs() -> None:
    endless = corpus(documents=30)
    endless = Tokens(endless.ids, endless.begins, endless.offsets, endless.documents[:1])
    cut = [len(part) for part in chunks._cut(endless, whole_documents=False)]
    assert len(cut) > 3 and max(cut) <= 2 * chunks.CHUNK and sum(cut) == len(endless)
    two = Tokens(endless.ids, endless.begins, endless.offsets, np.array([0, 40]))
    assert [len(part) for part in chunks._cut(two, whole_documents=True)] == [len(two)]
    for documents in ([0, 40, 60], [0, 1, 2, 60], [0, 40, 60, 80]):
        text = Tokens(endless.ids, endless.begins, endless.offsets, np.array(documents))
        parts = list(chunks._cut(text, whole_documents=True))
        assert all(len(part.documents) >= 2 and part.documents[0] == 0 for part in parts)
        assert sum(len(part.documents) for part in parts) == len(documents)
