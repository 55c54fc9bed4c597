"""Several languages: shares and order of their rows, what a shared tokenizer reads, and the settings' errors."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
from numbered_text import Names, corpus

from ctx_jax.data.cache import build_cache
from ctx_jax.data.config import BiLMData, TextConfig
from ctx_jax.data.corpora import resolve
from ctx_jax.data.languages import ROUND, LanguageOrder, LanguageSentences, LanguageTokens, quotas, shares
from ctx_jax.data.length_schedule import LengthSchedule
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.errors import ConfigError

CONFIG = SequenceConfig(length=16, batch_size=8, mask_rate=0.2)
GAP = 3000  # token ids of language n begin here times n


def texts() -> dict[str, Tokens]:
    """Three languages of different sizes, whose token ids tell the language and the place."""
    sizes = {"de": 40, "fr": 12, "ko": 3}
    found = {name: corpus(documents, seed=documents) for name, documents in sizes.items()}
    return {name: replace(text, ids=text.ids + GAP * number) for number, (name, text) in enumerate(found.items())}


def rows_of(exponent: float = 0.5, *, own: slice | None = None, config: SequenceConfig = CONFIG) -> Sequences:
    return Sequences(LanguageTokens(texts(), exponent), Names(), config, seed=3, rows=own)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.7, 1.0])
def test_shares_are_those_of_the_formula(exponent: float) -> None:
    sizes = [1000, 10, 250]
    powers = [size**exponent for size in sizes]
    np.testing.assert_allclose(shares(sizes, exponent), [power / sum(powers) for power in powers], rtol=1e-12)
    np.testing.assert_allclose(shares(sizes, 0.0), 1 / 3)
    np.testing.assert_allclose(shares(sizes, 1.0), np.array(sizes) / 1260)


def test_quotas_are_shares_of_whole_rows_and_no_language_is_left_out() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        parts = shares(random.integers(1, 10**9, random.integers(1, 40)).tolist(), random.random())
        found = quotas(parts, ROUND)
        assert found.sum() == ROUND and found.min() >= 1
        assert np.abs(found - parts * ROUND).max() < 1
    assert quotas(np.array([1 - 2e-9, 1e-9, 1e-9]), 100).tolist() == [98, 1, 1]


def test_a_round_has_each_languages_quota_and_any_part_of_it_about_that() -> None:
    order = LanguageOrder(tuple(quotas(shares([1000, 10, 250], 0.7), ROUND).tolist()), 5)
    language, before = order.at(np.arange(2 * ROUND))
    for half in (language[:ROUND], language[ROUND:]):
        assert tuple(np.bincount(half)) == order.counts
    assert (language[:ROUND] != language[ROUND:]).any(), "every round has an order of its own"
    for number, count in enumerate(order.counts):
        np.testing.assert_array_equal(before[language == number], np.arange(2 * count))
        share = count / ROUND
        for rows in (3000, ROUND + 3000):
            assert order.first(rows)[number] == (language[:rows] == number).sum()
            part = (language[rows - 3000 : rows] == number).mean()
            assert abs(part - share) < 4 * np.sqrt(share * (1 - share) / 3000)
    other, _ = replace(order, seed=6).at(np.arange(ROUND))
    assert (other != language[:ROUND]).any()


def test_a_row_holds_one_language_and_each_language_is_read_in_epochs_of_its_own() -> None:
    sequences = rows_of()
    batches = list(islice(sequences, 80))
    ids = np.concatenate([batch.arrays.tokens.token_ids for batch in batches])
    mask = np.concatenate([batch.arrays.tokens.mask for batch in batches])
    for batch, row in zip(range(80), range(0, 640, 8), strict=True):  # originals where a random token stands
        arrays = batches[batch].arrays
        where = arrays.predicted_weights > 0
        lines = np.broadcast_to(np.arange(8)[:, None], where.shape)[where]
        ids[row + lines, arrays.predicted_positions[where]] = arrays.predicted_ids[where]
    words = mask & (ids >= 5)
    language = np.array([np.unique(row[own] // GAP).item() for row, own in zip(ids, words, strict=True)])
    expected = LanguageTokens(texts(), 0.5)
    assert np.abs(np.bincount(language) / 640 - expected.shares).max() < 0.08
    np.testing.assert_allclose(
        sequences.epochs(80), [(language == n).sum() / len(s) for n, s in enumerate(sequences.stream._streams)]
    )
    for number, stream in enumerate(sequences.stream._streams):
        alone = [tuple(row) for row in ids[language == number]]
        assert len(alone) > 2 * len(stream) or number == 0
        assert set(alone[: len(stream)]) == set(alone[len(stream) : 2 * len(stream)]) or number == 0
        assert len(set(alone[: len(stream)])) == min(len(stream), len(alone))


@pytest.mark.parametrize("packing", ["full_sentences", "pairs", "causal_blocks"])
def test_batches_are_resumed_anywhere_by_any_number_of_processes(packing: str) -> None:
    config = replace(CONFIG, packing=packing)
    whole = list(islice(rows_of(config=config), 12))
    again = rows_of(config=config)
    again.seek(whole[6].position)
    halves = [rows_of(config=config, own=slice(4 * host, 4 * host + 4)) for host in range(2)]
    for half in halves:
        half.seek(whole[6].position)
    for expected, one, first, second in zip(whole[7:], again, *halves, strict=False):
        jax.tree.map(np.testing.assert_array_equal, one, expected)
        jax.tree.map(lambda a, b, both: np.testing.assert_array_equal(np.concatenate([a, b]), both), first, second, one)


def test_a_length_schedule_counts_the_epochs_of_both_its_parts() -> None:
    short = replace(CONFIG, length=8, batch_size=16)
    both = LengthSchedule(rows_of(config=short), 3, rows_of())
    np.testing.assert_allclose(both.epochs(5), rows_of(config=short).epochs(3) + rows_of().epochs(2))
    np.testing.assert_allclose(both.epochs(2), rows_of(config=short).epochs(2))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_tokenizer_reads_of_each_language_by_the_exponent(exponent: float, tmp_path: Path) -> None:
    cached = {}
    for name, count in (("de", 4000), ("fr", 1000), ("ko", 250)):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"{name} {number:06d}\n" for number in range(count)))
        cached[name] = build_cache(resolve(str(path), "train"), tmp_path)
    sample = LanguageSentences(cached, exponent)
    read = list(sample)
    assert len(read) == len(sample) and len({tuple(words) for words in read}) == len(read)
    counts = [sum(words[0] == name for words in read) for name in cached]
    np.testing.assert_allclose(counts, 250 * np.array([16.0, 4.0, 1.0]) ** exponent, atol=1)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"languages": ("de.txt",)}, "languages"),
        ({"languages": ("de=",)}, "languages"),
        ({"languages": ("d e=a.txt",)}, "languages"),
        ({"languages": ("de=a.txt", "de=b.txt")}, "languages"),
        ({"languages": ("en=python-docs",)}, "languages"),
        ({"languages": ("de=a.txt",), "train": "b.txt"}, "train"),
        ({"languages": ("de=a.txt",), "valid": "b.txt"}, "valid"),
        ({"valid_languages": ("de=a.txt",)}, "valid_languages"),
        ({"languages": ("de=a.txt",), "valid_languages": ("fr=a.txt",)}, "valid_languages"),
        ({"exponent": 1.5}, "exponent"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        TextConfig(**settings)
    assert error.value.field == f"data.{field}"


def test_a_bilm_refuses_several_languages() -> None:
    with pytest.raises(ConfigError, match="biLM") as error:
        BiLMData(languages=("de=a.txt", "fr=b.txt"))
    assert error.value.field == "data.languages"
