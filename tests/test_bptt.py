"""Batches for truncated backpropagation: their contents, resuming by position, several hosts; and prefetching.

The packing fixture holds what the original trainer (allenai/bilm-tf) gives for five sentences in 2 rows x 4 steps.
"""

import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctx_jax.data.batch import Batch, BiLMBatch
from ctx_jax.data.bptt import BPTTBatches
from ctx_jax.data.prefetch import prefetch
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.characters import encode_word

NAMES = ["<S>", "</S>", "<UNK>"]
MODES = list(itertools.product(("rows", "shared"), ("shared", "separate")))


class Ids:
    """A vocabulary in three lines."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.number = {word: number for number, word in enumerate(words)}

    def ids(self, words: Any, /) -> np.ndarray:
        return np.asarray([self.number.get(word, 2) for word in words], np.int32)


def corpus(count: int, longest: int = 9, empty: float = 0.0) -> list[list[str]]:
    """Sentences of distinct words, so that a word says where it comes from."""
    draw = np.random.default_rng(count)
    lengths = np.where(draw.random(count) < empty, 0, draw.integers(1, longest + 1, count))
    return [[f"s{number}w{word}" for word in range(length)] for number, length in enumerate(lengths)]


def vocabulary(sentences: list[list[str]]) -> Ids:
    return Ids(NAMES + [word for sentence in sentences for word in sentence])


def bptt(sentences: list[list[str]], **settings: Any) -> BPTTBatches:
    defaults: dict[str, Any] = {"batch_size": 4, "unroll_steps": 5, "seed": 3, "token_input": "words"}
    return BPTTBatches(sentences, vocabulary(sentences), **(defaults | settings))


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def fields(batch: Batch) -> dict[str, np.ndarray]:
    """The arrays of a batch by name."""
    return {name: array for name, array in batch.arrays._asdict().items() if array is not None}


def same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        for mine, yours in ((fields(one), fields(other)), (one.position, other.position)):
            assert mine.keys() == yours.keys()
            for key in mine:
                assert mine[key].dtype == yours[key].dtype
                np.testing.assert_array_equal(mine[key], yours[key], key)


def stream(batches: list[Batch], name: str, row: int) -> list[int]:
    return np.concatenate([getattr(batch.arrays, name)[row] for batch in batches]).tolist()


def split(ids: list[int], begin: int) -> list[tuple[int, ...]]:
    """The sentences of a stream of inputs, without markers."""
    found: list[list[int]] = []
    for number in ids:
        if number == begin:
            found.append([])
        else:
            found[-1].append(number)
    return [tuple(sentence) for sentence in found]


def test_the_original_packing(golden: Path) -> None:
    pinned = json.loads((golden / "packing" / "ids_and_packing.json").read_text("utf-8"))
    sentences = [line.split() for line in pinned["text"]]
    ours = BPTTBatches(
        sentences, Ids(pinned["vocab"]), batch_size=pinned["batch_size"], unroll_steps=pinned["num_steps"],
        token_input="words", assignment="shared", shuffle=False,
    )  # fmt: skip
    names = {
        "token_ids": "forward_inputs", "token_ids_reverse": "backward_inputs",
        "next_token_id": "forward_targets", "next_token_id_reverse": "backward_targets",
    }  # fmt: skip
    for batch, expected in zip(take(ours, len(pinned["batches"])), pinned["batches"], strict=True):
        assert expected.keys() == names.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(getattr(batch.arrays, names[key]), np.asarray(value), key)


def test_the_example_of_bilm_batch() -> None:
    sentences = [["the", "cat", "."], ["a", "dog"]]
    words = ["<S>", "</S>", "<UNK>", "the", "cat", ".", "a", "dog"]
    batch = next(BPTTBatches(sentences, Ids(words), batch_size=1, unroll_steps=7, shuffle=False, max_characters=5))
    example = {
        "forward_inputs":   "<S>  the cat .   <S>  a   dog",
        "forward_targets":  "the  cat .   </S> a   dog </S>",
        "backward_inputs":  "</S> .   cat the </S> dog a",
        "backward_targets": ".    cat the <S> dog  a   <S>",
    }  # fmt: skip
    for name, row in example.items():
        expected = [encode_word(word, 5) if "inputs" in name else words.index(word) for word in row.split()]
        np.testing.assert_array_equal(getattr(batch.arrays, name), np.asarray([expected]), name)
    assert {name: (array.shape, array.dtype.name) for name, array in fields(batch).items()} == {
        "forward_inputs": ((1, 7, 5), "int32"),
        "backward_inputs": ((1, 7, 5), "int32"),
        "forward_targets": ((1, 7), "int32"),
        "backward_targets": ((1, 7), "int32"),
        "rows": ((1,), "int32"),
    }


@pytest.mark.parametrize(("assignment", "directions"), MODES)
def test_seek_continues_identically(assignment: str, directions: str) -> None:
    sentences = corpus(11, empty=0.2)
    settings = {"assignment": assignment, "directions": directions}
    whole = bptt(sentences, **settings)
    start = whole.position
    batches = take(whole, 24)  # some epochs
    for done in range(20):
        resumed = bptt(sentences, **settings)
        resumed.seek(batches[done].position)
        same(take(resumed, 4), batches[done + 1 : done + 5])
    whole.seek(start)
    same(take(whole, 24), batches)


@pytest.mark.parametrize(("assignment", "directions"), MODES)
@pytest.mark.parametrize("hosts", [2, 4])
def test_batches_of_several_hosts_equal_one_hosts(assignment: str, directions: str, hosts: int) -> None:
    sentences = corpus(23, empty=0.1)
    settings = {
        "assignment": assignment, "directions": directions, "token_input": "characters", "max_characters": 7,
    }  # fmt: skip
    size = 4 // hosts

    def joined(count: int, position: dict[str, np.ndarray] | None = None) -> list[Batch]:
        shares = [bptt(sentences, rows=slice(host * size, (host + 1) * size), **settings) for host in range(hosts)]
        for share in shares:
            if position is not None:
                share.seek(position)
        steps = zip(*[take(share, count) for share in shares], strict=True)
        return [
            Batch(
                BiLMBatch(**{key: np.concatenate([fields(batch)[key] for batch in step]) for key in fields(step[0])}),
                {key: np.concatenate([batch.position[key] for batch in step]) for key in step[0].position},
            )
            for step in steps
        ]

    one = take(bptt(sentences, **settings), 12)
    same(joined(12), one)
    same(joined(6, one[5].position), one[6:])


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize(("assignment", "directions"), MODES)
def test_streams_are_sentences(assignment: str, directions: str, steps: int) -> None:
    """Targets are inputs shifted; both directions read whole sentences of the corpus, the same where they share."""
    sentences = corpus(9, longest=12)  # up to 13 batches a sentence
    names = vocabulary(sentences)
    known = {tuple(names.ids(sentence).tolist()) for sentence in sentences}
    batches = take(bptt(sentences, unroll_steps=steps, assignment=assignment, directions=directions), 200 // steps)
    for row in range(4):
        forward = stream(batches, "forward_inputs", row)
        backward = stream(batches, "backward_inputs", row)
        for inputs, name, begin, end in (
            (forward, "forward_targets", 0, 1),
            (backward, "backward_targets", 1, 0),
        ):
            targets = stream(batches, name, row)
            assert inputs[0] == begin
            for target, following in zip(targets, inputs[1:], strict=False):
                assert target == (end if following == begin else following)
        read = split(forward, 0)[:-1]  # the last may be cut
        turned = [sentence[::-1] for sentence in split(backward, 1)[:-1]]
        assert len(read) > 1
        assert known.issuperset(read + turned)
        assert (read == turned) == (directions == "shared")


@pytest.mark.parametrize("assignment", ["rows", "shared"])
@pytest.mark.parametrize(("count", "rows"), [(30, 5), (3, 3), (1, 1)])
def test_every_sentence_begins_once_an_epoch(assignment: str, count: int, rows: int) -> None:
    sentences = corpus(count, empty=0.2 if count > 3 and assignment == "shared" else 0.0)
    names = vocabulary(sentences).words
    begun: list[list[str]] = [[] for _ in range(rows)]
    for batch in take(bptt(sentences, batch_size=rows, assignment=assignment), 60):
        pairs = zip(batch.arrays.forward_inputs, batch.arrays.forward_targets, strict=True)
        for row, (inputs, targets) in enumerate(pairs):
            begun[row] += [names[number] for number in targets[inputs == 0]]
    first_words = {sentence[0] for sentence in sentences if sentence}
    if assignment == "rows":  # each row has its share of every epoch
        share, least = count // rows, min(map(len, begun))
        epochs = [[word for row in begun for word in row[at : at + share]] for at in range(0, least - share, share)]
        assert len(epochs) > 2
        assert all(sorted(epoch) == sorted(first_words) for epoch in epochs)
    else:
        times = Counter(word for row in begun for word in row)
        assert set(times) == first_words and min(times.values()) > 2
        assert max(times.values()) - min(times.values()) <= 1


def test_a_host_reads_only_its_rows_and_seeks_without_replaying() -> None:
    asked: list[int] = []

    class Watched(list[list[str]]):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    sentences = Watched(corpus(40))
    settings: dict[str, Any] = {"batch_size": 4, "unroll_steps": 5, "shuffle": False, "token_input": "words"}
    batches = BPTTBatches(sentences, vocabulary(list(sentences)), rows=slice(1, 2), **settings)
    asked.clear()
    take(batches, 30)
    assert {index % 4 for index in asked} == {1}
    far = take(bptt(list(sentences), shuffle=False), 60)[-1].position
    asked.clear()
    batches.seek(far)
    assert asked == [far["index"][1]]


def test_a_wrong_position_is_refused() -> None:
    sentences = corpus(9)
    position = next(bptt(sentences)).position
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        bptt(sentences).seek({key: value[:2] for key, value in position.items()})
    with pytest.raises(ValueError, match="offset_reverse"):
        bptt(sentences, directions="separate").seek(position)
    with pytest.raises(ValueError, match="another corpus"):
        bptt(sentences).seek(position | {"index": position["index"] + 9})
    with pytest.raises(ValueError, match="corpus has changed"):
        bptt(sentences).seek(position | {"offset": position["offset"] + 20})


def test_bad_arguments_and_corpora_are_named() -> None:
    with pytest.raises(ValueError, match="at least one sentence, and the corpus has none"):
        bptt([])
    with pytest.raises(ValueError, match="only empty sentences"):
        next(bptt([[], [], []]))
    with pytest.raises(ValueError, match="row 2 .* assigned to this row are empty"):
        next(bptt([["a"], ["b"], [], ["c"]], shuffle=False))
    with pytest.raises(ConfigError, match="batch_size"):
        bptt([["a"]], batch_size=0)
    with pytest.raises(ValueError, match="adjacent rows"):
        bptt([["a"]], rows=slice(4, 8))


def test_prefetching_changes_nothing_and_resumes() -> None:
    sentences = corpus(11)
    plain = take(bptt(sentences), 12)
    with prefetch(bptt(sentences), 3) as ahead:
        first = take(ahead, 5)
    same(first, plain[:5])
    resumed = bptt(sentences)
    resumed.seek(first[-1].position)  # of the last batch used; more were prefetched
    with prefetch(resumed, 3) as ahead:
        same(take(ahead, 7), plain[5:])
    with prefetch(iter(plain), 1) as ahead:
        same(list(ahead), plain)


def prefetching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ctx_jax prefetch")]


def test_an_error_of_the_thread_reaches_the_caller() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk went away")

    with prefetch(broken(), 4) as ahead:
        assert next(ahead) == 1
        with pytest.raises(OSError, match="the disk went away"):
            next(ahead)
        assert list(ahead) == []


def test_leaving_stops_the_thread() -> None:
    for _ in range(20):
        with prefetch(itertools.count(), 1) as ahead:
            next(ahead)
            assert len(prefetching_threads()) == 1
        assert prefetching_threads() == []
        assert list(ahead) == []
    with pytest.raises(ConfigError, match="depth"), prefetch(iter([1]), 0):
        pass


def test_it_stays_a_bounded_step_ahead() -> None:
    made: list[int] = []
    gate = threading.Semaphore(0)

    def counted() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            gate.release()
            yield number

    with prefetch(counted(), 2) as ahead:
        for _ in range(2):
            assert gate.acquire(timeout=30)
        assert not gate.acquire(timeout=0.05)
        assert next(ahead) == 0
        assert gate.acquire(timeout=30)
    assert len(made) <= 5


def test_the_interpreter_exits_with_a_thread_running() -> None:
    program = (
        "import itertools, sys; from ctx_jax.data.prefetch import prefetch\n"
        "with prefetch(itertools.count(), 2) as ahead: next(ahead); sys.exit()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
