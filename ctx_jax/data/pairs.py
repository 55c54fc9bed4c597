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
from ctx_jax.data.packing import Index, Layout, Rows, cut_units, empty_rows, write_tokens
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tokenizers.subwords import Subwords

_LOOKED_AT = 64  # sentences of another document, for one that fits


class Pairs(Layout):
    """`begin A end B end`, from passages of neighbouring sentences of one document; the tokenizer says how many ends
    stand between, and what the type of B is (`vocabulary.pair_layout`).

    The text is cut once into passages that fill a row or, `short_sequence_probability` of them, a random part of one;
    two sentences at least where two fit. In each epoch a passage is split anew at a sentence's end into A and the rest
    (a lone sentence between two words), and with probability 1/2

        next_sentence   B is not the rest but sentences of another document, from a random one on, as many as fit
        order           A and B change places (ALBERT)

    Differs from Devlin et al.'s script, since an example must be found by its number alone: the rest that a random B
    replaces waits for another epoch instead of opening the next pair, and half of all pairs are negatives (not half and
    all lone sentences), always of another document. A random B begins with the first of up to 64 sentences that fits
    whole (cut where none does), else only negatives would end within a sentence. Passages of one token are left out.

    Adds `token_types` int32 [B, T] and, but for pair_label="none", `next_sentence` int32 [B], 1 for a random or swapped
    B, and `next_sentence_weights` float32 [B].
    """

    ARRAYS = ("bounds", "document", "first", "starts", "rooms", "ends")  # `Units`; of passages, in units and tokens

    @staticmethod
    def build_index(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> Index:
        """See `Layout`. ConfigError also for next_sentence with fewer than two documents."""
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
        shorter = 2 + _below(drawn[1], room - 1)
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

    def __len__(self) -> int:
        return len(self.index["starts"])

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """As `Layout` has them, with token types and labels; split and paired anew in each epoch."""
        bounds, label = self.index["bounds"], self.config.pair_label
        draws = random_uint32(self.seed, Purpose.PAIR, epochs, examples, 4).T  # of split, label, document and unit
        starts, ends = bounds[self.index["starts"][examples]], bounds[self.index["ends"][examples]]
        split = self._split(examples, draws[0])
        first, second = np.array([starts, split]), np.array([split, ends])  # [2, B]: begin and end of A, of B
        changed = draws[1] < ONE / 2
        if label == "order":
            first, second = np.where(changed, second, first), np.where(changed, first, second)
        elif label == "next_sentence":
            second = np.where(changed, self._elsewhere(examples, draws[2], draws[3], split - starts), second)
        rows = self._joined(first, second)
        if label != "none":
            rows["next_sentence"] = changed.astype(np.int32)
            rows["next_sentence_weights"] = np.ones(len(examples), np.float32)
        return rows

    def _split(self, examples: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """The token of the text at which B begins, int64 [B]."""
        bounds = self.index["bounds"]
        starts, ends = self.index["starts"][examples], self.index["ends"][examples]
        inner = ends - starts - 1
        split = bounds[starts + 1 + _below(draw, np.maximum(inner, 1))]
        for row in np.flatnonzero(inner == 0).tolist():
            begin, end = bounds[starts[row]], bounds[ends[row]]
            choices = np.flatnonzero(self.text.begins[begin + 1 : end])
            if not len(choices):  # one word: between two of its pieces
                choices = np.arange(end - begin - 1)
            split[row] = begin + 1 + choices[_below(draw[row], len(choices))]
        return split

    def _elsewhere(
        self, examples: np.ndarray, document_draw: np.ndarray, unit_draw: np.ndarray, taken: np.ndarray
    ) -> np.ndarray:
        """Begin and end of sentences of another document that fit beside an A of `taken` tokens, int64 [2, B]."""
        bounds, first = self.index["bounds"], self.index["first"]
        starts, ends = self.index["starts"][examples], self.index["ends"][examples]
        room = np.maximum(self.index["rooms"][examples], bounds[ends] - bounds[starts]) - taken
        other = _below(document_draw, len(first) - 2)
        other += other >= self.index["document"][starts]
        unit, after = first[other], first[other + 1]
        unit = unit + _below(unit_draw, after - unit)
        for row in np.flatnonzero(bounds[unit + 1] - bounds[unit] > room).tolist():  # on to one that fits
            lengths = np.diff(bounds[unit[row] : min(after[row], unit[row] + _LOOKED_AT) + 1])
            unit[row] += np.argmax(lengths <= room[row])  # by 0 where none does
        stop = np.searchsorted(bounds, bounds[unit] + room, side="right") - 1
        stop = np.minimum(np.maximum(stop, unit + 1), after)
        return np.array([bounds[unit], np.minimum(bounds[stop], bounds[unit] + room)])

    def _joined(self, first: np.ndarray, second: np.ndarray) -> Rows:
        """Rows of A and B, given where they begin and end in the text."""
        count, length, layout = first.shape[1], self.config.length, self.vocabulary.pair_layout
        rows = empty_rows(count, length, self.vocabulary.pad_id)
        ahead, behind = first[1] - first[0], second[1] - second[0]
        column = 1 + ahead + layout.separators  # where B begins
        cells = np.arange(count) * length
        write_tokens(rows, self.text, cells + 1, first[0], ahead)
        write_tokens(rows, self.text, cells + column, second[0], behind)
        ids = rows["token_ids"]
        ids[:, 0] = self.vocabulary.begin_id
        for end in (*(1 + ahead + number for number in range(layout.separators)), column + behind):
            ids[np.arange(count), end] = self.vocabulary.end_id
        columns = np.arange(length, dtype=np.int32)
        rows["mask"] = columns < (1 + column + behind)[:, None]
        rows["positions"] = np.where(rows["mask"], columns, 0).astype(np.int32)
        inside = rows["mask"] & (columns >= column[:, None])
        rows["token_types"] = inside.astype(np.int32) * np.int32(layout.second_type)
        return rows


def _below(draw: np.ndarray, limits: np.ndarray | int) -> np.ndarray:
    """Draws (uint32) as numbers from 0 to limit - 1, int64."""
    return (draw.astype(np.uint64) * np.asarray(limits, np.uint64) >> np.uint64(32)).astype(np.int64)
