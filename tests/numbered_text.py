"""A text whose tokens are their own numbers, so that a test can tell from an id where it stood."""

import numpy as np

from ctx_jax.data.tokens import Tokens
from ctx_jax.tokenizers.templates import PairLayout

BERT_PAIR = PairLayout(1, 1)


class Names:
    """Special tokens 0 to 4: padding, unknown, begin, end, mask."""

    pad_id, begin_id, end_id, mask_id = 0, 2, 3, 4
    special_ids = frozenset(range(5))

    def __init__(self, size: int = 9000, pair_layout: PairLayout = BERT_PAIR) -> None:
        self.size, self.pair_layout = size, pair_layout

    def __len__(self) -> int:
        return self.size


def corpus(documents: int = 12, longest: int = 14, seed: int = 0) -> Tokens:
    """Every token is different: token t of the text has the id t + 5. Words have one or two pieces."""
    draw = np.random.default_rng(seed)
    sentences = draw.integers(1, 9, documents)
    lengths = draw.integers(1, longest, sentences.sum())
    total = lengths.sum()
    offsets = np.append(0, np.cumsum(lengths))
    begins = (draw.random(total) < 0.7).astype(np.uint8)
    begins[offsets[:-1]] = 1
    return Tokens(np.arange(5, total + 5), begins, offsets, np.cumsum(sentences) - sentences)
