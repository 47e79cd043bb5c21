"""Exact ranks against a sort in plain Python, and the metrics by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics import ranking
from fairrec_pipeline.metrics.ranking import ndcg, rank_and_loss, rank_targets, recall, user_metrics


def evaluation_world(histories: list[list[int]], targets: list[int], n_items: int) -> Histories:
    repeats = np.array([target in history for target, history in zip(targets, histories, strict=True)])
    return Histories(
        users=np.arange(len(histories)) + 100,
        catalogue=np.arange(n_items),
        items=np.array([item for history in histories for item in history], dtype=np.int64),
        offsets=np.cumsum([0, *(len(history) for history in histories)]).astype(np.int64),
        targets=np.array(targets, dtype=np.int64),
        repeats=repeats,
    )


def rank_by_sorting(scores: list[float], history: list[int], target: int, *, filter_seen: bool) -> int:
    """Place of the target in the list of rankable items, best first, the target last among those that tie with it."""
    rankable = [item for item in range(len(scores)) if not (filter_seen and item in history)]
    if target not in rankable:
        return 0
    return 1 + sorted(rankable, key=lambda item: (-scores[item], item == target)).index(target)


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("at_once", [1, 50, 2**24], ids=["user by user", "two users", "all users"])
def test_ranks_equal_a_sort(monkeypatch: pytest.MonkeyPatch, at_once: int, filter_seen: bool) -> None:
    """Scores of four values only, so that ties abound; every third target is unknown, repeats occur in histories."""
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    n_users, n_items = 40, 25
    histories = [rng.integers(0, n_items, size=rng.integers(0, 12)).tolist() for _ in range(n_users)]
    targets = [UNKNOWN if user % 3 == 0 else int(rng.integers(0, n_items)) for user in range(n_users)]
    scores = torch.from_numpy(rng.integers(0, 4, size=(n_users, n_items))).float()
    sequences = evaluation_world(histories, targets, n_items)
    expected = [
        rank_by_sorting(scores[user].tolist(), histories[user], targets[user], filter_seen=filter_seen)
        for user in range(n_users)
    ]
    assert rank_targets(lambda users: scores[users], sequences, filter_seen=filter_seen).tolist() == expected
    assert 0 in expected
    assert max(expected) > 5


def test_a_target_that_was_seen_is_filtered_away() -> None:
    """Scores 3 > 2 > 1 > 0, history (0, 1), target 1: rank 2 among all, none if seen items may not be shown.

    Target 2, not seen: rank 3 among all, 1 once both seen items, which score higher, are gone.
    """
    sequences = evaluation_world([[0, 1, 1], [0, 1, 1]], [1, 2], 4)

    def scorer(users: Tensor) -> Tensor:
        return torch.tensor([3.0, 2.0, 1.0, 0.0]).expand(len(users), 4)

    assert rank_targets(scorer, sequences, filter_seen=False).tolist() == [2, 3]
    assert rank_targets(scorer, sequences, filter_seen=True).tolist() == [0, 1]


def test_constant_scores_rank_every_target_last() -> None:
    """Ties count against the target, so an uninformative model has the worst rank and gains nothing by item order."""
    sequences = evaluation_world([[], [3]], [0, 7], 9)
    assert rank_targets(lambda users: torch.zeros(len(users), 9), sequences, filter_seen=False).tolist() == [9, 9]
    assert rank_targets(lambda users: torch.zeros(len(users), 9), sequences, filter_seen=True).tolist() == [9, 8]


def test_loss_is_the_cross_entropy_of_the_target() -> None:
    sequences = evaluation_world([[0], [1]], [1, UNKNOWN], 3)
    ranks, losses = rank_and_loss(
        lambda users: torch.tensor([0.0, 1.0, 2.0]).expand(len(users), 3), sequences, filter_seen=False
    )
    assert ranks.tolist() == [2, 0]
    assert losses is not None
    assert losses[0] == pytest.approx(math.log(1 + math.e + math.e**2) - 1, rel=1e-6)
    assert math.isnan(losses[1])


@pytest.mark.parametrize("filter_seen", [False, True])
def test_scores_that_are_not_numbers(filter_seen: bool) -> None:
    sequences = evaluation_world([[0], [0], [0]], [1, 1, UNKNOWN], 3)
    scores = torch.tensor([[0.0, math.nan, 0.0]] * 3)
    with pytest.raises(ValueError, match="scores of 2 targets are not numbers"):
        rank_targets(lambda users: scores[users], sequences, filter_seen=filter_seen)


def test_metrics_by_hand() -> None:
    """NDCG = 1 / log2(1 + rank): 1 at rank 1, 1/2 at rank 3, 1 / log2(11) at rank 10; 0 for rank 0 and beyond k."""
    ranks = np.array([1, 3, 10, 11, 0])
    np.testing.assert_allclose(ndcg(ranks, 10), [1, 0.5, 1 / math.log2(11), 0, 0])
    np.testing.assert_allclose(ndcg(ranks, 20), [1, 0.5, 1 / math.log2(11), 1 / math.log2(12), 0])
    assert recall(ranks, 10).tolist() == [1, 1, 1, 0, 0]
    assert recall(ranks, 20).tolist() == [1, 1, 1, 1, 0]


def test_user_metrics() -> None:
    sequences = evaluation_world([[0, 2], [1]], [2, UNKNOWN], 3)
    frame = user_metrics(sequences, np.array([3, 0]), np.array([0.7, np.nan], dtype=np.float32))
    assert frame["user_id"].tolist() == [100, 101]
    assert frame["rank"].isna().tolist() == [False, True]
    assert frame["repeat_target"].tolist() == [True, False]
    assert frame["ndcg_at_10"].tolist() == [0.5, 0.0]
    assert frame["recall_at_20"].tolist() == [1.0, 0.0]
    assert user_metrics(sequences, np.array([3, 0]), None)["loss"].isna().all()
