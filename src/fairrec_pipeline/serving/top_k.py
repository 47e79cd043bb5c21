"""The k best of every row of a score matrix, exactly, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_BLOCK = 64


class Best(NamedTuple):
    """The best items of some rows, row by row, best first.

    Attributes:
        rows: (m,) row of the scores.
        items: (m,) column.
        ranks: (m,) 1 is the best of the row.
        scores: (m,) float32.
    """

    rows: np.ndarray
    items: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray


def best_items(scores: np.ndarray, k: int) -> Best:
    """The k highest scores of every row; of equal scores the lower column comes first.

    The columns are dealt into groups. The k-th highest maximum of a group is a bound that at least k scores reach, so
    only scores from there on compete: a few of ten thousand.

    Args:
        scores: (b, n) float32; `-inf` for what must not be recommended.
        k: items a row gets; fewer where fewer scores are above `-inf`.
    """
    b, n = scores.shape
    groups = n // _BLOCK
    bound = np.full((b, 1), np.finfo(np.float32).min)
    if k < groups:
        peaks = scores[:, : groups * _BLOCK].reshape(b, _BLOCK, groups).max(axis=1)
        bound = np.maximum(bound, np.partition(peaks, groups - k, axis=1)[:, groups - k, None])
    competing = scores >= bound
    rows, items = np.divmod(np.flatnonzero(competing), n)
    values = scores[rows, items]
    order = np.lexsort((items, -values, rows))
    rows, items, values = rows[order], items[order], values[order]
    ranks = np.arange(len(rows)) - np.searchsorted(rows, np.arange(b))[rows] + 1
    kept = ranks <= k
    return Best(rows[kept], items[kept], ranks[kept], values[kept])
