"""What the lists of an arm do to the items: popularity, coverage, concentration, and who finds the rare targets.

The popularity of an item is its number of distinct training users; a user's repeats count once. Libraries differ here:
RecTools counts events for its average popularity and distinct users for its inverse user frequency.

The **head** is the fewest most popular items that hold at least 80 % of the training (user, item) pairs. Items as
popular as the last of them belong to the head too, so that no order of items decides. All others are the tail.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairrec_pipeline.interactions.columns import USER
from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics.by_group import GROUP, METRIC, N_USERS, SPLIT, VALUE, membership
from fairrec_pipeline.metrics.ranking import Scorer, SeenItems

LENGTH = 20
"""Items of a list."""
HEAD_SHARE = 0.8
ITEM_METRICS = (
    *("arp_at_20", "aplt_at_20", "miuf_at_20", "coverage_at_20", "gini_at_20", "exposure_gini_at_20"),
    *("recall_head_at_20", "recall_tail_at_20", "recall_tail_to_head_at_20"),
)


class ListKeeper:
    """A scorer that keeps the list of every user whose scores pass through it: one pass ranks targets and makes lists.

    As for ranks, a tie counts against an item: it is in the list if at most `LENGTH` items score as high, itself
    included. So a rule that scores most items alike has short lists.

    Args:
        scorer: scores runs of consecutive users.
        sequences: histories.
        filter_seen: leave the items of a user's history out of the list.
        device: where the scorer's tensors are.
    """

    def __init__(self, scorer: Scorer, sequences: Histories, *, filter_seen: bool, device: str = "cpu") -> None:
        self._scorer, self._seen = scorer, SeenItems(sequences, device) if filter_seen else None
        self._lists: list[Tensor] = []

    def __call__(self, users: Tensor) -> Tensor:
        scores = given = self._scorer(users)
        if self._seen is not None and len(users):
            start = int(users[0])
            scores = scores.clone()
            scores[self._seen.rows_and_items(start, start + len(users))] = float("-inf")
        n_items = scores.shape[1]
        best = torch.topk(scores, min(LENGTH + 1, n_items), dim=1)
        floor = best.values[:, LENGTH:] if n_items > LENGTH else best.values.new_full((len(users), 1), float("-inf"))
        listed = best.values[:, :LENGTH] > floor.clamp(min=torch.finfo(scores.dtype).min)
        codes = torch.where(listed, best.indices[:, :LENGTH], UNKNOWN)
        self._lists.append(torch.nn.functional.pad(codes, (0, LENGTH - codes.shape[1]), value=UNKNOWN).cpu())
        return given

    @property
    def lists(self) -> np.ndarray:
        """(n_users, LENGTH) codes of items, best first; `UNKNOWN` where a list is shorter."""
        return torch.cat(self._lists).numpy()


def popularity(train: Histories) -> np.ndarray:
    """(n_items,) distinct training users of every item."""
    pairs = np.unique(train.event_users * train.n_items + train.items)
    return np.bincount(pairs % train.n_items, minlength=train.n_items)


def is_head(popularity: np.ndarray) -> np.ndarray:
    """(n_items,) whether an item belongs to the head (see the module)."""
    falling = np.sort(popularity)[::-1]
    held = np.cumsum(falling)
    last = np.searchsorted(held, HEAD_SHARE * held[-1] * (1 - 1e-12))
    head: np.ndarray = popularity >= falling[last]
    return head


def gini(values: np.ndarray) -> float:
    """Gini index of amounts: 0 where all are equal, towards 1 where one has everything; NaN without amounts.

    With the amounts ascending, sum_j (2 j - n - 1) x_j / (n sum_j x_j), j from 1 (Fleder and Hosanagar 2009, Management
    Science 55(5), on sales of products).
    """
    ordered = np.sort(values)
    n, total = len(ordered), ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total > 0 else float("nan")


def item_metrics(
    lists: np.ndarray, train: Histories, test: Histories, user_metrics: pd.DataFrame, user_groups: pd.DataFrame
) -> pd.DataFrame:
    """The item side of an arm, overall and in every group of users.

    With L_u the list of user u, pop(i) the distinct training users of item i, means over users with a list:

    - `arp_at_20`: average recommendation popularity, mean over L_u of pop(i); `aplt_at_20`: average percentage of long
      tail items, the share of L_u in the tail (Abdollahpouri, Burke and Mobasher 2019, FLAIRS, section 5).
    - `miuf_at_20`: mean inverse user frequency, mean over L_u of -log2(pop(i) / number of training users) (Zhou et al.
      2010, PNAS 107, self-information; the name is RecTools').
    - `coverage_at_20`: share of the catalogue that is in somebody's list (Herlocker et al. 2004, ACM TOIS 22(1)).
    - `gini_at_20`: Gini index of how many lists an item is in; `exposure_gini_at_20`: of its exposure, a list's rank r
      giving 1 / log2(1 + r) (Singh and Joachims 2018, KDD). Items in nobody's list count, with 0.
    - `recall_head_at_20`, `recall_tail_at_20`: recall@20 of the users whose target is in head or tail, and tail / head.
      A target that training never saw has no popularity and is in the tail.

    Coverage and both Gini indices are of a set of lists and depend on their number: compare arms, not groups.

    Args:
        lists: (n_users, LENGTH) codes (see `ListKeeper.lists`), in the order of `test.users`.
        train: training histories.
        test: histories with targets.
        user_metrics: see `ranking.user_metrics`; for recall_at_20.
        user_groups: see `by_group.membership`; the balanced splits by target count, too.

    Returns:
        Columns split, group, metric, n_users, value; NaN where there is nothing to average.
    """
    assert test.targets is not None  # histories of the test have some
    users_of_item = popularity(train)
    head = is_head(users_of_item)
    listed, codes = lists != UNKNOWN, np.maximum(lists, 0)
    n_listed = listed.sum(axis=1)

    def mean_of_list(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            means: np.ndarray = np.where(listed, values[codes], 0).sum(axis=1) / n_listed
        return means

    recall = user_metrics.set_index(USER)["recall_at_20"].reindex(pd.Index(test.users)).to_numpy(np.float64)
    head_target = (test.targets != UNKNOWN) & head[np.maximum(test.targets, 0)]
    of_user = pd.DataFrame(
        {
            "arp_at_20": mean_of_list(users_of_item.astype(np.float64)),
            "aplt_at_20": mean_of_list((~head).astype(np.float64)),
            "miuf_at_20": mean_of_list(-np.log2(np.maximum(users_of_item, 1) / train.n_users)),
            "recall_head_at_20": np.where(head_target, recall, np.nan),
            "recall_tail_at_20": np.where(head_target, np.nan, recall),
        }
    )
    discount = np.broadcast_to(1 / np.log2(np.arange(2, LENGTH + 2)), lists.shape)
    members = membership(user_metrics, user_groups, by_target=True)
    rows = []
    for (split, group), of_group in members.groupby([SPLIT, GROUP], sort=False):
        users = pd.Index(test.users).get_indexer(pd.Index(of_group[USER]))
        values = of_user.iloc[users].mean().to_dict()
        shown, there = codes[users], listed[users]
        counts = np.bincount(shown[there], minlength=train.n_items)
        exposure = np.bincount(shown[there], weights=discount[users][there], minlength=train.n_items)
        values["coverage_at_20"] = float(np.mean(counts > 0))
        values |= {"gini_at_20": gini(counts), "exposure_gini_at_20": gini(exposure)}
        of_head, of_tail = values["recall_head_at_20"], values["recall_tail_at_20"]
        values["recall_tail_to_head_at_20"] = of_tail / of_head if of_head > 0 else float("nan")
        rows += [(split, group, name, len(users), values[name]) for name in ITEM_METRICS]
    return pd.DataFrame(rows, columns=[SPLIT, GROUP, METRIC, N_USERS, VALUE])
