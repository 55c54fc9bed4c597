"""Dynamic masking: which positions of a row are predicted, and which tokens replace them.

A row of seven words, masked by whole words at mask_rate 0.3; `##` continues a word, K = 4:

    words       [CLS] the  em    ##bed ##ding of   a     word  [SEP]
    ids         2     10   11    12    13     14   15    16    3
    begins      1     1    1     0     0      1    1     1     1
    token_ids   2     10   4     4     71     14   15    16    3        4 is [MASK], 71 a random token

    predicted_positions   2  3  4  0
    predicted_ids         11 12 13 0
    predicted_weights     1  1  1  0

Letters: B rows, T tokens, K predicted positions of a row, V vocabulary.
"""

import numpy as np

from ctx_jax.data.counter_rng import ONE, Purpose, random_uint32
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.subwords import Subwords

_NEVER = np.uint64(2**64 - 1)


class Masking:
    """Masks rows differently in each epoch, depending on (seed, epoch, example) alone.

    Of a row's n ordinary tokens, count = floor(mask_rate x n + U(0, 1)) are predicted (RoBERTa), at most K. Special
    tokens, padding and unknown words included, are never predicted and never used as random tokens. With masking
    "words", a word that the count would cut is predicted or left out as a whole, with the probability that keeps the
    expected count; it is left out if it does not fit in K. Spans (SpanBERT) consist of whole words and have geometric
    lengths; they do not cross special tokens, and the last one is cut at the count. A span is drawn by its first word,
    so the first words of a text are predicted less often than later ones.
    """

    def __init__(self, config: SequenceConfig, vocabulary: Subwords, seed: int) -> None:
        """Raises ConfigError for a vocabulary without a mask token or without ordinary tokens."""
        ids, size = vocabulary.special_ids, len(vocabulary)
        self._special = np.zeros(size, bool)
        self._special[sorted(ids)] = True
        self._ordinary = np.flatnonzero(~self._special).astype(np.int32)
        if not len(self._ordinary):
            raise ConfigError(
                "tokenizer.file",
                f"must hold ordinary tokens to predict, and its {size} are all special: set another, or none to train "
                "a tokenizer",
            )
        self._config, self._mask, self._seed = config, vocabulary.mask_id, seed
        shares = (1 - 1 / config.span_mean) ** np.arange(config.span_longest)  # of spans of 1, 2, ... words
        self._spans = np.cumsum(shares / shares.sum())[:-1]

    def __call__(
        self, token_ids: np.ndarray, begins: np.ndarray, epochs: np.ndarray, examples: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Mask rows int32 [B, T]; `begins`, bool [B, T], is True at the first token of each word.

        Returns `token_ids` (a new array), `predicted_positions` and `predicted_ids`, int32 [B, K] in the order of the
        row, and `predicted_weights`, float32 [B, K], 1 at predictions. Unused places of the K are 0.
        """
        most, length = self._config.predictions_per_row, token_ids.shape[1]
        numbers = random_uint32(self._seed, Purpose.MASKING, epochs, examples, 2 + 2 * length + 2 * most)
        firsts, scores, lengths, kinds, others = np.split(
            numbers, np.cumsum([2, length, length, most]).tolist(), axis=1
        )
        special = self._special[token_ids]
        order, count = self._choose(special, begins, scores, lengths, firsts)
        chosen = np.arange(most) < count[:, None]  # [B, K]
        positions = np.sort(np.where(chosen, order[:, :most], length), axis=1)
        chosen = positions < length
        positions[~chosen] = 0
        predicted = np.where(chosen, np.take_along_axis(token_ids, positions, axis=1), 0)
        masked = kinds < np.uint64(round(self._config.mask_token_probability * ONE))
        changed_share = self._config.mask_token_probability + self._config.random_token_probability
        kept = kinds >= np.uint64(round(changed_share * ONE))
        drawn = self._ordinary[(others.astype(np.uint64) * np.uint64(len(self._ordinary))) >> np.uint64(32)]
        instead = np.where(masked, self._mask, np.where(kept, predicted, drawn))
        changed = token_ids.astype(np.int32)
        changed[np.nonzero(chosen)[0], positions[chosen]] = instead[chosen]
        return {
            "token_ids": changed,
            "predicted_positions": positions.astype(np.int32),
            "predicted_ids": predicted.astype(np.int32),
            "predicted_weights": chosen.astype(np.float32),
        }

    def _choose(
        self, special: np.ndarray, begins: np.ndarray, scores: np.ndarray, lengths: np.ndarray, firsts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the order of preference, int64 [B, T], and how many of them are predicted, int64 [B]."""
        first = begins | special | (self._config.masking == "tokens")  # tokens that begin what is masked as a whole
        first[:, 1:] |= special[:, :-1]
        first[:, 0] = True
        words = np.cumsum(first, axis=1) - 1  # each token's word in its row
        if self._config.masking == "spans":
            scores = self._spread(special, words, scores, lengths)
        scores = np.take_along_axis(scores, words, axis=1)
        # Sorting combined keys is several times faster than argsort; ties go to the earlier position.
        size = special.shape[1]
        keys = scores.astype(np.uint64) << np.uint64(32) | np.arange(size, dtype=np.uint64)
        keys[special] = _NEVER
        keys.sort(axis=1)
        order = keys.astype(np.uint32).astype(np.int64)
        free = size - special.sum(axis=1)
        wanted = (self._config.mask_rate * free + firsts[:, 0] / ONE).astype(np.int64)
        count = np.minimum(np.minimum(wanted, free), self._config.predictions_per_row)
        if self._config.masking == "words":
            count = self._whole(words, order, free, count, firsts[:, 1])
        return order, count

    def _whole(
        self, words: np.ndarray, order: np.ndarray, free: np.ndarray, count: np.ndarray, draw: np.ndarray
    ) -> np.ndarray:
        """The count, moved to either end of the word that it would cut."""
        rank = np.arange(order.shape[1])
        real = rank < free[:, None]
        by_rank = np.take_along_axis(words, np.where(real, order, 0), axis=1)
        last = np.take_along_axis(by_rank, np.maximum(count - 1, 0)[:, None], axis=1)
        same = (by_rank == last) & real
        inside = (same & (rank < count[:, None])).sum(axis=1)
        whole = same.sum(axis=1)
        grown = count - inside + whole
        taken = (draw / ONE * whole < inside) & (grown <= self._config.predictions_per_row)
        return np.where(taken, grown, count - inside)

    def _spread(self, special: np.ndarray, words: np.ndarray, scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """For each word, [B, T]: the lowest score of the spans that cover it. One span begins at each word."""
        rows = np.arange(len(words))[:, None]
        ends = np.zeros(words.shape, np.int64)  # for each word: the number of special tokens up to and including it
        ends[rows, words] = np.cumsum(special, axis=1)
        reach = np.searchsorted(self._spans, lengths / ONE, side="right") + 1
        reach[np.nonzero(special)[0], words[special]] = 0
        best = scores.copy()
        for back in range(1, self._config.span_longest):
            covers = (reach[:, :-back] > back) & (ends[:, :-back] == ends[:, back:])
            best[:, back:] = np.where(covers, np.minimum(best[:, back:], scores[:, :-back]), best[:, back:])
        return best
