"""Baselines worked by hand on five users and five items, then on the real RetailRocket split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairrec_pipeline.comparison.baselines import BASELINES, markov, markov_recency, popularity, recency
from fairrec_pipeline.interactions.histories import Histories, evaluation_histories, training_histories
from fairrec_pipeline.metrics.ranking import rank_targets, user_metrics

# training; test target (the first two users have a validation item, written between bars)
# user 1: a b a c | d | a
# user 2: a b     | c | e
# user 3: b a b         c
# user 4: e             z (never seen in training)
# user 5: d             a
WORLD = {1: ("abac", "d", "a"), 2: ("ab", "c", "e"), 3: ("bab", "", "c"), 4: ("e", "", "z"), 5: ("d", "", "a")}


@pytest.fixture
def world() -> tuple[Histories, Histories]:
    rows = [
        (user, item, position, role)
        for user, parts in WORLD.items()
        for position, (item, role) in enumerate(
            (item, role) for role, part in zip(("train", "validation", "test"), parts, strict=True) for item in part
        )
    ]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "position", "role"])
    train = training_histories(interactions)
    return train, evaluation_histories(interactions, train.catalogue, "test")


def scores(world: tuple[Histories, Histories], build, users: list[int]) -> list[list[float]]:
    return build(*world)(torch.tensor(users)).tolist()


def test_popularity_counts_interactions(world):
    # a 2+1+1, b 1+1+2, c 1, d 1, e 1
    assert scores(world, popularity, [0, 3]) == [[4, 4, 1, 1, 1]] * 2


def test_recency_orders_own_items_by_their_last_view(world):
    # user 1 saw a b a c d: d is newest (place 5), then c 4, a 3, b 2; e was not seen
    assert scores(world, recency, [0]) == [[3, 2, 4, 5, 0]]


def test_markov_counts_steps_from_the_last_item_and_breaks_ties_by_popularity(world):
    # from b: a (users 1 and 3), c (user 2); from c: d (user 1); d and e lead nowhere
    a, rest = 4 / 5, 1 / 5
    expected = {2: [2 + a, a, 1 + rest, rest, rest], 1: [a, a, rest, 1 + rest, rest], 0: [a, a, rest, rest, rest]}
    for user, row in expected.items():
        np.testing.assert_allclose(scores(world, markov, [user])[0], row, rtol=1e-6)


def test_markov_recency_mixes_shares_of_steps_with_own_items(world):
    # steps: a-b, b-a, a-c, c-d (user 1), a-b, b-c (2), b-a, a-b (3); so from a: b 3/4, c 1/4; b: a 2/3, c 1/3; c: d 1.
    # user 2 has a b c: c leads to d (weight 1), b to a and c (.6), a to b and c (.36); own: c .5, b .35, a .245
    popularity_below = [0.004 / 5, 0.004 / 5, 0.001 / 5, 0.001 / 5, 0.001 / 5]
    expected = [0.6 * 2 / 3 + 0.245, 0.36 * 3 / 4 + 0.35, 0.6 / 3 + 0.36 / 4 + 0.5, 1.0, 0.0]
    found = scores(world, markov_recency, [1])[0]
    np.testing.assert_allclose(found, np.add(expected, popularity_below), rtol=1e-6)
    # user 1 has a b a c d: d leads nowhere, c .6 to d, a .36, b .216, and the first a .1296 more; own: d c a b
    expected = [0.216 * 2 / 3 + 0.245, 0.4896 * 3 / 4 + 0.1715, 0.4896 / 4 + 0.216 / 3 + 0.35, 0.6 + 0.5, 0.0]
    found = scores(world, markov_recency, [0])[0]
    np.testing.assert_allclose(found, np.add(expected, popularity_below), rtol=1e-6)


def test_markov_recency_looks_five_items_back():
    """One user met a .. g, the other b .. g and a: every item leads to the next one, g to a."""
    items = np.array([*range(7), *range(1, 7), 0])
    histories = Histories(np.array([1, 2]), np.arange(7), items, np.array([0, 7, 14]))
    found = scores((histories, histories), markov_recency, [1])[0]
    # newest first: a g f e d c b. d is the fifth and leads to e; c would lead to d, which is left with its own score
    np.testing.assert_allclose(found[4], 0.6**4 + 0.5 * 0.7**3 + 0.002 / 3, rtol=1e-6)
    np.testing.assert_allclose(found[3], 0.5 * 0.7**4 + 0.002 / 3, rtol=1e-6)


def test_ranks(world):
    train, test = world
    ranks = {
        name: rank_targets(build(train, test), test, filter_seen=False).tolist() for name, build in BASELINES.items()
    }
    # ties last: a and b share 4, so a ranks 2; c, d, e share 1 and rank 5; z cannot be ranked
    assert ranks["popularity"] == [2, 5, 5, 0, 2]
    # user 1: a is third; the others' targets are new to them and tie with every new item at the end
    assert ranks["recency"] == [3, 5, 5, 0, 5]
    # user 3 stands at b: a was next twice, c once; user 2 stands at c, which never led to e
    assert ranks["markov"] == [2, 5, 2, 0, 2]


@pytest.mark.parametrize("build", BASELINES.values())
def test_any_slice_of_users_gets_the_same_scores(world, build):
    whole = torch.tensor(scores(world, build, [0, 1, 2, 3, 4]))
    assert torch.equal(torch.tensor(scores(world, build, [4, 1])), whole[[4, 1]])


@pytest.mark.parametrize("build", BASELINES.values())
def test_a_user_without_a_known_item_gets_finite_scores(world, build):
    train, test = world
    nobody = Histories(np.array([9]), test.catalogue, np.array([], np.int64), np.array([0, 0]), np.array([0]), None)
    assert torch.isfinite(build(train, nobody)(torch.tensor([0]))).all()


def test_another_catalogue_is_refused(world):
    train, test = world
    other = Histories(train.users, train.catalogue[:-1], train.items, train.offsets)
    with pytest.raises(ValueError, match="different catalogues"):
        markov(other, test)


SHARED = Path(__file__).parents[3] / "shared" / "data" / "retailrocket" / "events.csv.gz"


@pytest.mark.skipif(not SHARED.exists(), reason="the RetailRocket log is not beside the repository")
def test_retailrocket_numbers():
    interactions = _retailrocket(SHARED)
    train = training_histories(interactions)
    test = evaluation_histories(interactions, train.catalogue, "test")
    expected = {"popularity": 0.0063, "recency": 0.2497, "markov": 0.2141, "markov_recency": 0.2968}
    for name, build in BASELINES.items():
        metrics = user_metrics(test, rank_targets(build(train, test), test, filter_seen=False), None)
        assert round(metrics["ndcg_at_20"].mean(), 4) == expected[name]


def _retailrocket(file: Path) -> pd.DataFrame:
    """The protocol of METHODS in pandas, as a second opinion on the data pipeline."""
    log = pd.read_csv(file)
    views = log.loc[log["event"] == "view"].rename(columns={"visitorid": "user_id", "itemid": "item_id"})
    n_rows = 0
    while n_rows != len(views):
        n_rows = len(views)
        for column in ("user_id", "item_id"):
            pairs = views.drop_duplicates(["user_id", "item_id"])
            enough = pairs[column].value_counts()
            views = views[views[column].isin(enough[enough >= 5].index)]
    views = views.sort_values(["user_id", "timestamp", "item_id"], ignore_index=True)
    users = views.groupby("user_id")
    views["position"] = users.cumcount()
    from_end = users.cumcount(ascending=False)
    chosen = np.random.default_rng(42).choice(np.sort(views["user_id"].unique()), 10000, replace=False)
    views["role"] = np.select(
        [from_end == 0, (from_end == 1) & views["user_id"].isin(chosen)], ["test", "validation"], "train"
    )
    return views
