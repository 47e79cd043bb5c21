"""Exact rank of the held-out item over the whole catalogue, and the metrics that follow from it.

The rank of a target is the number of rankable items that score at least as high, itself included. So a tie always
counts against the target: a model that scores everything alike ranks it last, and no arm gains by item order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairrec_pipeline.interactions.columns import USER
from fairrec_pipeline.interactions.histories import UNKNOWN, Histories

CUTOFFS = (10, 20)
SCORES_AT_ONCE = 2**24

Scorer = Callable[[Tensor], Tensor]
"""Maps users (b,), places in `sequences.users`, to scores (b, n_items); higher is better."""


def rank_targets(
    scorer: Scorer, sequences: Histories, *, filter_seen: bool, device: str = "cpu", seen: SeenItems | None = None
) -> np.ndarray:
    """Rank of every user's target among the items that may be recommended.

    Args:
        scorer: scores of a slice of users.
        sequences: histories with targets.
        filter_seen: leave the items of a user's history out of the ranking.
        device: where the scorer's tensors are.
        seen: of `sequences`, from whoever ranks them again and again; None to find it.

    Returns:
        (n_users,) int64, 1 is best; 0 where the target cannot be ranked: training never saw it, or it is filtered.

    Raises:
        ValueError: a target's score is not a number.
    """
    return rank_and_loss(scorer, sequences, filter_seen=filter_seen, with_loss=False, device=device, seen=seen)[0]


def rank_and_loss(
    scorer: Scorer,
    sequences: Histories,
    *,
    filter_seen: bool,
    with_loss: bool = True,
    device: str = "cpu",
    seen: SeenItems | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Ranks as in `rank_targets` and the cross-entropy of the targets over the catalogue, in one pass over the scores.

    Returns:
        ranks (n_users,) int64, and losses (n_users,) float32 in nats, nan where the target is unknown.
    """
    assert sequences.targets is not None  # only evaluation sequences have targets
    targets = torch.from_numpy(sequences.targets).to(device)
    known = targets != UNKNOWN
    targets = targets.clamp(min=0)
    seen = (seen or SeenItems(sequences, device)) if filter_seen else None
    rows = max(1, SCORES_AT_ONCE // sequences.n_items)
    ranks, losses = [], []
    for start in range(0, sequences.n_users, rows):
        stop = min(start + rows, sequences.n_users)
        users = torch.arange(start, stop, device=device)
        scores = scorer(users)
        # the target's score comes out of the same product as the others: a second product may differ in the last bit
        target_scores = scores.gather(1, targets[users, None])
        rank = torch.count_nonzero(scores >= target_scores, dim=1)
        if seen is not None:
            row, item = seen.rows_and_items(start, stop)
            ahead = scores[row, item] >= target_scores[row, 0]
            rank.index_add_(0, row, ahead.to(rank.dtype), alpha=-1)
            # an index by a mask would wait for a GPU to count it
            filtered = torch.zeros_like(rank).index_add_(0, row, (item == targets[users][row]).to(rank.dtype))
            rank.masked_fill_(filtered > 0, 0)
        ranks.append(rank.masked_fill(torch.isnan(target_scores[:, 0]), -1))
        if with_loss:
            losses.append(torch.logsumexp(scores, dim=1) - target_scores[:, 0])
    all_ranks = torch.where(known, torch.cat(ranks), 0).cpu().numpy()
    if (all_ranks < 0).any():
        raise ValueError(f"the scores of {int((all_ranks < 0).sum())} targets are not numbers; did training diverge?")
    if not with_loss:
        return all_ranks, None
    nan = torch.full((), float("nan"), device=device)
    return all_ranks, torch.where(known, torch.cat(losses).float(), nan).cpu().numpy()


class SeenItems:
    """Distinct (user, item) pairs of the histories, found by a run of users."""

    def __init__(self, sequences: Histories, device: str) -> None:
        # sorted here, since `np.unique` takes many times longer over numbers that are nearly in order
        keys = np.sort(sequences.event_users * sequences.n_items + sequences.items)
        keys = keys[np.append(True, np.diff(keys) > 0)[: len(keys)]]
        self._users, items = np.divmod(keys, sequences.n_items)
        self._rows, self._items = torch.from_numpy(self._users).to(device), torch.from_numpy(items).to(device)

    def rows_and_items(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """For the users start .. stop - 1: the user's place in that run, and the item; one element a pair."""
        low, high = np.searchsorted(self._users, (start, stop))
        return self._rows[low:high] - start, self._items[low:high]


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k with one relevant item: 1 / log2(1 + rank) within the first k, else 0; rank 0 is a miss."""
    hit = (ranks > 0) & (ranks <= k)
    return np.where(hit, 1 / np.log2(1 + np.maximum(ranks, 1)), 0.0)


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """Recall@k with one relevant item: 1 if it is within the first k, else 0."""
    return ((ranks > 0) & (ranks <= k)).astype(np.float64)


def user_metrics(sequences: Histories, ranks: np.ndarray, losses: np.ndarray | None) -> pd.DataFrame:
    """One row per user: rank, repeat_target, loss, and NDCG and recall at the cutoffs.

    Args:
        sequences: histories with targets.
        ranks: (n_users,) 0 where the target cannot be ranked; becomes null.
        losses: (n_users,) cross-entropy of the targets in nats; None for untrained arms, becomes null.
    """
    frame = pd.DataFrame(
        {
            USER: sequences.users,
            "rank": pd.array(np.where(ranks > 0, ranks, 0), dtype="Int64"),
            "repeat_target": sequences.repeats,
            "loss": np.full(len(ranks), np.nan, dtype=np.float32) if losses is None else losses,
        }
    )
    frame.loc[ranks == 0, "rank"] = pd.NA
    for k in CUTOFFS:
        frame[f"ndcg_at_{k}"] = ndcg(ranks, k)
    for k in CUTOFFS:
        frame[f"recall_at_{k}"] = recall(ranks, k)
    return frame
