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

from ctx_jax.data.counter_rng import ONE, Purpose, draws
from ctx_jax.data.full_sentences import chase
from ctx_jax.data.packing import Rows, Units, blank, cut_units, place
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import SpecialIds, Tokens
from ctx_jax.io.errors import InputError

_LOOKED_AT = 64  # sentences of another document, for one that fits


class Pairs:
    """`begin A end B end`, from passages of neighbouring sentences of one document; the tokenizer says how many ends
    stand between, and what the type of B is (`vocabulary.pair_layout`).

    The text is cut once into passages that fill a row, or, a share `short` of them, a random part of one; two
    sentences at least where two fit. In each epoch a passage is split anew at a sentence's end into A and the rest (a
    lone sentence between two words), and by half of the draws

        next_sentence   B is not the rest but sentences of another document, from a random one on, as many as fit
        order           A and B change places (ALBERT)

    Differs from Devlin et al.'s script where an example must be found by its number alone: the rest that a random B
    took the place of waits for another epoch, instead of opening the next pair; and exactly half of the draws, not
    half and all lone sentences, are negatives, always of another document. A random B begins with the first of up to
    64 sentences that fits whole, since only negatives would end within a sentence; it is cut where none does. A passage
    of one token is left out.

    Adds `token_types` int32 [B, T] and, but for pairs="none", `next_sentence` int32 [B], 1 for a random or swapped B,
    and `next_sentence_weight` float32 [B].

    Raises:
        ValueError: rows too short for a token on each side; next_sentence with fewer than two documents; no passage
            of two tokens.
    """

    def __init__(self, tokens: Tokens, vocabulary: SpecialIds, config: SequenceConfig, seed: int) -> None:
        self._tokens, self._vocabulary, self._length = tokens, vocabulary, config.length
        self._layout = layout = vocabulary.pair_layout
        self._kind, self._seed = config.pairs, seed
        self._room = config.length - 2 - layout.separators
        if self._room < 2:
            raise InputError(
                f"pairs need rows of {4 + layout.separators} tokens or more, {2 + layout.separators} special ones and "
                f"one of each text, got {config.length}: set --sequences.length, or --sequences.first-length for the "
                "first phase"
            )
        bounds, document, first = cut_units(tokens, self._room)
        self._units = Units(*map(tokens.spill, (bounds, document, first)))
        if self._kind == "next_sentence" and len(first) < 3:
            raise InputError(
                "next-sentence pairs need at least two documents, and the text has one: separate documents by empty "
                "lines, or set --sequences.pairs order or none"
            )
        count = len(document)
        drawn = draws(seed, Purpose.PAIR_LENGTHS, np.zeros(1, int), np.zeros(1, int), 2 * count)[0].reshape(2, count)
        shorter = 2 + _below(drawn[1], np.full(count, self._room - 1))
        rooms = np.where(drawn[0] / ONE < config.short, shorter, self._room)
        # Where the passage that a unit opens ends: with what fits, or two sentences, or one.
        ends = np.searchsorted(bounds, bounds[:-1] + rooms, side="right") - 1
        second = np.minimum(np.arange(count) + 2, count)
        ends = np.where(bounds[second] - bounds[:-1] <= self._room, np.maximum(ends, second), ends)
        ends = np.minimum(np.maximum(ends, np.arange(count) + 1), first[document + 1])
        starts = chase(ends)
        keep = bounds[ends[starts]] - bounds[starts] > 1
        starts = starts[keep]
        self._starts, self._rooms, self._ends = map(tokens.spill, (starts, rooms[starts], ends[starts]))
        if not len(self._starts):
            raise InputError(
                "pairs need passages of at least two tokens, and the text has none: set --data.train, or a longer "
                "--sequences.length"
            )

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """As `packing.Layout` has them, with token types and labels; split and paired anew in each epoch."""
        drawn = draws(self._seed, Purpose.PAIR, epochs, examples, 4).T
        split = self._split(examples, drawn[0])
        bounds = self._units.bounds
        starts, ends = bounds[self._starts[examples]], bounds[self._ends[examples]]
        changed = (drawn[1] < ONE / 2) & (self._kind != "none")
        firsts, seconds = (starts, split), (split, ends)
        if self._kind == "order":
            firsts, seconds = (
                (np.where(changed, split, starts), np.where(changed, ends, split)),
                (np.where(changed, starts, split), np.where(changed, split, ends)),
            )
        elif self._kind == "next_sentence":
            other = self._elsewhere(examples, drawn[2], drawn[3], split)
            seconds = (np.where(changed, other[0], split), np.where(changed, other[1], ends))
        rows = self._lay(firsts, seconds)
        if self._kind != "none":
            rows["next_sentence"] = changed.astype(np.int32)
            rows["next_sentence_weight"] = np.ones(len(examples), np.float32)
        return rows

    def _split(self, examples: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """The token of the text at which B begins, int64 [B]."""
        bounds = self._units.bounds
        starts, ends = self._starts[examples], self._ends[examples]
        inner = ends - starts - 1
        split = bounds[starts + 1 + _below(draw, np.maximum(inner, 1))]
        for row in np.flatnonzero(inner == 0).tolist():
            begin, end = bounds[starts[row]], bounds[ends[row]]
            choices = np.flatnonzero(self._tokens.begins[begin + 1 : end])
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

    def _lay(self, firsts: tuple[np.ndarray, np.ndarray], seconds: tuple[np.ndarray, np.ndarray]) -> Rows:
        count = len(firsts[0])
        rows = blank(count, self._length, self._vocabulary.pad_id)
        ahead, behind = firsts[1] - firsts[0], seconds[1] - seconds[0]
        cells = np.arange(count) * self._length
        place(rows, self._tokens, cells + 1, firsts[0], ahead)
        separators = self._layout.separators
        second = 1 + ahead + separators  # B's first column
        place(rows, self._tokens, cells + second, seconds[0], behind)
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
