"""How well first texts find their second ones. Letters: N pairs, D width."""

import numpy as np

_ROWS = 256  # compared with all others at a time


def ranks(first: np.ndarray, second: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The place of each pair's second text among all different second texts, by the cosine with its first one, 1 for
    the best.

    `first` and `second` [N, D] are of length 1; `texts` [N, 2] number the texts, equal ones equally. Left out are the
    second texts of other pairs with the same first text, and the first text itself. A tie counts as wrong: an equal
    cosine stands before.
    """
    candidates, places, column = np.unique(texts[:, 1], return_index=True, return_inverse=True)
    vectors = second[places]
    found = np.empty(len(first), np.int64)
    for start in range(0, len(first), _ROWS):
        part = slice(start, start + _ROWS)
        scores = first[part] @ vectors.T
        own = np.take_along_axis(scores, column[part, None], axis=1)
        others = texts[part, :1] != candidates
        row, pair = np.nonzero(texts[part, :1] == texts[:, 0])
        others[row, column[pair]] = False
        found[part] = 1 + np.sum((scores >= own) & others, axis=1)
    return found


def ranking_scores(ranks: np.ndarray) -> dict[str, float]:
    """Mean reciprocal rank, and the share of pairs whose second text is the best; nan for none."""
    if not len(ranks):
        return {"mrr": float("nan"), "recall_at_1": float("nan")}
    return {"mrr": float(np.mean(1 / ranks)), "recall_at_1": float(np.mean(ranks == 1))}
