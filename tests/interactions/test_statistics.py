"""Counts, shares and the fingerprint."""

from __future__ import annotations

import ibis
import pandas as pd

from fairrec_pipeline.interactions.prepared import PreparedHistories
from fairrec_pipeline.interactions.statistics import (
    dataset_statistics,
    fingerprint,
    group_fingerprints,
    target_statistics,
)

INTERACTIONS = pd.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2],
        "item_id": [5, 6, 5, 7, 6],
        "timestamp": [1, 2, 3, 1, 2],
        "position": [0, 1, 2, 0, 1],
        "role": ["train", "validation", "test", "train", "test"],
    }
)
USER_GROUPS = pd.DataFrame(
    {"user_id": [1, 2], "train_length": [3, 1], "popularity_ratio": [0.0, 1.0], "pop33": ["popular", "niche"]}
)


def test_counts_and_shares() -> None:
    found = dataset_statistics(ibis.memtable(INTERACTIONS), USER_GROUPS, "f")
    assert {name: value for name, value in found.items() if name.startswith("n_")} == {
        "n_users": 2, "n_items": 3, "n_interactions": 5, "n_train": 2, "n_validation": 1, "n_test": 2,
    }  # fmt: skip
    assert found["group_shares"] == {
        "pop33": {"niche": {"users": 50, "interactions": 25}, "popular": {"users": 50, "interactions": 75}}
    }
    assert list(found["group_shares"]["pop33"]) == ["niche", "popular"]


def test_the_fingerprint_of_the_interactions_is_of_what_decides_a_training() -> None:
    same = fingerprint(INTERACTIONS.sample(frac=1, random_state=0)[INTERACTIONS.columns[::-1]])
    assert same == fingerprint(INTERACTIONS) == fingerprint(INTERACTIONS.assign(timestamp=[1, 2, 9, 1, 2]))
    assert len(same) == 64
    for change in ({"item_id": {7: 8}}, {"user_id": {2: 3}}, {"role": {"validation": "train"}}, {"position": {2: 3}}):
        assert fingerprint(INTERACTIONS.replace(change)) != same


def test_one_more_attribute_changes_only_its_entry() -> None:
    before = group_fingerprints(USER_GROUPS)
    more = USER_GROUPS.assign(plan=["free", "paid"])
    after = group_fingerprints(more[::-1])
    assert set(after) == {"pop33", "plan"}
    assert after["pop33"] == before["pop33"]
    other = group_fingerprints(more.assign(plan=["paid", "free"]))
    assert other["plan"] != after["plan"]
    assert other["pop33"] == after["pop33"]
    statistics = dataset_statistics(ibis.memtable(INTERACTIONS), more, "f")
    assert statistics["group_fingerprints"] == after
    assert statistics["fingerprint"] == "f"


def test_targets_that_say_less_than_they_seem() -> None:
    rows = [
        # user, item, timestamp, position, role: the test target of 1 is tied with another item and repeated
        (1, 5, 1, 0, "train"), (1, 6, 2, 1, "train"), (1, 7, 3, 2, "validation"), (1, 5, 3, 3, "test"),
        # tied with itself only: the same row twice
        (2, 6, 1, 0, "train"), (2, 5, 2, 1, "train"), (2, 5, 2, 2, "test"),
        # in nobody's training
        (3, 5, 1, 0, "train"), (3, 9, 2, 1, "test"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position", "role"])
    assert target_statistics(ibis.memtable(table), PreparedHistories.of(table)) == {
        "validation": {"n": 1, "tied": 1, "unseen": 1, "repeated": 0},
        "test": {"n": 3, "tied": 1, "unseen": 1, "repeated": 2},
    }
