"""A planted slice is found and confirmed, a random one is not; the numbers are those of scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairrec_pipeline.comparison.bad_slices import activity, bad_slices
from tests.worlds import metrics_of, record_of, user_groups

LEVEL = 0.05


def world(seed: int, loss: float, n: int = 600) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Groups, NDCG of users as recommenders give it (most miss), and who is in the planted slice.

    The slice are the odd users with fewer than 10 interactions (about a sixth); `loss` is the share of their hits that
    is taken away.
    """
    rng = np.random.default_rng(seed)
    segment, length = rng.choice(["even", "odd"], n), rng.integers(3, 24, n)
    groups = user_groups(n, segment=segment).assign(train_length=length, popularity_ratio=rng.random(n))
    planted = (segment == "odd") & (length < 10)
    hit = rng.random(n) < 0.5 * np.where(planted, 1 - loss, 1)
    return groups, metrics_of(np.where(hit, 1 / np.log2(1 + rng.integers(1, 20, n)), 0.0)), planted


def rates(loss: float, n_worlds: int, n_users: int = 600) -> tuple[float, float]:
    """Share of worlds with a confirmed slice most of whose users were planted, and with any other confirmed slice."""
    hits, alarms = 0, 0
    for seed in range(n_worlds):
        groups, metrics, planted = world(seed, loss, n_users)
        found = bad_slices([record_of("erm", metrics)], groups, seed=seed)
        confirmed = [_members(rule, groups) for rule in found.loc[found["p_adjusted"] < LEVEL, "rule"]]
        right = [bool(planted[inside].mean() > 0.5) if loss else False for inside in confirmed]
        hits += any(right)
        alarms += not all(right)
    return hits / n_worlds, alarms / n_worlds


def _members(rule: str, groups: pd.DataFrame) -> np.ndarray:
    """Who is in the slice of a rule, read again from its words: `3.5 < train_length <= 9.5 and segment = odd`."""
    inside = np.ones(len(groups), dtype=bool)
    for condition in rule.split(" and "):
        if condition.startswith("segment"):
            inside &= (groups["segment"] == condition.split()[-1]).to_numpy() != (" is not " in condition)
            continue
        (name,) = (column for column in ("train_length", "popularity_ratio") if column in condition)
        low, high = condition.split(name)
        values = groups[name].to_numpy()
        inside &= values > (float(low.strip(" <")) if low else -np.inf)
        inside &= values <= (float(high.strip(" <=")) if high else np.inf)
    return inside


def test_a_planted_slice_is_found_and_little_else():
    hits, alarms = rates(loss=0.8, n_worlds=20)
    assert hits >= 0.85
    assert alarms <= 0.1


def test_a_random_slice_is_not_confirmed():
    """At most 5 % of the worlds without a slice have a confirmed one; 8 of 60 or more have a chance of 1 % then."""
    hits, alarms = rates(loss=0.0, n_worlds=60)
    assert hits == 0
    assert alarms <= 7 / 60


def test_numbers_are_those_of_scipy_on_the_other_half():
    groups, metrics, _ = world(3, 0.8)
    groups["popularity_ratio"] = 0.5  # a rule says three digits of it
    cvar = metrics_of(np.roll(metrics["ndcg_at_20"], 1))
    found = bad_slices([record_of("erm", metrics), record_of("cvar", cvar)], groups)
    assert list(found["arm"].unique()) == ["erm", "cvar"]
    other = np.random.default_rng(0).permutation(600) >= 300
    for row in found.itertuples():
        ndcg = (metrics if row.arm == "erm" else cvar)["ndcg_at_20"].to_numpy()
        inside = _members(row.rule, groups)
        assert row.n_users == (inside & other).sum()
        assert row.found_value == pytest.approx(ndcg[inside & ~other].mean())
        expected = stats.ttest_ind(ndcg[inside & other], ndcg[~inside & other], alternative="less")
        assert row.p_value == pytest.approx(expected.pvalue)
        assert row.difference == pytest.approx(ndcg[inside & other].mean() - ndcg[~inside & other].mean())
        assert row.erm == pytest.approx(metrics["ndcg_at_20"].to_numpy()[inside & other].mean())
    assert found["p_adjusted"].min() == pytest.approx(min(1, len(found) * found["p_value"].min()))


def test_seeds_are_averaged_and_order_of_rows_changes_nothing():
    groups, metrics, _ = world(1, 0.8)
    twice = [record_of("erm", metrics, 0), record_of("erm", metrics.sample(frac=1, random_state=0), 1)]
    once = bad_slices([record_of("erm", metrics)], groups)
    pd.testing.assert_frame_equal(bad_slices(twice, groups.sample(frac=1, random_state=1)), once)


def test_arms_without_any_difference_between_users():
    assert bad_slices([record_of("erm", metrics_of(np.full(60, 0.5)))], user_groups()).empty
    assert bad_slices([], user_groups()).empty


def test_activity_by_hand():
    rows = [(1, 10, "train"), (1, 20, "train"), (2, 30, "train"), (2, 110, "train"), (1, 900, "test")]
    active, idle = activity(pd.DataFrame(rows, columns=["user_id", "timestamp", "role"]))
    assert active.to_dict() == {1: 0.1, 2: 0.8}
    assert idle.to_dict() == {1: 0.9, 2: 0.0}
