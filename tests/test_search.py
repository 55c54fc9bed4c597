"""The nearest vectors by cosine, the index of a text, and the commands that show them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_folders import write_folder

import ctx_jax
from ctx_jax import cli
from ctx_jax.embedding import search, text_parts
from ctx_jax.embedding.search import top_k
from ctx_jax.embedding.similarity import similarity
from ctx_jax.embedding.text_index import open_index
from ctx_jax.evaluation.correlation import pearson, spearman
from ctx_jax.io.errors import InputError, MissingFileError

LINES = ["the cat sat on the mat", "", "a dog and a cat", "the dogs sat", "the mats and cats", "  ", "The Cat", "dogs"]
PROMPTS = {"prompts": {"query": "query : ", "passage": "the mats "}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("encoder") / "st", settings=PROMPTS)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ctx_jax.Encoder:
    return ctx_jax.load(folder)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    units = [array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12) for array in (queries, vectors)]
    return units[0] @ units[1].T


@pytest.mark.parametrize("chunk_bytes", [1 << 7, 1 << 26])
def test_top_k_is_numpys_argsort_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(search, "CHUNK_BYTES", chunk_bytes)
    random = np.random.default_rng(0)
    queries, vectors = (random.normal(size=(count, 6)).astype(np.float32) for count in (3, 41))
    expected = cosines(queries, vectors)
    order = np.argsort(-expected, axis=1, kind="stable")
    for k in (1, 5, 41, 50):
        for given in (vectors, iter([vectors[:9], vectors[9:9], vectors[9:]])):
            scores, indices = top_k(queries, given, k)
            np.testing.assert_array_equal(indices, order[:, :k])
            np.testing.assert_allclose(scores, np.take_along_axis(expected, order[:, :k], axis=1), atol=1e-6)


@pytest.mark.parametrize("chunk_bytes", [1 << 7, 1 << 26])
def test_of_equal_scores_the_lower_index_comes_first(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(search, "CHUNK_BYTES", chunk_bytes)
    vectors = np.eye(4, dtype=np.float32)[[1, 0, 0, 2, 0, 3, 0, 1] * 6] * 2
    _, indices = top_k(np.eye(4, dtype=np.float32)[:2], vectors, 48)
    np.testing.assert_array_equal(indices, np.argsort(-vectors[:, :2].T, axis=1, kind="stable"))
    scores, indices = top_k(np.zeros((1, 4)), vectors, 3)
    assert scores.tolist() == [[0, 0, 0]] and indices.tolist() == [[0, 1, 2]], "a vector 0 has the cosine 0"


def test_top_k_refuses_what_does_not_fit() -> None:
    for queries, vectors, k in [
        (np.ones((2, 3)), np.ones((2, 4)), 1),
        (np.ones(3), np.ones((2, 3)), 1),
        (np.ones((1, 3)), np.ones((2, 3)), 0),
    ]:
        with pytest.raises(InputError):
            top_k(queries, vectors, k)


def test_an_index_finds_lines_by_number_and_never_blank_ones(
    encoder: ctx_jax.Encoder, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_parts, "PART_LINES", 3)
    queries = encoder.encode_array(["the cat", "dogs sat"], prompt_name="query")
    found = open_index(encoder, corpus).search(queries, 99)
    filled = [number for number, line in enumerate(LINES) if line.strip()]
    vectors = np.stack(list(encoder.encode([LINES[i] for i in filled], level="sentence", prompt_name="passage")))
    expected = cosines(queries, vectors)
    for row, hits in enumerate(found):
        order = [filled[i] + 1 for i in np.argsort(-expected[row], kind="stable")]
        assert [hit.line for hit in hits] == order and [hit.text for hit in hits] == [LINES[i - 1] for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected[row])[::-1], atol=1e-5)


def test_an_index_is_built_once_and_again_as_far_as_it_must(
    encoder: ctx_jax.Encoder, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(text_parts, "PART_LINES", 3)
    query = encoder.encode_array(["cat"])

    def search_now(folder: Path | None = None, **settings: Any) -> tuple[str, list[Any]]:
        said: list[str] = []
        hits = open_index(encoder, corpus, folder, log=said.append, **settings).search(query, 3)[0]
        return said[-1], hits

    said, first = search_now()
    assert said.startswith("building")
    said, again = search_now()
    assert said.startswith("using") and again == first
    (index,) = (tmp_path / "corpus.txt.index").iterdir()
    times = {path.name: (path / "vectors.bin").stat().st_mtime_ns for path in index.iterdir() if path.is_dir()}
    damaged = index / "1" / "vectors.bin"
    damaged.write_bytes(b"\1" + damaged.read_bytes()[1:])
    said, again = search_now()
    assert said != "using" and again == first, "a damaged part is computed again"
    corpus.write_text("\n".join(["a dog", *LINES[1:4]]))
    said, _ = search_now()
    assert "2" not in {path.name for path in index.iterdir()}, "a part behind the end is removed"
    corpus.write_text("\n".join(LINES))
    assert search_now()[1] == first
    assert (index / "0" / "vectors.bin").stat().st_mtime_ns != times["0"]
    assert search_now(prompt="")[0].startswith("building"), "another prompt, another index"
    assert search_now(tmp_path / "elsewhere")[0].startswith("building") and (tmp_path / "elsewhere").is_dir()
    for wrong, error in (("-", InputError), (tmp_path / "none.txt", MissingFileError)):
        with pytest.raises(error):
            open_index(encoder, wrong)


def test_the_search_command_prints_lines_and_json(
    folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", str(folder), str(corpus), "--query", "the cat", "dogs", "--count", "2"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "building" in printed.err and printed.out.count("line ") == 4
    assert cli.main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert "using" in printed.err
    answers = [json.loads(line) for line in printed.out.splitlines()]
    assert [answer["query"] for answer in answers] == ["the cat", "dogs"]
    assert all(LINES[hit["line"] - 1] == hit["text"] for answer in answers for hit in answer["hits"])


def test_similarity_is_the_cosine_of_encodes_vectors(folder: Path, encoder: ctx_jax.Encoder) -> None:
    first, second = LINES[:4], LINES[4:]
    for retrieval, names in ((False, (None, None)), (True, ("query", "passage"))):
        vectors = [
            np.stack(list(encoder.encode(texts, level="sentence", prompt_name=name)))
            for texts, name in zip((first, second), names, strict=True)
        ]
        found = similarity(encoder, first, second, retrieval=retrieval)
        np.testing.assert_allclose(found, np.diag(cosines(*vectors)), atol=1e-6)
    with pytest.raises(InputError):
        similarity(encoder, first, second[:2])


def test_correlations_are_numpys_and_ranks_of_ties_are_shared() -> None:
    random = np.random.default_rng(0)
    first, second = random.integers(0, 9, 40), random.normal(size=40)
    np.testing.assert_allclose(pearson(first, second), np.corrcoef(first, second)[0, 1], rtol=1e-12)
    # The mean rank of equal numbers, by counting.
    ranks = [
        [np.sum(values < each) + (np.sum(values == each) + 1) / 2 for each in values] for values in (first, second)
    ]
    np.testing.assert_allclose(spearman(first, second), np.corrcoef(*ranks)[0, 1], rtol=1e-12)
    assert spearman(second, np.exp(second)) == pytest.approx(1) and np.isnan(pearson(first, np.ones(40)))


@pytest.mark.parametrize(
    "name, content, columns",
    [
        ("pairs.csv", 'sentence1,sentence2,score\n"a cat, sat",the cat,2.5\nthe dogs,dogs,5\ncat,mat,1\n', ""),
        ("pairs.tsv", "x\t2.5\ta cat, sat\tthe cat\nx\t5\tthe dogs\tdogs\nx\t1\tcat\tmat\n", "_,gold,first,second"),
    ],
)
def test_a_file_of_pairs_with_gold_scores(
    folder: Path, encoder: ctx_jax.Encoder, tmp_path: Path, name: str, content: str, columns: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / name).write_text(content)
    command = ["similarity", str(folder), str(tmp_path / name), "--columns", columns, "--json"]
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    scores = similarity(encoder, ["a cat, sat", "the dogs", "cat"], ["the cat", "dogs", "mat"])
    assert found["pairs"] == 3
    assert found["pearson"] == pytest.approx(np.corrcoef(scores, [2.5, 5, 1])[0, 1], abs=1e-5)


def test_similarity_prints_a_cosine_a_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["similarity", str(folder), "the cat", "the cat"]) == 0
    assert capsys.readouterr().out == "1.0000\n"
    (tmp_path / "pairs.tsv").write_text("the cat\tthe cat\ndogs\tdogs\n")
    assert cli.main(["similarity", str(folder), str(tmp_path / "pairs.tsv")]) == 0
    assert capsys.readouterr().out == "1.0000\n1.0000\n"


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["similarity", "{folder}", "{tmp}/none.tsv"], "none.tsv"),
        (["similarity", "{folder}", "{tmp}/three.tsv"], "three.tsv, line 2"),
        (["similarity", "{folder}", "{tmp}/number.tsv"], "number.tsv, line 2"),
        (["similarity", "{folder}", "{tmp}/number.tsv", "--columns", "a,b"], "--columns"),
        (["similarity", "{folder}", "a", "b", "--columns", "first,second"], "--columns"),
        (["similarity", "{tmp}", "a", "b"], "is no encoder"),
        (["search", "bert-base-uncased", "{tmp}/text.txt", "--query", "a"], "hf://bert-base-uncased"),
        (["search", "{folder}", "{tmp}/none.txt", "--query", "a"], "none.txt"),
        (["search", "{folder}", "-", "--query", "a"], "-"),
        (["search", "{folder}", "{tmp}/bytes.txt", "--query", "a"], "bytes.txt, line 1"),
        (["neighbours", "{folder}", "{tmp}/text.txt", "--word", "wavelet"], "wavelet"),
        (["neighbours", "{folder}", "{tmp}/text.txt", "--word", "cat", "--layer", "3"], "--layer"),
        (["neighbours", "{folder}", "{tmp}/text.txt", "--word", "cat", "--count", "0"], "--count"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_it(
    folder: Path, tmp_path: Path, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "three.tsv").write_text("a\tb\na\tb\tc\n")
    (tmp_path / "number.tsv").write_text("a\tb\t1\na\tb\tc\n")
    (tmp_path / "text.txt").write_text("the cat\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\n")
    assert cli.main([argument.format(folder=folder, tmp=tmp_path) for argument in arguments]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and part in errors[0]


@pytest.mark.slow
def test_neighbours_of_a_word_in_its_contexts(folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["neighbours", str(folder), str(corpus), "--word", "cat", "--occurrences", "2", "--count", "3"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("  ") for line in lines] == [False, True, True, True] * 2
    assert lines[0] == "the [cat] sat on the mat" and lines[4] == "a dog and a [cat]"
