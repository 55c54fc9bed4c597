"""How well first texts find their second ones. Letters: N pairs, D width."""

import numpy as np

_ROWS = 256  # compared with all others at a time


def ranks(first: np.ndarray, second: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The place of each pair's second text among all N second texts by the cosine with its first one, 1 for the best.

    `first` and `second` [N, D] are of length 1; `texts` [N, 2] number the texts: other pairs with the same first or the
    same second text are left out. A tie counts as wrong: an equal cosine stands before.
    """
    found = np.empty(len(first), np.int64)
    for start in range(0, len(first), _ROWS):
        stop = min(start + _ROWS, len(first))
        scores = first[start:stop] @ second.T
        own = scores[np.arange(stop - start), np.arange(start, stop)]
        others = (texts[start:stop, None] != texts[None]).all(axis=-1)
        found[start:stop] = 1 + np.sum((scores >= own[:, None]) & others, axis=1)
    return found


def ranking_scores(ranks: np.ndarray) -> dict[str, float]:
    """Mean reciprocal rank, and the share of pairs whose second text is the best; nan for none."""
    if not len(ranks):
        return {"mrr": float("nan"), "recall_at_1": float("nan")}
    return {"mrr": float(np.mean(1 / ranks)), "recall_at_1": float(np.mean(ranks == 1))}
