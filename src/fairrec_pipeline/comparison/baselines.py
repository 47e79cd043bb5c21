"""Untrained arms: what a trained recommender has to beat before its fairness is worth a discussion.

`ranking.rank_targets` puts a tied target last, so a rule that says nothing about an item (all such items score the
same) misses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np
import torch
from scipy import sparse

from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import Scorer

Rule = Callable[[np.ndarray], np.ndarray]
"""From the rows (n,) of users in the evaluation histories to the scores (n, n_items) of all items."""

BASELINES: dict[str, Callable[[Histories, Histories], Scorer]] = {}
"""By name, what builds a scorer from the training histories and, over the same catalogue, histories with targets.

It raises a ValueError where the two have different catalogues.
"""


def _baseline(rule_of: Callable[[Histories, Histories], Rule]) -> Callable[[Histories, Histories], Scorer]:
    """Make a scorer of tensors from a rule for arrays, and enter it into `BASELINES`."""

    @wraps(rule_of)
    def scorer(train: Histories, evaluation: Histories) -> Scorer:
        if not np.array_equal(train.catalogue, evaluation.catalogue):
            raise ValueError(
                f"training and evaluation histories have different catalogues ({train.n_items} and "
                f"{evaluation.n_items} items); build the evaluation histories with the catalogue of the training "
                "histories"
            )
        rule = rule_of(train, evaluation)
        return lambda users: torch.from_numpy(rule(users.cpu().numpy())).to(users.device)

    BASELINES[rule_of.__name__] = scorer
    return scorer


@_baseline
def popularity(train: Histories, evaluation: Histories) -> Rule:
    """The same list for everybody: items by their number of training interactions, repeats included."""
    scores = train.item_counts.astype(np.float32)
    return lambda users: np.tile(scores, (len(users), 1))


@_baseline
def recency(train: Histories, evaluation: Histories) -> Rule:
    """The distinct items of the user's history, the one seen last first; every other item scores 0."""
    positions = np.arange(1, len(evaluation.items) + 1) - np.repeat(evaluation.offsets[:-1], evaluation.lengths)

    def rule(users: np.ndarray) -> np.ndarray:
        rows, events = _events_of(evaluation, users)
        scores = np.zeros((len(users), evaluation.n_items), dtype=np.float32)
        # An item seen again is as recent as its last view.
        np.maximum.at(scores, (rows, evaluation.items[events]), positions[events].astype(np.float32))
        return scores

    return rule


@_baseline
def markov(train: Histories, evaluation: Histories) -> Rule:
    """First order: how often users went from the user's last item to each item.

    The rule counts every step inside the evaluation histories, the one to the validation item included: it has no
    training that would end earlier. Equal counts, zero included, are put in the order of popularity: most transitions
    of a sparse log were seen once, so the order among them decides (RetailRocket, test NDCG@20: by popularity .214, by
    first occurrence .215; without the steps to the validation items .209).
    """
    transitions, below_one = _transitions(evaluation), _below_one(train)

    def rule(users: np.ndarray) -> np.ndarray:
        scores = np.tile(below_one, (len(users), 1))
        with_history = np.flatnonzero(evaluation.lengths[users] > 0)
        last_items = evaluation.items[evaluation.offsets[users[with_history] + 1] - 1]
        scores[with_history] += transitions[last_items].toarray()
        return scores

    return rule


_LAST_ITEMS, _FADING = 5, 0.6
_REPEAT, _REPEAT_FADING = 0.5, 0.7


@_baseline
def markov_recency(train: Histories, evaluation: Histories) -> Rule:
    """A mix by hand of the other two: where the user's last five items led others, and the items of the history.

    Item i gets the sum over d = 0 .. 4 of 0.6^d P(i | item d before the last), P the share of the steps from that item
    in the evaluation histories, and, if it is the r-th newest (from 0) of the user's distinct items, 0.5 x 0.7^r
    besides. A thousandth of the popularity, which is below 1, orders what is left. The numbers were set by hand.
    """
    counts = _transitions(evaluation)
    steps_from = np.maximum(counts.sum(axis=1), 1).astype(np.float32)
    shares = sparse.csr_array(sparse.diags_array(1 / steps_from) @ counts)
    below = _below_one(train) / 1000

    def rule(users: np.ndarray) -> np.ndarray:
        rows, events = _events_of(evaluation, users)
        items, shape = evaluation.items[events], (len(users), evaluation.n_items)
        back = evaluation.offsets[1:][users][rows] - 1 - events  # 0 for the newest
        late = back < _LAST_ITEMS
        fading = ((_FADING ** back[late]).astype(np.float32), (rows[late], items[late]))
        scores: np.ndarray = (sparse.csr_array(fading, shape=shape) @ shares).toarray() + below
        newest_first = np.lexsort((back, rows))
        pairs = rows[newest_first] * evaluation.n_items + items[newest_first]
        _, first_met = np.unique(pairs, return_index=True)
        last_views = newest_first[np.sort(first_met)]  # of each item of the history, by user and falling recency
        rank = np.arange(len(last_views)) - np.searchsorted(rows[last_views], rows[last_views])
        scores[rows[last_views], items[last_views]] += (_REPEAT * _REPEAT_FADING**rank).astype(np.float32)
        return scores

    return rule


def _transitions(evaluation: Histories) -> sparse.csr_array:
    """(n_items, n_items) how often each item was followed by each, inside the histories."""
    followed = np.ones(len(evaluation.items), dtype=bool)
    followed[evaluation.offsets[1:][evaluation.lengths > 0] - 1] = False
    sources = np.flatnonzero(followed)
    return sparse.csr_array(
        (np.ones(len(sources), dtype=np.float32), (evaluation.items[sources], evaluation.items[sources + 1])),
        shape=(evaluation.n_items, evaluation.n_items),
    )


def _below_one(train: Histories) -> np.ndarray:
    """(n_items,) popularity, scaled to lie below 1: it orders what counts leave tied."""
    below: np.ndarray = (train.item_counts / (train.item_counts.max() + 1)).astype(np.float32)
    return below


def _events_of(histories: Histories, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) row in `users` and (n,) index in `histories.items` of every event of those users."""
    lengths = histories.lengths[users]
    rows = np.repeat(np.arange(len(users)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, np.repeat(histories.offsets[users], lengths) + within
