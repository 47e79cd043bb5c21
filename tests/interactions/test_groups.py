"""Groups worked by hand, and every user in one."""

from __future__ import annotations

import ibis
import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.groups import assign_groups

THIRDS = (1 / 3, 1 / 3, 1 / 3)


def table(histories: dict[int, list[int]]) -> pd.DataFrame:
    rows = [(user, item) for user, items in histories.items() for item in items]
    return pd.DataFrame(rows, columns=["user_id", "item_id"])


def groups(
    interactions: pd.DataFrame,
    splits: dict[str, tuple[float, float, float]],
    attributes: pd.DataFrame | None = None,
    quantile: float = 0.8,
) -> pd.DataFrame:
    attributes = interactions[["user_id"]].drop_duplicates() if attributes is None else attributes
    return assign_groups(ibis.memtable(interactions), ibis.memtable(attributes), quantile, splits).to_pandas()


def test_popularity_by_hand() -> None:
    # Item 1 has 4 users, items 2 to 5 one each. The 0.8 quantile of [1, 1, 1, 1, 4] is 1.6: only item 1 lies above.
    found = groups(table({1: [2, 3], 2: [1, 4, 5, 5], 3: [1, 1], 4: [1], 5: [1]}), {"pop33": THIRDS})
    assert found.popularity_ratio.tolist() == [0, 0.25, 1, 1, 1]
    assert found.train_length.tolist() == [2, 4, 2, 1, 1]
    # Running counts 2, 6, 8, 9, 10 of 10; cuts at 3.33 and 6.67.
    assert found.pop33.tolist() == ["niche", "diverse", "popular", "popular", "popular"]


def test_popular_means_strictly_above_the_quantile() -> None:
    # Every item has one user: the quantile is 1, and nothing lies above.
    assert groups(table({1: [1, 2], 2: [3]}), {"pop33": THIRDS}).popularity_ratio.tolist() == [0, 0]


def test_length_by_hand() -> None:
    lengths = {1: 3, 2: 1, 3: 2, 4: 1, 5: 3}
    found = groups(table({user: list(range(n)) for user, n in lengths.items()}), {"seq2060": (0.2, 0.6, 0.2)})
    # Sorted by (length, user): 2, 4, 3, 1, 5 with running counts 1, 2, 4, 7, 10 of 10; cuts at 2 and 8.
    assert dict(zip(found.user_id, found.seq2060, strict=True)) == {
        2: "short", 4: "short", 3: "medium", 1: "medium", 5: "long",
    }  # fmt: skip


def test_a_running_count_that_ends_on_a_third_is_still_below_it() -> None:
    for n in (1, 3, 7, 11):
        found = groups(table({user: list(range(n)) for user in range(3)}), {"seq33": THIRDS})
        assert found.seq33.tolist() == ["short", "medium", "long"]


def test_every_user_is_in_one_group_of_every_split() -> None:
    rng = np.random.default_rng(0)
    histories = {user: rng.integers(20, size=rng.integers(1, 9)).tolist() for user in range(40)}
    found = groups(table(histories), {"pop33": THIRDS, "seq1080": (0.1, 0.8, 0.1)})
    assert list(found.columns) == ["user_id", "train_length", "popularity_ratio", "pop33", "seq1080"]
    assert found.user_id.tolist() == list(histories)
    assert found.notna().all(axis=None)


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    interactions = table({user: rng.integers(20, size=5).tolist() for user in range(40)})
    shuffled = interactions.sample(frac=1, random_state=0)
    splits = {"pop33": THIRDS, "seq33": THIRDS}
    pd.testing.assert_frame_equal(groups(interactions, splits), groups(shuffled, splits))


def test_attributes_become_columns_and_absent_users_are_unknown() -> None:
    attributes = pd.DataFrame({"user_id": [1, 9], "age": ["18-24", "56+"], "plan": [None, "free"]})
    found = groups(table({1: [1], 2: [1]}), {"seq33": THIRDS}, attributes)
    assert found.age.tolist() == ["18-24", "unknown"]
    assert found.plan.tolist() == ["unknown", "unknown"]


@pytest.mark.parametrize("name", ["Overall", "seq33", "train_length"])
def test_an_attribute_must_not_bear_a_reserved_name(name: str) -> None:
    attributes = pd.DataFrame({"user_id": [1], name: ["a"]})
    with pytest.raises(DataError, match=f"attribute {name} bears a reserved name; .*Rename"):
        groups(table({1: [1]}), {"seq33": THIRDS}, attributes)
