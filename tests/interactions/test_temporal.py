"""The temporal split worked by hand, and what it promises of every log."""

from __future__ import annotations

import ibis
import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.core_filter import core_filter
from fairrec_pipeline.interactions.leave_one_out import hold_out_later, split_roles, training_interactions


def log_of(times: dict[int, list[int]]) -> pd.DataFrame:
    rows = [(user, 10 * step, time, step) for user, of_user in times.items() for step, time in enumerate(of_user)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position"])


def split(table: pd.DataFrame, train_share: float, validation_users: int | float = 1.0, seed: int = 0) -> pd.DataFrame:
    core = ibis.memtable(table)
    return split_roles(core, hold_out_later(core, train_share, validation_users, seed)).to_pandas()


def roles(table: pd.DataFrame) -> dict[int, list[str]]:
    return table.groupby("user_id")["role"].apply(list).to_dict()


def test_by_hand():
    """Ten interactions, eight of them up to time 50: user 1 loses what is later than its target, user 4 has no past."""
    table = log_of({1: [10, 20, 60, 70], 2: [30, 40], 3: [50, 50, 50], 4: [80]})
    assert roles(split(table, 0.7)) == {1: ["train", "validation", "test"], 2: ["train"] * 2, 3: ["train"] * 3}
    core = ibis.memtable(table)
    training = training_interactions(core, hold_out_later(core, 0.7, 1.0, 0)).to_pandas()
    assert sorted(training.itertuples(index=False, name=None)) == [(1, 0), (2, 0), (2, 10), (3, 0), (3, 10), (3, 20)]


def test_what_happened_at_the_cut_is_before_it():
    table = log_of({1: [10, 20, 50, 60], 2: [50, 50, 50, 70]})
    assert roles(split(table, 0.5)) == {
        1: ["train", "train", "validation", "test"],
        2: ["train"] * 2 + ["validation", "test"],
    }


def test_a_user_with_one_past_interaction_is_tested_and_not_validated():
    table = log_of({1: [10, 60], 2: [20, 30, 70]})
    assert roles(split(table, 0.6)) == {1: ["train", "test"], 2: ["train", "validation", "test"]}


@pytest.mark.parametrize("train_share", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("ties", ["item", "random"])
def test_no_training_or_validation_interaction_is_as_late_as_a_target(train_share, ties):
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"user_id": rng.integers(0, 60, 900), "item_id": rng.integers(0, 20, 900)})
    events = events.assign(timestamp=rng.integers(0, 80, 900) + events["user_id"], file_row=np.arange(900))
    core = core_filter(ibis.memtable(events), 2, ties).to_pandas()
    found = split(core, train_share, 10)
    by_role = found.groupby("role")["timestamp"]
    assert by_role.max()["train"] < by_role.min()["test"]
    assert by_role.max()["validation"] < by_role.min()["test"]
    assert by_role.size()["validation"] == 10
    targets = found[found["role"] == "test"]
    assert not targets["user_id"].duplicated().any()
    # every user with interactions on both sides of the cut has a target, the first one after it
    cut = core["timestamp"].sort_values().iloc[int(np.ceil(train_share * len(core))) - 1]
    past = set(core.loc[core["timestamp"] <= cut, "user_id"])
    later = core[core["timestamp"] > cut].sort_values(["user_id", "position"]).groupby("user_id").head(1)
    expected = later[later["user_id"].isin(past)][["user_id", "item_id", "position"]]
    assert targets[["user_id", "item_id", "position"]].to_numpy().tolist() == expected.to_numpy().tolist()
    assert set(found["user_id"]) == past
    shuffled = split(core.sample(frac=1, random_state=0), train_share, 10)
    pd.testing.assert_frame_equal(shuffled, found)


def test_errors_say_what_to_do():
    with pytest.raises(
        DataError, match=r"nobody has interactions on both sides.* 0.9 of .*later than time 40.*train_share"
    ):
        split(log_of({1: [10, 20], 2: [30, 40]}), 0.9)
    with pytest.raises(
        DataError, match=r"validation_users=3 asks for 3 .* there are 1 users with a target after the cut"
    ):
        split(log_of({1: [10, 20, 60], 2: [30, 40]}), 0.7, 3)
