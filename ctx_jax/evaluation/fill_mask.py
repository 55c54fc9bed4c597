"""The tokens that a masked language model predicts for mask tokens.

Letters: B rows, T tokens, K masked tokens of a row, D width, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.data.sentence_streams import SentenceSource
from ctx_jax.encoders.base import checked, rounded
from ctx_jax.encoders.transformer import Transformer, last_hidden
from ctx_jax.encoders.transformer.inputs import tokenize
from ctx_jax.heads import Head, VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subwords import Pieces, Subwords
from ctx_jax.typing import Params

Fillings = list[tuple[str, float]]  # (token, probability), the likeliest first

BATCH_SIZE = 32
SHOWN = 6  # sentences in a report
SHORTEST, LONGEST = 6, 18  # words of a sentence in a report


def fill_mask(encoder: Any, sentences: Sequence[str] | Sequence[Sequence[str]], top: int = 5) -> list[list[Fillings]]:
    """The likeliest tokens at the mask tokens of sentences, by a masked language model.

        encoder = ctx_jax.load("bert-base-uncased")
        fill_mask(encoder, ["Paris is the [MASK] of France."], top=2)
        # [[[("capital", 0.997), ("heart", 0.001)]]]

    Args:
      encoder: a loaded Transformer with a "masked_lm" head.
      sentences: strings or lists of words, with the tokenizer's own mask token ("[MASK]", "<mask>") in them.
      top: the number of tokens for each mask.

    Returns:
      for each sentence, for each of its masks in order, the `top` likeliest (token, probability). Special tokens are
      left out; a token is given as text, without its tokenizer's markers such as "##".

    Raises:
      InputError: an encoder without a masked-LM head, a sentence without a mask token or longer than the model's
        positions; InputTypeError as `encoder.tokenize`.
    """
    head = encoder.heads.get("masked_lm")
    if head is None:
        raise InputError(f"fill_mask needs an encoder with a masked_lm head, this one has {sorted(encoder.heads)}")
    subwords, longest = encoder.processor.subwords, encoder.model.longest
    rows = [subwords.add_special_tokens(ids) for ids in tokenize(subwords, checked(sentences))]
    for number, ids in enumerate(rows):
        if subwords.mask_id not in ids:
            raise InputError(f"sentence {number} has no mask token, {subwords.special.mask}: put one into it")
        if len(ids) > longest:
            raise InputError(
                f"sentence {number} has {len(ids)} tokens, the model's positions hold {longest}: shorten it"
            )
    return _fillings(encoder.model, encoder.params, head, subwords, rows, top)


def filled_page(
    model: Transformer, params: Params, head: Head, subwords: Subwords, sentences: SentenceSource, *, top: int = 4
) -> str:
    """A text to print: up to `SHOWN` sentences with one word masked, and the model's predictions for that word.

    `params` are the encoder's, `head` its masked-LM head. The sentences shown are spread evenly over `sentences`; the
    masked word has at least four letters and is a single piece.

        the masked word of a sentence, and the likeliest fillings
          Return the [MASK] of the file .
            size: name 0.41, size 0.22, contents 0.07, end 0.03
    """
    chosen = _sentences_to_mask(subwords, sentences, model.longest)
    if not chosen:
        return "no sentence is short enough to mask a word of it"
    fillings = _fillings(model, params, head, subwords, [ids for _, _, ids in chosen], top)
    lines = ["the masked word of a sentence, and the likeliest fillings"]
    for (words, masked, _), (best,) in zip(chosen, fillings, strict=True):
        shown = (*words[:masked], subwords.special.mask or "", *words[masked + 1 :])
        filled = ", ".join(f"{token} {probability:.2f}" for token, probability in best)
        lines += [f"  {' '.join(shown)}", f"    {words[masked]}: {filled}"]
    return "\n".join(lines)


def _fillings(
    model: Transformer, params: Params, head: Head, subwords: Subwords, rows: Sequence[np.ndarray], top: int
) -> list[list[Fillings]]:
    """`fill_mask` for rows of token ids that contain masks and special tokens."""
    special, found = sorted(subwords.special_ids), list[list[Fillings]]()
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        places = [np.flatnonzero(ids == subwords.mask_id) for ids in batch]
        # Sizes are rounded up, so that few shapes are compiled.
        length = min(rounded(max(map(len, batch))), model.longest)
        height, masks = (1 << (size - 1).bit_length() for size in (len(batch), max(map(len, places))))
        ids, mask = np.full((height, length), subwords.pad_id, np.int32), np.zeros((height, length), bool)
        positions = np.zeros((height, masks), np.int32)
        for row, (text, masked) in enumerate(zip(batch, places, strict=True)):
            ids[row, : len(text)], mask[row, : len(text)], positions[row, : len(masked)] = text, True, masked
        scores = np.array(_probabilities(model, head.module, params, head.params, ids, mask, positions))
        scores[:, :, special] = 0.0
        scores[:, :, len(subwords) :] = 0.0  # rows of the model without a token
        for row, masked in enumerate(places):
            found.append([_likeliest(subwords, scores[row, number], top) for number in range(len(masked))])
    return found


def _likeliest(subwords: Subwords, scores: np.ndarray, top: int) -> Fillings:
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return [(subwords.decode([token]).strip(), float(scores[token])) for token in best]


@partial(jax.jit, static_argnums=(0, 1))
def _probabilities(
    model: Transformer,
    head: VocabularyHead,
    params: Params,
    head_params: Params,
    token_ids: jax.Array,
    mask: jax.Array,
    positions: jax.Array,
) -> jax.Array:
    """float32 [B, K, V] at `positions` [B, K] of `token_ids` [B, T]."""
    hidden = last_hidden(model, params, token_ids, mask=mask)
    chosen = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)  # [B, K, D]
    table = params["embeddings"]["tokens"] if head.tied else None
    return jax.nn.softmax(head.logits(head_params, chosen, table, compute=model.compute), axis=-1)


def _sentences_to_mask(
    subwords: Subwords, sentences: SentenceSource, longest: int
) -> list[tuple[Sequence[str], int, np.ndarray]]:
    """Up to `SHOWN` of (words, number of the masked word, token ids with the mask and special tokens)."""
    found: list[tuple[Sequence[str], int, np.ndarray]] = []
    step = max(len(sentences) // (40 * SHOWN), 1)
    for start in range(0, len(sentences), step):
        words = sentences[start]
        if not SHORTEST <= len(words) <= LONGEST or any(list(words) == list(known) for known, _, _ in found):
            continue
        pieces = subwords.tokenize_words([words])[0]
        masked = _middle_word(words, pieces)
        if masked is None or len(pieces.ids) + len(subwords.before) + len(subwords.after) > longest:
            continue
        ids = np.where(pieces.words == masked, np.int32(subwords.mask_id), pieces.ids)
        found.append((words, masked, subwords.add_special_tokens(ids)))
    chosen = np.linspace(0, len(found) - 1, min(SHOWN, len(found))).round().astype(int).tolist()
    return [found[number] for number in chosen]


def _middle_word(words: Sequence[str], pieces: Pieces) -> int | None:
    """The number of the word nearest to the middle that has at least four letters and is a single piece."""
    single = np.bincount(pieces.words, minlength=len(words)) == 1
    suitable = [number for number, word in enumerate(words) if single[number] and len(word) > 3 and word.isalpha()]
    return min(suitable, key=lambda number: abs(number - len(words) // 2), default=None)
