"""Windows of lanes: what is in them, that their positions resume them, and that hosts agree; and their prefetching.

The packing fixture holds what the original trainer (allenai/bilm-tf) gives for five sentences in 2 lanes x 4 steps.
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

from ctx_jax.data.batch import Batch
from ctx_jax.data.bptt import Windows
from ctx_jax.data.prefetch import prefetch
from ctx_jax.tokenizers.characters import encode_word

NAMES = ["<S>", "</S>", "<UNK>"]
MODES = list(itertools.product(("lanes", "shared"), ("shared", "separate")))


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


def windows(sentences: list[list[str]], **settings: Any) -> Windows:
    defaults: dict[str, Any] = {"lanes": 4, "window": 5, "seed": 3, "inputs": "words"}
    return Windows(sentences, vocabulary(sentences), **(defaults | settings))


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        for mine, yours in ((one.arrays, other.arrays), (one.position, other.position)):
            assert mine.keys() == yours.keys()
            for key in mine:
                assert mine[key].dtype == yours[key].dtype
                np.testing.assert_array_equal(mine[key], yours[key], key)


def stream(batches: list[Batch], key: str, lane: int) -> list[int]:
    return np.concatenate([batch.arrays[key][lane] for batch in batches]).tolist()


def split(ids: list[int], begin: int) -> list[tuple[int, ...]]:
    """The sentences of a stream of inputs, markers taken off."""
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
    given = Windows(
        sentences, Ids(pinned["vocab"]), lanes=pinned["batch_size"], window=pinned["num_steps"], inputs="words",
        assignment="shared", shuffle=False,
    )  # fmt: skip
    batches = take(given, len(pinned["batches"]))
    for batch, expected in zip(batches, pinned["batches"], strict=True):
        assert batch.arrays.keys() == {*expected, "row"}
        for key, value in expected.items():
            np.testing.assert_array_equal(batch.arrays[key], np.asarray(value), key)


def test_the_table_of_the_architecture() -> None:
    sentences = [["the", "cat", "."], ["a", "dog"]]
    words = ["<S>", "</S>", "<UNK>", "the", "cat", ".", "a", "dog"]
    batch = next(Windows(sentences, Ids(words), lanes=1, window=7, shuffle=False, max_characters=5))
    drawn = {
        "tokens_characters":         "<S>  the cat .   <S>  a   dog",
        "next_token_id":             "the  cat .   </S> a   dog </S>",
        "tokens_characters_reverse": "</S> .   cat the </S> dog a",
        "next_token_id_reverse":     ".    cat the <S> dog  a   <S>",
    }  # fmt: skip
    for key, row in drawn.items():
        expected = [encode_word(w, 5) if "characters" in key else words.index(w) for w in row.split()]
        np.testing.assert_array_equal(batch.arrays[key], np.asarray([expected]), key)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.arrays.items()} == {
        "tokens_characters": ((1, 7, 5), "int32"),
        "tokens_characters_reverse": ((1, 7, 5), "int32"),
        "next_token_id": ((1, 7), "int32"),
        "next_token_id_reverse": ((1, 7), "int32"),
        "row": ((1,), "int32"),
    }


@pytest.mark.parametrize(("assignment", "directions"), MODES)
def test_seek_goes_on_identically(assignment: str, directions: str) -> None:
    sentences = corpus(11, empty=0.2)
    settings = {"assignment": assignment, "directions": directions}
    whole = windows(sentences, **settings)
    start = whole.position
    batches = take(whole, 24)  # some epochs
    for done in range(20):
        resumed = windows(sentences, **settings)
        resumed.seek(batches[done].position)
        same(take(resumed, 4), batches[done + 1 : done + 5])
    whole.seek(start)
    same(take(whole, 24), batches)


@pytest.mark.parametrize(("assignment", "directions"), MODES)
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_make_the_batch_of_one(assignment: str, directions: str, hosts: int) -> None:
    sentences = corpus(23, empty=0.1)
    settings = {"assignment": assignment, "directions": directions, "inputs": "characters", "max_characters": 7}
    size = 4 // hosts

    def joined(count: int, position: dict[str, np.ndarray] | None = None) -> list[Batch]:
        shares = [windows(sentences, rows=slice(host * size, (host + 1) * size), **settings) for host in range(hosts)]
        for share in shares:
            if position is not None:
                share.seek(position)
        steps = zip(*[take(share, count) for share in shares], strict=True)
        return [
            Batch(
                {key: np.concatenate([batch.arrays[key] for batch in step]) for key in step[0].arrays},
                {key: np.concatenate([batch.position[key] for batch in step]) for key in step[0].position},
            )
            for step in steps
        ]

    one = take(windows(sentences, **settings), 12)
    same(joined(12), one)
    same(joined(6, one[5].position), one[6:])


@pytest.mark.parametrize("window", [1, 3, 40])
@pytest.mark.parametrize(("assignment", "directions"), MODES)
def test_streams_are_sentences(assignment: str, directions: str, window: int) -> None:
    """Targets are inputs shifted; both directions hold whole sentences of the corpus, the same where they share."""
    sentences = corpus(9, longest=12)  # up to 13 windows a sentence
    names = vocabulary(sentences)
    known = {tuple(names.ids(sentence).tolist()) for sentence in sentences}
    batches = take(windows(sentences, window=window, assignment=assignment, directions=directions), 200 // window)
    for lane in range(4):
        forward = stream(batches, "token_ids", lane)
        reverse = stream(batches, "token_ids_reverse", lane)
        for inputs, key, begin, end in (
            (forward, "next_token_id", 0, 1),
            (reverse, "next_token_id_reverse", 1, 0),
        ):
            targets = stream(batches, key, lane)
            assert inputs[0] == begin
            for target, following in zip(targets, inputs[1:], strict=False):
                assert target == (end if following == begin else following)
        read = split(forward, 0)[:-1]  # the last may be cut
        turned = [sentence[::-1] for sentence in split(reverse, 1)[:-1]]
        assert len(read) > 1
        assert known.issuperset(read + turned)
        assert (read == turned) == (directions == "shared")


@pytest.mark.parametrize("assignment", ["lanes", "shared"])
@pytest.mark.parametrize(("count", "lanes"), [(30, 5), (3, 3), (1, 1)])
def test_an_epoch_begins_every_sentence_once(assignment: str, count: int, lanes: int) -> None:
    sentences = corpus(count, empty=0.2 if count > 3 and assignment == "shared" else 0.0)
    names = vocabulary(sentences).words
    begun: list[list[str]] = [[] for _ in range(lanes)]
    for batch in take(windows(sentences, lanes=lanes, assignment=assignment), 60):
        for lane, (inputs, targets) in enumerate(
            zip(batch.arrays["token_ids"], batch.arrays["next_token_id"], strict=True)
        ):
            begun[lane] += [names[number] for number in targets[inputs == 0]]
    first_words = {sentence[0] for sentence in sentences if sentence}
    if assignment == "lanes":  # each lane has its share of every epoch
        share, least = count // lanes, min(map(len, begun))
        epochs = [[word for lane in begun for word in lane[at : at + share]] for at in range(0, least - share, share)]
        assert len(epochs) > 2
        assert all(sorted(epoch) == sorted(first_words) for epoch in epochs)
    else:
        times = Counter(word for lane in begun for word in lane)
        assert set(times) == first_words and min(times.values()) > 2
        assert max(times.values()) - min(times.values()) <= 1


def test_a_host_reads_only_its_lanes_and_seeks_without_replaying() -> None:
    asked: list[int] = []

    class Watched(list[list[str]]):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    sentences = Watched(corpus(40))
    settings: dict[str, Any] = {"lanes": 4, "window": 5, "shuffle": False, "inputs": "words"}
    given = Windows(sentences, vocabulary(list(sentences)), rows=slice(1, 2), **settings)
    asked.clear()
    take(given, 30)
    assert {index % 4 for index in asked} == {1}
    far = take(windows(list(sentences), shuffle=False), 60)[-1].position
    asked.clear()
    given.seek(far)
    assert asked == [far["index"][1]]


def test_a_wrong_position_is_refused() -> None:
    sentences = corpus(9)
    position = next(windows(sentences)).position
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        windows(sentences).seek({key: value[:2] for key, value in position.items()})
    with pytest.raises(ValueError, match="offset_reverse"):
        windows(sentences, directions="separate").seek(position)
    with pytest.raises(ValueError, match="another corpus"):
        windows(sentences).seek(position | {"index": position["index"] + 9})
    with pytest.raises(ValueError, match="corpus has changed"):
        windows(sentences).seek(position | {"offset": position["offset"] + 20})


def test_bad_arguments_and_corpora_are_named() -> None:
    with pytest.raises(ValueError, match="at least one sentence, and the corpus has none"):
        windows([])
    with pytest.raises(ValueError, match=r"only empty sentences.*--data\.train"):
        next(windows([[], [], []]))
    with pytest.raises(ValueError, match="this lane meets no others"):
        next(windows([["a"], ["b"], [], ["c"]], shuffle=False))
    with pytest.raises(ValueError, match="at least 1 lane and 1 step"):
        windows([["a"]], lanes=0)
    with pytest.raises(ValueError, match="neighbouring lanes"):
        windows([["a"]], rows=slice(4, 8))


def test_prefetching_changes_nothing_and_resumes() -> None:
    sentences = corpus(11)
    plain = take(windows(sentences), 12)
    with prefetch(windows(sentences), 3) as ahead:
        first = take(ahead, 5)
    same(first, plain[:5])
    resumed = windows(sentences)
    resumed.seek(first[-1].position)  # of the last batch used, though more lay ready
    with prefetch(resumed, 3) as ahead:
        same(take(ahead, 7), plain[5:])
    with prefetch(iter(plain), 1) as ahead:
        same(list(ahead), plain)


def prefetching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ctx_jax prefetch"]


def test_an_error_of_the_thread_reaches_the_caller() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk went away")

    with prefetch(broken(), 4) as ahead:
        assert next(ahead) == 1
        with pytest.raises(OSError, match="the disk went away"):
            next(ahead)
        assert list(ahead) == []


def test_closing_or_dropping_stops_the_thread() -> None:
    for _ in range(20):
        closed = prefetch(itertools.count(), 1)
        next(closed)
        closed.close()
        closed.close()
        assert list(closed) == []
    dropped = prefetch(itertools.count(), 2)
    assert len(prefetching_threads()) == 1
    del dropped
    assert prefetching_threads() == []
    with pytest.raises(ValueError, match="depth"):
        prefetch(iter([1]), 0)


def test_it_stays_a_bounded_step_ahead() -> None:
    made: list[int] = []
    gate = threading.Semaphore(0)

    def counted() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            gate.release()
            yield number

    with prefetch(counted(), 2) as ahead:
        for _ in range(3):  # two wait in the queue and one in the thread's hand
            assert gate.acquire(timeout=30)
        assert not gate.acquire(timeout=0.05)
        assert next(ahead) == 0
        assert gate.acquire(timeout=30)
    assert len(made) <= 5


def test_the_interpreter_exits_with_a_thread_running() -> None:
    program = (
        "import itertools; from ctx_jax.data.prefetch import prefetch; a = prefetch(itertools.count(), 2); next(a)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
