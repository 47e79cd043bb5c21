"""The k best of every row against a full sort."""

from __future__ import annotations

import numpy as np
import pytest

from fairrec_pipeline.serving.top_k import best_items


def sorted_out(scores: np.ndarray, k: int) -> list[tuple[int, int, int, float]]:
    """Row, column, rank and score by a stable sort of each row; `-inf` is nothing."""
    return [
        (row, column, rank, float(scores[row, column]))
        for row in range(len(scores))
        for rank, column in enumerate(np.argsort(-scores[row], kind="stable")[:k].tolist(), start=1)
        if scores[row, column] > -np.inf
    ]


@pytest.mark.parametrize("n", [1, 63, 64, 1000, 5003])
@pytest.mark.parametrize("k", [1, 7, 70, 6000])
def test_against_a_sort(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    scores = rng.standard_normal((5, n)).astype(np.float32)
    scores[1] = scores[1].round(1)  # ties
    scores[2, rng.random(n) < 0.9] = -np.inf
    scores[3] = -np.inf
    scores[4] = 1
    best = best_items(scores, k)
    columns = (best.rows, best.items, best.ranks, best.scores)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == sorted_out(scores, k)
