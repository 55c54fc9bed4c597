"""Pairs of texts with token types (BERT), and the label of the second one.

T = 12; the text's next sentence (label 0), or one of another document (label 1):

    words    [CLS] the  cat  sat  [SEP] it   slept [SEP] .    .    .    .         label 0
    types    0     0    0    0    0     1    1     1     0    0    0    0

    words    [CLS] the  cat  sat  [SEP] two  of    four  is   [SEP] .    .         label 1
    types    0     0    0    0    0     1    1     1     1    1     0    0

With the tokens of a family that puts two ends between (RoBERTa), as its tokenizer's template says:

    words    <s>   the  cat  sat  </s>  </s>  it   slept </s>  .    .    .         label 0
    types    0     0    0    0    0     0     1    1     1     0    0    0

Letters: B rows, T tokens, U units.
"""

import numpy as np

from ctx_jax.data.counter_rng import ONE, Purpose, random_uint32
from ctx_jax.data.full_sentences import follow
from ctx_jax.data.packing import Index, Layout, Rows, Text, Units, cut_units, empty_rows, write_tokens
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tokenizers.subwords import Subwords

_LOOKED_AT = 64  # sentences of another document, for one that fits


class Pairs(Layout):
    """`begin A end B end`, from passages of neighbouring sentences of one document; the tokenizer says how many ends
    stand between, and what the type of B is (`vocabulary.pair_layout`).

    The text is cut once into passages that fill a row, or, a share `short_sequence_probability` of them, a random part
    of one; two sentences at least where two fit. In each epoch a passage is split anew at a sentence's end into A and
    the rest (a lone sentence between two words), and with probability 1/2

        next_sentence   B is not the rest but sentences of another document, from a random one on, as many as fit
        order           A and B change places (ALBERT)

    Differs from Devlin et al.'s script, since an example must be found by its number alone: the rest that a random B
    replaces waits for another epoch, instead of opening the next pair; and a half of the pairs, not a half and all lone
    sentences, are negatives, always of another document. A random B begins with the first of up to
    64 sentences that fits whole, since only negatives would end within a sentence; it is cut where none does. A passage
    of one token is left out.

    Adds `token_types` int32 [B, T] and, but for pair_label="none", `next_sentence` int32 [B], 1 for a random or swapped
    B, and `next_sentence_weights` float32 [B].

    Raises:
        ValueError: rows too short for a token on each side; next_sentence with fewer than two documents; no passage
            of two tokens.
    """

    ARRAYS = ("bounds", "document", "first", "starts", "rooms", "ends")  # `Units`; of passages, in units and tokens

    @staticmethod
    def build_index(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> Index:
        """See `Layout`."""
        separators = vocabulary.pair_layout.separators
        room = config.length - 2 - separators
        if room < 2:
            raise ConfigError(
                "sequences.length",
                f"must be at least {4 + separators} for pairs, {2 + separators} special tokens and one of each text, "
                f"got {config.length} (a length schedule's is sequences.short_length)",
            )
        bounds, document, first = cut_units(tokens, room)
        if config.pair_label == "next_sentence" and len(first) < 3:
            raise ConfigError(
                "sequences.pair_label",
                "next_sentence needs at least two documents, and the text has one: separate documents by empty lines, "
                "or set order or none",
            )
        count, zero = len(document), np.zeros(1, int)
        drawn = random_uint32(seed, Purpose.PAIR_LENGTHS, zero, zero, 2 * count)[0].reshape(2, count)
        shorter = 2 + _below(drawn[1], np.full(count, room - 1))
        rooms = np.where(drawn[0] / ONE < config.short_sequence_probability, shorter, room)
        # Where the passage that a unit opens ends: with what fits, or two sentences, or one.
        ends = np.searchsorted(bounds, bounds[:-1] + rooms, side="right") - 1
        second = np.minimum(np.arange(count) + 2, count)
        ends = np.where(bounds[second] - bounds[:-1] <= room, np.maximum(ends, second), ends)
        ends = np.minimum(np.maximum(ends, np.arange(count) + 1), first[document + 1])
        starts = follow(ends)
        keep = bounds[ends[starts]] - bounds[starts] > 1
        starts = starts[keep]
        if not len(starts):
            raise InputError(
                "pairs need passages of at least two tokens, and the text has none: set data.train, or a longer "
                "sequences.length"
            )
        passages = {"starts": starts, "rooms": rooms[starts], "ends": ends[starts]}
        return {"bounds": bounds, "document": document, "first": first, **passages}

    def __init__(self, text: Text, index: Index, vocabulary: Subwords, config: SequenceConfig, seed: int) -> None:
        self._text, self._vocabulary, self._length = text, vocabulary, config.length
        self._layout, self._label, self._seed = vocabulary.pair_layout, config.pair_label, seed
        self._units = Units(index["bounds"], index["document"], index["first"])
        self._starts, self._rooms, self._ends = index["starts"], index["rooms"], index["ends"]

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """As `Layout` has them, with token types and labels; split and paired anew in each epoch."""
        drawn = random_uint32(self._seed, Purpose.PAIR, epochs, examples, 4).T
        split = self._split(examples, drawn[0])
        bounds = self._units.bounds
        starts, ends = bounds[self._starts[examples]], bounds[self._ends[examples]]
        changed = (drawn[1] < ONE / 2) & (self._label != "none")
        firsts, seconds = (starts, split), (split, ends)
        if self._label == "order":
            firsts, seconds = (
                (np.where(changed, split, starts), np.where(changed, ends, split)),
                (np.where(changed, starts, split), np.where(changed, split, ends)),
            )
        elif self._label == "next_sentence":
            other = self._elsewhere(examples, drawn[2], drawn[3], split)
            seconds = (np.where(changed, other[0], split), np.where(changed, other[1], ends))
        rows = self._joined(firsts, seconds)
        if self._label != "none":
            rows["next_sentence"] = changed.astype(np.int32)
            rows["next_sentence_weights"] = np.ones(len(examples), np.float32)
        return rows

    def _split(self, examples: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """The token of the text at which B begins, int64 [B]."""
        bounds = self._units.bounds
        starts, ends = self._starts[examples], self._ends[examples]
        inner = ends - starts - 1
        split = bounds[starts + 1 + _below(draw, np.maximum(inner, 1))]
        for row in np.flatnonzero(inner == 0).tolist():
            begin, end = bounds[starts[row]], bounds[ends[row]]
            choices = np.flatnonzero(self._text.begins[begin + 1 : end])
            if not len(choices):  # one word: between two of its pieces
                choices = np.arange(end - begin - 1)
            split[row] = begin + 1 + choices[_below(draw[row : row + 1], np.array([len(choices)]))[0]]
        return split

    def _elsewhere(
        self, examples: np.ndarray, of_document: np.ndarray, of_unit: np.ndarray, split: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the sentences of another document begin and end, that fit beside each A; int64 [B] each."""
        bounds, document, first = self._units
        starts, ends = self._starts[examples], self._ends[examples]
        room = np.maximum(self._rooms[examples], bounds[ends] - bounds[starts]) - (split - bounds[starts])
        own = document[starts]
        other = _below(of_document, np.full(len(own), len(first) - 2))
        other += other >= own
        unit = first[other] + _below(of_unit, first[other + 1] - first[other])
        self._move_to_fitting(unit, first[other + 1], room)
        stop = np.searchsorted(bounds, bounds[unit] + room, side="right") - 1
        stop = np.minimum(np.maximum(stop, unit + 1), first[other + 1])
        return bounds[unit], np.minimum(bounds[stop], bounds[unit] + room)

    def _move_to_fitting(self, units: np.ndarray, ends: np.ndarray, room: np.ndarray) -> None:
        """Moves units that are longer than their room on to the next one of their document that is not."""
        bounds = self._units.bounds
        for row in np.flatnonzero(bounds[units + 1] - bounds[units] > room).tolist():
            lengths = np.diff(bounds[units[row] : min(ends[row], units[row] + _LOOKED_AT) + 1])
            fitting = np.flatnonzero(lengths <= room[row])
            units[row] += fitting[0] if len(fitting) else 0

    def _joined(self, firsts: tuple[np.ndarray, np.ndarray], seconds: tuple[np.ndarray, np.ndarray]) -> Rows:
        count = len(firsts[0])
        rows = empty_rows(count, self._length, self._vocabulary.pad_id)
        ahead, behind = firsts[1] - firsts[0], seconds[1] - seconds[0]
        cells = np.arange(count) * self._length
        write_tokens(rows, self._text, cells + 1, firsts[0], ahead)
        separators = self._layout.separators
        second = 1 + ahead + separators  # B's first column
        write_tokens(rows, self._text, cells + second, seconds[0], behind)
        ids = rows["token_ids"]
        ids[:, 0] = self._vocabulary.begin_id
        for column in (*(1 + ahead + end for end in range(separators)), second + behind):
            ids[np.arange(count), column] = self._vocabulary.end_id
        columns = np.arange(self._length, dtype=np.int32)
        rows["mask"] = columns < (1 + second + behind)[:, None]
        rows["positions"] = np.where(rows["mask"], columns, 0).astype(np.int32)
        inside = rows["mask"] & (columns >= second[:, None])
        rows["token_types"] = inside.astype(np.int32) * np.int32(self._layout.second_type)
        return rows


def _below(draw: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Draws (uint32) as numbers from 0 to limit - 1, int64."""
    return (draw.astype(np.uint64) * limits.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
