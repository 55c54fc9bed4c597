"""How the measuring of a Transformer goes through its text: no more of it in memory than is worked on, and the devices
never idle while the host counts."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ctx_jax.encoders.transformer.config import Transformer

from ctx_jax.distributed.sharding import pipelined
from ctx_jax.evaluation import pseudo_perplexity as masked

MODEL = Transformer(60, dim=4, layers=1, heads=1, feed_forward=4, max_positions=16)


class Letters:
    """A tokenizer whose every word is one piece."""

    before, after, pad_id, mask_id = (1,), (2,), 0, 3

    def tokenize_words(self, sentences: list[list[str]]) -> list[Any]:
        return [SimpleNamespace(ids=np.full(len(words), 7, np.int32)) for words in sentences]

    def add_special_tokens(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([self.before, ids, self.after]).astype(np.int32)


def replace_program(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    """Puts `run(params, arrays, carry)` in the place of what is compiled."""
    monkeypatch.setattr(masked, "_compiled", lambda *given: (run, lambda params: params))


def test_pseudo_perplexity_reads_its_text_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[float] = []

    def run(params: Any, arrays: dict[str, np.ndarray], carry: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        counted.append(arrays["predicted_weights"].sum())
        return {"masked": (arrays["predicted_weights"] * 2, arrays["predicted_weights"])}

    replace_program(monkeypatch, run)
    monkeypatch.setattr(masked, "BLOCK", 2)
    taken: list[int] = []

    def text() -> Iterator[list[str]]:
        while not counted and len(taken) < 1000:
            taken.append(1)
            yield ["the", "cat"]

    done: list[int] = []
    found = masked.pseudo_perplexity(MODEL, {}, Letters(), text(), batch=4, advance=done.append)  # type: ignore[arg-type]
    assert len(taken) < 50, "the whole text was read before the first batch"
    assert (found.loss, found.tokens) == (2.0, 2 * len(taken)) and sum(done) == len(taken)


def test_results_are_taken_in_their_order_when_the_next_one_is_under_way() -> None:
    asked: list[int] = []

    def results() -> Iterator[int]:
        for number in range(4):
            asked.append(number)
            yield number

    assert [(result, asked[-1]) for result in pipelined(results())] == [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert not list(pipelined([]))
