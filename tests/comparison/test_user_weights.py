"""Shares, lifts and rules by hand; a planted rule is found."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.arms.record import ArmRecord
from fairrec_pipeline.comparison.user_weights import repeat_share, weight_rules, weight_shares
from fairrec_pipeline.interactions.histories import training_histories
from tests.worlds import record_of


def run(weights: pd.DataFrame | None, arm: str = "cvar", seed: int = 0) -> ArmRecord:
    return record_of(arm, pd.DataFrame(), seed, user_weights=weights)


@pytest.fixture
def four_users() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": ["a", "b", "c", "d"],
            "train_length": [3, 4, 5, 60],
            "popularity_ratio": [0.1, 0.2, 0.9, 0.8],
            "pop33": ["niche", "niche", "popular", "popular"],
            "seq33": ["short", "short", "short", "long"],
            "age": ["18-24", "25-34", None, "25-34"],
        }
    )


@pytest.fixture
def weights() -> pd.DataFrame:
    """Window 0: a twice at 2, c twice at 0. Window 3: b once at 3, d three times at 1."""
    return pd.DataFrame(
        {"user_id": ["a", "c", "b", "d"], "window": [0, 0, 3, 3], "drawn": [2, 2, 1, 3], "weight": [2.0, 0, 3, 1]}
    )


def share(table: pd.DataFrame, split: str, group: str, window: int | None = None) -> tuple[float, ...]:
    at = table["window"].isna() if window is None else table["window"] == window
    row = table[(table["split"] == split) & (table["group"] == group) & at.fillna(False)]
    return tuple(row[["draw_share", "weight_share", "lift"]].iloc[0])


def test_shares_and_lifts_by_hand(weights, four_users):
    table = weight_shares([run(weights)], four_users)
    # niche: a and b, draws 2 + 1 of 8, weight 2 * 2 + 1 * 3 of 4 + 0 + 3 + 3 = 10
    assert share(table, "pop33", "niche") == pytest.approx((3 / 8, 7 / 10, 7 / 10 / (3 / 8)))
    assert share(table, "pop33", "niche", 0) == pytest.approx((2 / 4, 4 / 4, 2))
    assert share(table, "pop33", "popular", 3) == pytest.approx((3 / 4, 3 / 6, 2 / 3))
    assert share(table, "atomic", "popular-long") == pytest.approx((3 / 8, 3 / 10, 0.8))
    assert share(table, "age", "unknown") == pytest.approx((2 / 8, 0, 0))
    assert set(table["window"].dropna()) == {0, 3}  # the arm drew nobody in the others
    total = table[table["window"].isna()].groupby("split")[["draw_share", "weight_share"]].sum()
    np.testing.assert_allclose(total, 1)


def test_seeds_are_added_up(weights, four_users):
    again = pd.DataFrame({"user_id": ["d"], "window": [0], "drawn": [2], "weight": [5.0]})
    table = weight_shares([run(weights), run(again, seed=1)], four_users)
    assert share(table, "pop33", "niche") == pytest.approx((3 / 10, 7 / 20, 7 / 20 / 0.3))


def test_arms_that_kept_no_weights_are_left_out(weights, four_users):
    nothing = weight_shares([run(None, "old")], four_users)
    assert nothing.empty
    assert list(nothing.columns) == list(weight_shares([run(weights)], four_users).columns)
    assert set(weight_shares([run(None, "old"), run(weights)], four_users)["arm"]) == {"cvar"}
    assert weight_rules([run(None, "old")], four_users).empty


def test_erm_finds_nobody(weights, four_users):
    erm = weights.assign(weight=1 + 1e-7)  # rounding of 32-bit sums
    np.testing.assert_allclose(weight_shares([run(erm, "erm")], four_users)["lift"].dropna(), 1)
    assert weight_rules([run(erm, "erm")], four_users).empty


@pytest.fixture
def planted() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Women with at most ten interactions are drawn with weight 3, the others with 0.5."""
    rng = np.random.default_rng(0)
    n = 4000
    users = pd.DataFrame(
        {
            "user_id": np.arange(n),
            "train_length": rng.integers(1, 21, n),
            "popularity_ratio": rng.random(n),
            "pop33": "niche",
            "gender": rng.choice(["F", "M"], n),
        }
    )
    found = (users["gender"] == "F") & (users["train_length"] <= 10)
    weights = pd.DataFrame({"user_id": users["user_id"], "window": 0, "drawn": 1, "weight": np.where(found, 3.0, 0.5)})
    return users, weights


def test_the_tree_finds_a_planted_rule(planted):
    users, weights = planted
    rules = weight_rules([run(weights)], users, pd.Series(0.0, index=users["user_id"]))
    best = rules.iloc[0]
    assert set(best["rule"].split(" and ")) == {"train_length <= 10.5", "gender = F"}
    n_found = ((users["gender"] == "F") & (users["train_length"] <= 10)).sum()
    assert best["n_users"] == n_found
    assert best["above_erm"] == 1
    assert best["accuracy"] == 1
    weight = 3 * n_found / (3 * n_found + 0.5 * (4000 - n_found))
    assert best["weight_share"] == pytest.approx(weight)
    assert best["lift"] == pytest.approx(weight / (n_found / 4000))
    assert rules["n_users"].sum() == 4000
    assert rules["weight_share"].sum() == pytest.approx(1)


def test_weights_that_do_not_sum_to_one_are_measured_by_their_mean(planted):
    users, weights = planted
    pd.testing.assert_frame_equal(
        weight_rules([run(weights.assign(weight=3 * weights["weight"]), "ipw")], users),
        weight_rules([run(weights, "ipw")], users),
    )


def test_groups_stand_in_the_order_of_every_table(weights, four_users):
    four_users["pop33"] = ["popular", "niche", "diverse", "popular"]
    table = weight_shares([run(weights)], four_users)
    assert table.loc[table["split"] == "pop33", "group"].drop_duplicates().tolist() == ["niche", "diverse", "popular"]


def test_noise_has_no_rule(planted):
    users, weights = planted
    noise = weights.assign(weight=np.random.default_rng(1).choice([0.0, 2.0], 4000))
    assert weight_rules([run(noise, "cvar")], users)["accuracy"].iloc[0] < 0.6


def test_repeat_share_counts_training_only():
    interactions = pd.DataFrame(
        {
            "user_id": [1, 1, 1, 1, 1, 2, 2],
            "item_id": [5, 6, 5, 5, 6, 7, 7],
            "position": [0, 1, 2, 3, 4, 0, 1],
            "role": ["train"] * 4 + ["test", "train", "test"],
        }
    )
    # user 1: 5 6 5 5, two items in four; user 2: one item in one
    assert repeat_share(training_histories(interactions)).to_dict() == {1: 0.5, 2: 0.0}


def test_an_attribute_of_thousands_of_values_takes_no_memory_of_users_times_values(planted):
    """4,000 values of 4,000 users: a dense table of both would be 128 MB, and no leaf of the tree holds one value."""
    users, weights = planted
    codes = users.assign(postcode=[f"{user:05}" for user in users["user_id"]])
    tracemalloc.start()
    shares = weight_shares([run(weights)], codes)
    rules = weight_rules([run(weights)], codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    of_codes = shares[shares["split"] == "postcode"].groupby("window", dropna=False)["weight_share"].sum()
    np.testing.assert_allclose(of_codes, 1)
    pd.testing.assert_frame_equal(rules, weight_rules([run(weights)], users))
