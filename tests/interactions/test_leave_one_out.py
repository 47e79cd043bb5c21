"""Roles worked by hand, the draw of validation users, and the errors."""

from __future__ import annotations

import ibis
import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.leave_one_out import hold_out, split_roles, training_interactions


def histories(lengths: dict[int, int] | dict[str, int]) -> pd.DataFrame:
    rows = [(user, 10 * step, 100 + step, step) for user, length in lengths.items() for step in range(length)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position"])


def split_table(table: pd.DataFrame, validation_users: int | float, seed: int) -> pd.DataFrame:
    core = ibis.memtable(table)
    return split_roles(core, hold_out(core, validation_users, seed)).to_pandas()


def roles(lengths: dict[int, int], validation_users: int | float, seed: int = 42) -> dict[int, list[str]]:
    split = split_table(histories(lengths), validation_users, seed)
    return split.groupby("user_id").role.apply(list).to_dict()


def test_by_hand() -> None:
    assert roles({1: 3, 2: 4}, 1.0) == {
        1: ["train", "validation", "test"],
        2: ["train", "train", "validation", "test"],
    }


def test_only_the_drawn_users_have_a_validation_target() -> None:
    users = list(range(100, 160))
    split = roles(dict.fromkeys(users, 3), 20)
    drawn = set(np.random.default_rng(42).choice(users, 20, replace=False))
    for user, found in split.items():
        assert found == (["train", "validation", "test"] if user in drawn else ["train", "train", "test"])


def test_a_share_is_a_rounded_count_and_one_means_all() -> None:
    lengths = dict.fromkeys(range(10), 3)
    assert sum("validation" in found for found in roles(lengths, 0.26).values()) == 3
    assert sum("validation" in found for found in roles(lengths, 1.0).values()) == 10
    assert sum("validation" in found for found in roles(lengths, 1).values()) == 1


def test_order_of_rows_does_not_matter() -> None:
    table = histories(dict.fromkeys(range(30), 5))
    split = split_table(table, 0.5, 0)
    shuffled = split_table(table.sample(frac=1, random_state=0), 0.5, 0)
    pd.testing.assert_frame_equal(split, shuffled)
    assert list(split.columns) == ["user_id", "item_id", "timestamp", "position", "role"]


def test_string_ids_are_drawn_in_ascending_order() -> None:
    split = split_table(histories(dict.fromkeys(["b", "a", "d", "c"], 3)), 2, 42)
    drawn = set(np.random.default_rng(42).choice(["a", "b", "c", "d"], 2, replace=False))
    assert set(split.user_id[split.role == "validation"]) == drawn


def test_more_validation_users_than_users() -> None:
    with pytest.raises(DataError, match=r"validation_users=5 asks for 5 .* but there are 3 users.*1 to 3"):
        roles({1: 3, 2: 3, 3: 3}, 5)


def test_a_share_of_nobody() -> None:
    with pytest.raises(DataError, match=r"validation_users=0.01 asks for 0 "):
        roles({1: 3, 2: 3}, 0.01)


def test_a_history_too_short_to_be_split() -> None:
    with pytest.raises(DataError, match=r"1 of 2 users have too few interactions.*: 2 \(2 of 3\).*split.core"):
        roles({1: 3, 2: 2}, 1.0)
    with pytest.raises(DataError, match=r"2 of 60 users .*: 58 \(1 of \d\), 59 \(1 of \d\)"):
        roles({**dict.fromkeys(range(58), 3), 58: 1, 59: 1}, 1)


def test_training_interactions_are_those_that_the_split_gives_to_training() -> None:
    table = histories({user: 3 + user % 4 for user in range(30)}).sample(frac=1, random_state=0)
    core = ibis.memtable(table)
    held_out = hold_out(core, 0.5, 0)
    split = split_roles(core, held_out).to_pandas()
    expected = split.loc[split.role == "train", ["user_id", "item_id"]]
    found = training_interactions(core, held_out).to_pandas().sort_values(["user_id", "item_id"])
    assert found.to_numpy().tolist() == expected.to_numpy().tolist()
