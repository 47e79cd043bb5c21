"""The k-core against a slow oracle, ties, and its error."""

from __future__ import annotations

from collections import defaultdict

import ibis
import numpy as np
import pandas as pd
import pytest

from fairrec_pipeline.errors import DataError
from fairrec_pipeline.interactions.core_filter import core_filter


def brute_force(events: pd.DataFrame, core: int) -> set[tuple[int, int]]:
    """Drop one bad user or item at a time until there is none."""
    pairs = set(zip(events.user_id, events.item_id, strict=True))
    while True:
        partners: dict[tuple[str, int], set[int]] = defaultdict(set)
        for user, item in pairs:
            partners["user", user].add(item)
            partners["item", item].add(user)
        bad = next((key for key, others in partners.items() if len(others) < core), None)
        if bad is None:
            return pairs
        pairs = {(user, item) for user, item in pairs if bad not in {("user", user), ("item", item)}}


def random_events(seed: int, n: int = 500) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {"user_id": 60 * rng.random(n) ** 2, "item_id": 40 * rng.random(n) ** 2, "timestamp": 30 * rng.random(n)}
    return pd.DataFrame(columns).astype("int64")


@pytest.mark.parametrize(("seed", "core"), [(0, 5), (1, 5), (2, 3), (3, 2), (4, 1)])
def test_core_is_the_one_a_slow_search_finds(seed: int, core: int) -> None:
    events = random_events(seed)
    kept = core_filter(ibis.memtable(events), core).to_pandas()
    pairs = brute_force(events, core)
    assert len(pairs) > 0
    assert set(zip(kept.user_id, kept.item_id, strict=True)) == pairs
    # Kept pairs keep all their repeats.
    assert len(kept) == sum(pair in pairs for pair in zip(events.user_id, events.item_id, strict=True))


def test_repeats_of_one_pair_count_once() -> None:
    pairs = [(user, item) for user in (1, 2) for item in (1, 2)]
    events = pd.DataFrame([(*pair, 0) for pair in [*pairs, *[(3, 3)] * 9]], columns=["user_id", "item_id", "timestamp"])
    kept = core_filter(ibis.memtable(events), 2).to_pandas()
    assert set(kept.user_id) == {1, 2}


def test_order_of_rows_does_not_matter_and_the_input_stays_as_it_is() -> None:
    events = random_events(7)
    before = events.copy()
    kept = core_filter(ibis.memtable(events), 3).to_pandas()
    shuffled = core_filter(ibis.memtable(events.sample(frac=1, random_state=1)), 3).to_pandas()
    pd.testing.assert_frame_equal(kept, shuffled)
    pd.testing.assert_frame_equal(events, before)
    ordered = kept.sort_values(["user_id", "timestamp", "item_id"], ignore_index=True)
    pd.testing.assert_frame_equal(kept, ordered)
    assert (kept.position == kept.groupby("user_id").cumcount()).all()


TIED = pd.DataFrame(
    {"user_id": np.repeat(range(40), 4), "item_id": [4, 2, 3, 1] * 40, "timestamp": [5, 5, 5, 1] * 40}
).rename_axis("file_row").reset_index()  # fmt: skip


@pytest.mark.parametrize(("ties", "order"), [("item", [1, 2, 3, 4]), ("file", [1, 4, 2, 3])])
def test_ties_in_the_order_of_items_or_of_the_file(ties: str, order: list[int]) -> None:
    for table in (TIED, TIED.sample(frac=1, random_state=0)):
        kept = core_filter(ibis.memtable(table), 1, ties, 3).to_pandas()
        assert list(kept.columns) == ["user_id", "item_id", "timestamp", "position"]
        assert kept.groupby("user_id").item_id.agg(list).tolist() == [order] * 40


def test_ties_in_random_order_are_the_same_for_a_seed_and_without_a_pattern() -> None:
    kept = core_filter(ibis.memtable(TIED), 1, "random", 3).to_pandas()
    again = core_filter(ibis.memtable(TIED.sample(frac=1, random_state=0)), 1, "random", 3).to_pandas()
    pd.testing.assert_frame_equal(kept, again)
    assert not kept.equals(core_filter(ibis.memtable(TIED), 1, "random", 4).to_pandas())
    assert (kept.groupby("user_id").item_id.first() == 1).all()
    last = kept.groupby("user_id").item_id.last().value_counts()
    assert set(last.index) == {2, 3, 4}
    assert last.min() > 5  # of 13.3 expected; below with a chance of 0.6 % for each


def test_string_ids() -> None:
    events = random_events(5)
    text = events.assign(user_id="u" + events.user_id.astype(str), item_id="i" + events.item_id.astype(str))
    assert len(core_filter(ibis.memtable(text), 5).to_pandas()) == len(
        core_filter(ibis.memtable(events), 5).to_pandas()
    )


def test_empty_result_is_an_error_that_names_the_core_and_the_counts() -> None:
    events = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 1], "timestamp": [0, 1, 2]})
    expected = r"empty after the filter.*2 users, 2 items and 3 distinct .*5 distinct partners \(split.core=5\)"
    with pytest.raises(DataError, match=expected):
        core_filter(ibis.memtable(events), 5)
