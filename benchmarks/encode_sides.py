"""The sides of `encode.py`: each takes strings and a batch size, and gives vectors; and how their best batch is found.

Ours takes a number of tokens a batch, the others a number of sentences.

Letters: L layers, B rows of a batch, S tokens of a row, T words, D width.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch_bilm import Params, TorchBiLM, load_params

from ctx_jax import Encoder
from ctx_jax.tokenizers.characters import char_ids

DEFAULT = 0  # a batch size: what `encode` chooses without `batch_tokens`
_TOKENS = (DEFAULT, 512, 1_024, 2_048, 4_096, 8_192)
_SENTENCES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Contender:
    """One way to make vectors of text."""

    encode: Callable[[Sequence[str], int], Iterable[np.ndarray]]
    """Sentences and a batch size to vectors."""
    sizes: tuple[int, ...] = _SENTENCES
    """The batch sizes that are tried, one of which is chosen."""
    usual: int = 32
    """The one where none is searched."""
    eights: Callable[[Sequence[str]], Iterable[np.ndarray]] | None = None
    """In batches of 8 sentences, where a batch size is not a number of sentences."""

    def run(self, sentences: Sequence[str], size: int) -> None:
        """Every vector once; none is kept."""
        deque(self.encode(sentences, size), maxlen=0)

    def run_eights(self, sentences: Sequence[str]) -> None:
        deque(self.encode(sentences, 8) if self.eights is None else self.eights(sentences), maxlen=0)


def best_size(contender: Contender, sentences: Sequence[str], search: bool) -> tuple[int, dict[int, float]]:
    """The fastest of the sizes, and the seconds of each: the shorter of two runs after one that is not timed.

    Without a search the usual one alone is run."""
    seconds = {}
    for size in contender.sizes if search else (contender.usual,):
        contender.run(sentences, size)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            contender.run(sentences, size)
            times.append(time.perf_counter() - start)
        seconds[size] = min(times)
    return min(seconds, key=seconds.__getitem__), seconds


def ours(encoder: Encoder | Callable[[], Encoder], **settings: Any) -> Contender:
    """`encoder.encode` with these settings; a function gives a new encoder for each pass over the text."""

    def of_pass() -> Encoder:
        return encoder if isinstance(encoder, Encoder) else encoder()

    def encode(sentences: Sequence[str], size: int) -> Iterator[np.ndarray]:
        return of_pass().encode(sentences, batch_tokens=size or None, **settings)

    def eights(sentences: Sequence[str]) -> Iterator[np.ndarray]:
        chosen = of_pass()
        for numbers in sorted_batches([len(each.split()) for each in sentences], 8):
            yield from chosen.encode([sentences[number] for number in numbers], **settings)

    return Contender(encode, _TOKENS, DEFAULT, eights)


def sorted_batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Numbers of sentences in batches of `size`, longest first."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def torch_words(network: Any, tokenizer: Any, device: str) -> Contender:
    """transformers' hidden states of all layers, pieces pooled to words by their mean: [L, T, D] a sentence."""

    @torch.inference_mode()
    def encode(sentences: Sequence[str], size: int) -> Iterator[np.ndarray]:
        words = [sentence.split() for sentence in sentences]
        for numbers in sorted_batches([*map(len, words)], size):
            chosen = [words[number] for number in numbers]
            batch = tokenizer(chosen, is_split_into_words=True, padding=True, return_tensors="pt")
            average = word_average(batch, [*map(len, chosen)]).to(device)
            batch = batch.to(device)
            layers = torch.stack(network(**batch, output_hidden_states=True).hidden_states)  # [L, B, S, D]
            vectors = (average @ layers).cpu().numpy()
            for row, each in enumerate(chosen):
                yield vectors[:, row, : len(each)]

    return Contender(encode)


def word_average(batch: Any, words: Sequence[int]) -> torch.Tensor:
    """[B, T, S]: the product with it takes the mean of each word's pieces; rows of zeros where there is no word."""
    rows, tokens = batch["input_ids"].shape
    average = torch.zeros(rows, max(words) + 1, tokens)
    word_of_token = [[-1 if word is None else word for word in batch.word_ids(row)] for row in range(rows)]
    average.scatter_(1, torch.tensor(word_of_token)[:, None] % average.shape[1], 1.0)  # -1: the last row, cut off
    average = average[:, :-1]
    return average / average.sum(-1, keepdim=True).clamp_min(1)


def torch_elmo(network: TorchBiLM, device: str, words: Mapping[str, int] | None = None) -> Contender:
    """Padded batches through the biLM of `torch_bilm.py`; with `words`, its tokens are looked up in their table."""

    @torch.inference_mode()
    def encode(sentences: Sequence[str], size: int) -> Iterator[np.ndarray]:
        split = [sentence.split() for sentence in sentences]
        for numbers in sorted_batches([*map(len, split)], size):
            chosen = [split[number] for number in numbers]
            ids = char_ids(chosen, network.model.max_characters) if words is None else word_ids(chosen, words)
            layers = network(torch.from_numpy(ids).long().to(device)).cpu().numpy()  # [L, B, T, D]
            for row, each in enumerate(chosen):
                yield layers[:, row, : len(each)]

    return Contender(encode)


def word_ids(sentences: Sequence[Sequence[str]], words: Mapping[str, int]) -> np.ndarray:
    """int32 [B, T + 2] with the markers, -1 where there is no token."""
    ids = np.full((len(sentences), max(map(len, sentences)) + 2), -1, np.int32)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence) + 2] = [words["<S>"], *map(words.__getitem__, sentence), words["</S>"]]
    return ids


@torch.inference_mode()
def word_table(network: TorchBiLM, words: Sequence[str]) -> torch.Tensor:
    """Token vectors [N, P] of <S>, </S> and the `words`."""
    ids = torch.from_numpy(char_ids([[word] for word in words], network.model.max_characters)).long()
    markers = ids[0, [0, 2]]
    return network.tokens(torch.cat([markers, ids[:, 1]]))


def elmo_networks(
    model: Any, looked_up: Any, params: Params, words: Sequence[str], device: str
) -> dict[str, Contender]:
    """torch's sides of a biLM: every word encoded, each distinct word of a batch once, token vectors looked up."""
    whole = {"encoder": params, "head": {"softmax": {"decoder": None}}}
    plain, dedup = (load_params(TorchBiLM(model, dedup=each), whole).eval() for each in (False, True))
    table = TorchBiLM(looked_up).eval()
    table.directions = plain.directions
    table.tokens.weight.data = word_table(plain, words)
    numbers = {word: number for number, word in enumerate(("<S>", "</S>", *words))}
    return {
        "torch fp32": torch_elmo(plain.to(device), device),
        "torch dedup fp32": torch_elmo(dedup.to(device), device),
        "torch fp32, words looked up": torch_elmo(table.to(device), device, numbers),
    }
