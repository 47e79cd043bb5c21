"""The item side by hand, against ranks, and against what must not change it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fairrec_pipeline.interactions.histories import UNKNOWN, Histories
from fairrec_pipeline.metrics.item_side import LENGTH, ListKeeper, gini, is_head, item_metrics, popularity
from fairrec_pipeline.metrics.ranking import rank_targets, user_metrics
from tests.worlds import random_histories, user_groups


def lists_of(*lists: list[int]) -> np.ndarray:
    return np.array([each + [UNKNOWN] * (LENGTH - len(each)) for each in lists])


@pytest.fixture
def train() -> Histories:
    """Four users, five items; user 0 has item 0 twice: popularity 4, 2, 2, 1, 1."""
    items = np.array([0, 0, 1, 0, 1, 2, 0, 2, 3, 0, 4])
    return Histories(np.arange(4), np.arange(5), items, np.array([0, 3, 6, 9, 11]))


def test_repeats_count_once(train):
    assert popularity(train).tolist() == [4, 2, 2, 1, 1]


def test_items_tied_with_the_last_of_the_head_are_in_it():
    # 80 % of 10 are 8: 4 + 2 + 2 reach them
    assert is_head(np.array([4, 2, 2, 1, 1])).tolist() == [True, True, True, False, False]
    # 80 % of 10 are 8: 5 + 2 + 1 reach them, and four items are as popular as the last
    assert is_head(np.array([1, 5, 1, 2, 1])).tolist() == [True] * 5
    assert is_head(np.array([9, 1])).tolist() == [True, False]


def test_gini_by_hand():
    assert gini(np.array([3, 3, 3])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)  # 1 - 1 / n
    # ascending 1, 2, 3: (-2 * 1 + 0 * 2 + 2 * 3) / (3 * 6)
    assert gini(np.array([2, 3, 1])) == pytest.approx(4 / 18)
    assert np.isnan(gini(np.zeros(3)))


def test_every_metric_by_hand(train):
    test = Histories(
        np.arange(4), np.arange(5), train.items, train.offsets, np.array([2, 3, UNKNOWN, 0]), np.array([False] * 4)
    )
    lists = lists_of([0, 3], [3], [], [1, 0, 2, 4])
    metrics = user_metrics(test, np.array([0, 1, 0, 2]), None)
    table = item_metrics(lists, train, test, metrics, user_groups(4)[["user_id", "train_length", "popularity_ratio"]])
    found = table[table["split"] == "overall"].set_index("metric")["value"]
    # three users have a list; popularity of their items: 4, 1 / 1 / 2, 4, 2, 1
    assert found["arp_at_20"] == pytest.approx((2.5 + 1 + 2.25) / 3)
    assert found["aplt_at_20"] == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)  # tail: items 3 and 4
    # -log2(popularity / 4) is 0 for item 0, 1 for items 1 and 2, 2 for items 3 and 4
    assert found["miuf_at_20"] == pytest.approx((1 + 2 + 1) / 3)
    assert found["coverage_at_20"] == 1
    # lists an item is in: 2, 1, 1, 2, 1; ascending 1, 1, 1, 2, 2: (-4 - 2 + 0 + 2 * 2 + 4 * 2) / (5 * 7)
    assert found["gini_at_20"] == pytest.approx(6 / 35)
    second, third, fourth = 1 / np.log2([3, 4, 5])
    exposure = [1 + second, 1, third, second + 1, fourth]
    assert found["exposure_gini_at_20"] == pytest.approx(gini(np.array(exposure)))
    # targets of the head: items 2 (missed) and 0 (found); of the tail: item 3 (found) and the unknown one (missed)
    assert found["recall_head_at_20"] == found["recall_tail_at_20"] == 1 / 2
    assert found["recall_tail_to_head_at_20"] == 1
    assert (table["n_users"][table["split"] == "overall"] == 4).all()


def test_groups_are_subsets_of_the_users():
    train, test = random_histories([9] * 30), random_histories([5] * 30, held_out=True, seed=1)
    train, test = (Histories(np.arange(30), *list(vars(each).values())[1:]) for each in (train, test))
    lists = np.stack([np.random.default_rng(user).permutation(37)[:LENGTH] for user in range(30)])
    hits = (lists == test.targets[:, None]).any(axis=1)
    groups, metrics = user_groups(30), user_metrics(test, np.where(hits, 1, 0), None)
    table = item_metrics(lists, train, test, metrics, groups)
    niche = (groups["pop33"] == "niche").to_numpy()
    part = Histories(np.arange(30)[niche], test.catalogue, test.items, np.zeros(11), test.targets[niche], None)
    alone = item_metrics(lists[niche], train, part, metrics[niche], groups[niche])
    found = table[(table["split"] == "pop33") & (table["group"] == "niche")].set_index("metric")["value"]
    expected = alone[alone["split"] == "overall"].set_index("metric")["value"]
    pd.testing.assert_series_equal(found, expected)


@pytest.mark.parametrize("filter_seen", [False, True])
def test_an_item_is_in_a_list_if_its_rank_is_at_most_20(filter_seen):
    """With many ties: the list has a target if and only if its rank, ties against it, is at most 20."""
    test = random_histories([0, 3, 7, 2, 9, 30] * 20, held_out=True)
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 60, (test.n_users, test.n_items))).float()
    keeper = ListKeeper(lambda users: scores[users], test, filter_seen=filter_seen)
    ranks = rank_targets(keeper, test, filter_seen=filter_seen)
    assert np.array_equal(ranks, rank_targets(lambda users: scores[users], test, filter_seen=filter_seen))
    listed = (keeper.lists == test.targets[:, None]).any(axis=1)
    np.testing.assert_array_equal(listed, (ranks > 0) & (ranks <= LENGTH))
    assert 0 < listed.sum() < test.n_users


def test_a_catalogue_shorter_than_a_list():
    test = random_histories([4] * 3, n_items=5, held_out=True)
    keeper = ListKeeper(lambda users: torch.arange(5.0).expand(len(users), -1), test, filter_seen=False)
    keeper(torch.arange(3))
    assert keeper.lists[0].tolist() == [4, 3, 2, 1, 0] + [UNKNOWN] * 15


def test_order_of_codes_changes_nothing(train):
    """Another order of the catalogue, ties included, gives the same numbers."""
    order = np.array([3, 0, 4, 2, 1])
    other = Histories(train.users, train.catalogue, order[train.items], train.offsets)
    assert is_head(popularity(other))[order].tolist() == is_head(popularity(train)).tolist()
