"""Sentences with a masked word, and what a model would put there.

Letters: B rows, T tokens, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.sentence_streams import SentenceSource
from ctx_jax.encoders.transformer.model import Transformer, head_logits, last_hidden
from ctx_jax.evaluation.pseudo_perplexity import gap_rows
from ctx_jax.tokenizers.subwords import Pieces, Subwords

SHOWN = 6  # sentences whose gaps are filled
SHORTEST, LONGEST = 6, 18  # words of such a sentence
_FILLED = ("token_ids", "mask", "predicted_positions")


def show_filled(
    model: Transformer,
    params: Any,
    subwords: Subwords,
    sentences: SentenceSource,
    *,
    length: int,
    top: int = 4,
) -> str:
    """A printable page: sentences with one word masked, and what the model would put there with which probability.

    Of the sentences (lists of words) those that fit are read, evenly spread, `SHOWN` of them; the masked word has
    four letters or more, in one piece. `length` is T, one shape to compile.

        the masked word of a sentence, and the likeliest fillings
          Return the [MASK] of the file .
            size: name 0.41, size 0.22, contents 0.07, end 0.03
    """
    gaps = _sentences_with_gap(subwords, sentences, length)
    if not gaps:
        return "no sentence short enough to fill a masked word in"
    arrays = gap_rows([gap for _, _, gap in gaps], length, SHOWN, subwords)
    scores = np.array(_fill(model, params, {name: arrays[name] for name in _FILLED}))
    lines = ["the masked word of a sentence, and the likeliest fillings"]
    special = sorted(subwords.special_ids)
    for row, (words, word, _) in enumerate(gaps):
        scores[row, special] = 0.0
        best = np.argsort(-scores[row], kind="stable")[:top].tolist()
        filled = ", ".join(f"{subwords.decode([number]).strip()} {scores[row, number]:.2f}" for number in best)
        shown = (*words[:word], subwords.special.mask or "", *words[word + 1 :])
        lines += [f"  {' '.join(shown)}", f"    {words[word]}: {filled}"]
    return "\n".join(lines)


def _probabilities(model: Transformer, params: Any, arrays: Mapping[str, jax.Array]) -> jax.Array:
    """float32 [B, V] at the one predicted position of each row."""
    hidden = last_hidden(model, params, arrays["token_ids"], mask=arrays["mask"])
    chosen = jnp.take_along_axis(hidden, arrays["predicted_positions"][:, :, None], axis=1)
    return jax.nn.softmax(head_logits(model, params, chosen)[:, 0], axis=-1)


_fill = jax.jit(_probabilities, static_argnums=0)


def _sentences_with_gap(
    subwords: Subwords, sentences: SentenceSource, length: int
) -> list[tuple[Sequence[str], int, tuple[np.ndarray, int]]]:
    """(words, the masked word's number, (ids, its place)) of up to `SHOWN` sentences."""
    found: list[tuple[Sequence[str], int, tuple[np.ndarray, int]]] = []
    step = max(len(sentences) // (40 * SHOWN), 1)
    for start in range(0, len(sentences), step):
        words = sentences[start]
        if not SHORTEST <= len(words) <= LONGEST or any(list(words) == list(known) for known, _, _ in found):
            continue
        pieces = subwords.tokenize_words([words])[0]
        ids, word = subwords.add_special_tokens(pieces.ids), _middle(words, pieces)
        if word is None or len(ids) > length:
            continue
        found.append((words, word, (ids, len(subwords.before) + int(np.searchsorted(pieces.words, word)))))
    chosen = np.linspace(0, len(found) - 1, min(SHOWN, len(found))).round().astype(int).tolist()
    return [found[place] for place in chosen]


def _middle(words: Sequence[str], pieces: Pieces) -> int | None:
    """The word nearest to the middle that has four letters or more and is one piece."""
    single = np.bincount(pieces.words, minlength=len(words)) == 1
    fit = [number for number, word in enumerate(words) if single[number] and len(word) > 3 and word.isalpha()]
    return min(fit, key=lambda number: abs(number - len(words) // 2), default=None)
