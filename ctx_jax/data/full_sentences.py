"""Rows cut from a stream of documents: whole sentences up to the row length, or blocks with next-token targets.

Two documents, "a b . / c d ." and "e f .", read as one stream; T = 8, with `cross_documents`:

    stream      | a b . c d . | e f . |             `|` is the end token, before every document and after the last

    full_sentences
                row 0   [CLS] a  b  .  c  d  .  [SEP]        as many sentences as fit
                row 1   [CLS] e  f  .  [SEP] . . .
    causal_blocks
                row 0   |     a  b  .  c  d  .  |            inputs
                        a     b  .  c  d  .  |  e            targets

Letters: B rows, T tokens, U units.
"""

from array import array

import numpy as np

from ctx_jax.data.packing import Index, Layout, Rows, Units, cut_units, ranges
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.tokenizers.subwords import Subwords


class FullSentences(Layout):
    """`begin ... end` rows of as many consecutive sentences as fit (RoBERTa's FULL-SENTENCES); a sentence longer than
    a row is cut. With `cross_documents` a row continues in the next document, after another end token; without it, a
    row ends with its document (DOC-SENTENCES). Without `whole_sentences` rows are full, sentences cut anywhere."""

    ARRAYS = ("starts", "counts", "documents")  # each row's start in the stream and length; the end tokens' positions

    @staticmethod
    def build_index(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> Index:
        """See `Layout`."""
        room, cross = config.length - 2, config.cross_documents
        units = cut_units(tokens, room)
        documents = _document_ends(units)
        if config.whole_sentences:
            starts, counts = _whole_sentences(units, room, cross)
        else:
            starts, counts = _filled(documents[[0, -1]] if cross else documents, room)
        return {"starts": starts, "counts": counts, "documents": documents}

    def __len__(self) -> int:
        return len(self.index["starts"])

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """See `Layout`; the rows are the same in every epoch."""
        columns = np.arange(self.config.length)
        counts = self.index["counts"][examples][:, None]
        inside = (columns > 0) & (columns <= counts)
        places = self.index["starts"][examples][:, None] + np.clip(columns - 1, 0, counts - 1)
        ids, begins, _ = _read_stream(self, places)
        ids = np.where(inside, ids, np.int32(self.vocabulary.pad_id))
        ids[:, 0] = self.vocabulary.begin_id
        np.put_along_axis(ids, counts + 1, self.vocabulary.end_id, axis=1)
        mask = columns < counts + 2
        positions = np.where(mask, columns, 0).astype(np.int32)
        return {"token_ids": ids, "begins": begins & inside, "mask": mask, "positions": positions}


class CausalBlocks(Layout):
    """Blocks of T consecutive tokens, cut anywhere, with the next token as each token's target (GPT): every token of
    the text and every document's end token is a target once. The stream starts with an end token.

    Adds `next_token_ids` int32 [B, T] and `weights` float32 [B, T], 0 past the text's end. Without `cross_documents`
    also `segments`, one for each document of a row, with positions from 0; an end token belongs to the document after
    it.
    """

    ARRAYS = ("documents",)  # the end tokens' positions in the stream

    @staticmethod
    def build_index(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> Index:
        """See `Layout`."""
        return {"documents": _document_ends(cut_units(tokens, len(tokens.ids) or 1))}

    def __len__(self) -> int:
        return -(-int(self.index["documents"][-1]) // self.config.length)

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """See `Layout`; with targets, weights and, without `cross_documents`, segments."""
        length, pad, documents = self.config.length, np.int32(self.vocabulary.pad_id), self.index["documents"]
        places = examples[:, None] * length + np.arange(length + 1)
        ids, begins, document = _read_stream(self, np.minimum(places, documents[-1]))
        mask = places[:, 1:] <= documents[-1]
        columns = np.arange(length, dtype=np.int32)
        rows = {
            "token_ids": np.where(mask, ids[:, :-1], pad),
            "begins": begins[:, :-1] & mask,
            "mask": mask,
            "positions": np.where(mask, columns, 0).astype(np.int32),
            "next_token_ids": np.where(mask, ids[:, 1:], pad),
            "weights": mask.astype(np.float32),
        }
        if not self.config.cross_documents:
            number = document[:, :-1] - document[:, :1]
            first = np.maximum(documents[document[:, :-1]] - places[:, :1], 0)
            rows["segments"] = np.where(mask, number + 1, 0).astype(np.int32)
            rows["positions"] = np.where(mask, columns - first, 0).astype(np.int32)
        return rows


def _read_stream(layout: Layout, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At positions `places` of the stream: ids int32, whether a word begins, and the document's number."""
    documents = layout.index["documents"]
    document = np.searchsorted(documents, places, side="right") - 1
    between = documents[document] == places
    source = np.where(between, 0, places - document - 1)
    ids = np.where(between, layout.vocabulary.end_id, layout.text.ids[source]).astype(np.int32)
    return ids, between | layout.text.begins[source].astype(bool), document


def _document_ends(units: Units) -> np.ndarray:
    """Positions in the stream of the end tokens, before each document and after the last: int64 [documents + 1]."""
    ends: np.ndarray = units.bounds[units.first] + np.arange(len(units.first))
    return ends


def _whole_sentences(units: Units, room: int, cross: bool) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of blocks of the stream that consist of whole units and have at most `room` tokens."""
    starts = units.bounds[:-1] + units.document + 1
    stops = units.bounds[1:] + units.document + 1
    following = np.searchsorted(stops, starts + room, side="right")
    if not cross:
        following = np.minimum(following, units.first[units.document + 1])
    first = follow(following)
    return starts[first], stops[np.append(first[1:], len(starts)) - 1] - starts[first]


def _filled(ends: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of blocks that divide the tokens between consecutive `ends`: `room` tokens, the last fewer."""
    lengths = np.diff(ends) - 1
    pieces = -(-lengths // room)
    before = ranges(np.zeros_like(pieces), pieces) * room
    return np.repeat(ends[:-1] + 1, pieces) + before, np.minimum(room, np.repeat(lengths, pieces) - before)


def follow(following: np.ndarray) -> np.ndarray:
    """0, following[0], following[following[0]], ... while these are indices of `following`; following[i] > i."""
    places = array("q", [0])
    while (place := int(following[places[-1]])) < len(following):
        places.append(place)
    return np.array(places, np.int64)
