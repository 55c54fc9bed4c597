"""The types of batches, one for each kind of training data.

A batch is a NamedTuple of numpy arrays, and so a pytree; fields that do not apply are None.
Letters: B rows, T tokens, C characters, K predicted positions of a row.
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any
"""A numpy array on the host, a jax array inside a step."""


class Batch(NamedTuple):
    """One fixed-shape batch of this process's rows, and the position in the data after it."""

    arrays: Any  # a BiLMBatch, MaskedBatch, CausalBatch, LabelBatch or another pytree of arrays with leading axis B
    position: dict[str, np.ndarray]


class BiLMBatch(NamedTuple):
    """The next T steps of B streams of sentences, read in both directions.

    text       the cat . | a dog
    forward    <S> the cat .    <S> a   dog       inputs
               the cat .   </S> a   dog </S>      targets
    backward   </S> .   cat the  </S> dog a       inputs
               .   cat the <S>   dog  a   <S>     targets
    """

    forward_inputs: Array  # char_ids int32 [B, T, C] (0: no character), or rows of the word table int32 [B, T]
    backward_inputs: Array
    forward_targets: Array  # int32 [B, T], ids of the vocabulary
    backward_targets: Array
    rows: Array = None  # int32 [B], the rows' numbers among all processes' rows, which seed dropout; None: 0..B-1
    weights: Array = None  # float32 [B, T], 0 where a target does not count; None: 1 everywhere


class TokenRows(NamedTuple):
    """Rows of T tokens, as a Transformer reads them."""

    token_ids: Array  # int32 [B, T]
    mask: Array = None  # bool [B, T], True at real tokens; None: True everywhere
    lengths: Array = None  # int32 [B], the number of real tokens if all padding is at the end: faster than `mask`
    positions: Array = None  # int32 [B, T], rows of the position table
    segments: Array = None  # int32 [B, T], the number of the packed example, 0 at padding
    token_types: Array = None  # int32 [B, T], 0 and 1 of a pair
    rows: Array = None  # int32 [B], the rows' numbers among all processes' rows, which seed dropout; None: 0..B-1


class MaskedBatch(NamedTuple):
    """Rows with masked tokens.

    text                 the cat sat on the mat .
    tokens.token_ids     [CLS] the [MASK] sat on  the [MASK] . [SEP]
    predicted_positions  2 6 0        predicted_ids  cat mat -        predicted_weights  1 1 0
    """

    tokens: TokenRows
    predicted_positions: Array  # int32 [B, K]
    predicted_ids: Array  # int32 [B, K], the original tokens
    predicted_weights: Array  # float32 [B, K], 0 where a row has fewer than K
    next_sentence: Array = None  # int32 [B], 1 for a random or swapped second text
    next_sentence_weights: Array = None  # float32 [B]


class LabelBatch(NamedTuple):
    """Texts, or the words of sentences, with their labels."""

    inputs: dict[str, Any]  # of the encoder, or its stored vectors (`embedding.vector_cache`)
    labels: Array  # int32 [B], or [B, T] for words
    weights: Array  # float32, like labels: 0 at padding
    rows: Array  # int32 [B], the rows' numbers among all processes' rows, which seed dropout
    lengths: Array  # int32 [B], the tokens that the encoder or the head reads in each row


class CausalBatch(NamedTuple):
    """Rows with the next token as the target of each token."""

    tokens: TokenRows
    next_token_ids: Array  # int32 [B, T]
    weights: Array = None  # float32 [B, T], 0 where a target does not count; None: 1 everywhere
