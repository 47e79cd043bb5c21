"""The generated world: always the same, and with the structure that the methods are compared on."""

from __future__ import annotations

import ibis
import pandas as pd
import pytest

from fairrec_pipeline.interactions.core_filter import core_filter
from fairrec_pipeline.interactions.sources.synthetic import TASTES, generate

World = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def world() -> World:
    return generate(3000, 500, 0)


@pytest.fixture(scope="module")
def steps(world: World) -> pd.DataFrame:
    """Every step from an item to the next one, with the user's segment and the number of the user's events."""
    events = world[0].assign(following=world[0].groupby("user_id").item_id.shift(-1)).dropna()
    return events.merge(world[1], on="user_id").assign(length=events.groupby("user_id").item_id.transform("size"))


def test_same_seed_same_world(world: World) -> None:
    for table, again in zip(world, generate(3000, 500, 0), strict=True):
        pd.testing.assert_frame_equal(table, again)
    assert not world[0].equals(generate(3000, 500, 1)[0])


def test_a_tenth_of_the_users_looks_at_much_and_at_rare_items(world: World) -> None:
    events, users = world
    minority = users.segment.str.startswith("minority")
    assert set(users.segment) == set(TASTES)
    assert 0.08 < minority.mean() < 0.12
    lengths = events.groupby("user_id").size().loc[users.user_id]
    assert lengths.min() == 8
    assert 40 < lengths.max() <= 80
    # 15 % of the segments are drawn anew, so that a shown minority is partly majority
    assert lengths[minority.to_numpy()].mean() > 2.5 * lengths[~minority.to_numpy()].mean()
    popular = set(events.groupby("item_id").user_id.nunique().nlargest(100).index)
    share = events.assign(popular=events.item_id.isin(popular)).groupby("user_id").popular.mean().loc[users.user_id]
    assert share[~minority.to_numpy()].mean() > 0.8
    assert share[minority.to_numpy()].mean() < 0.3


def test_what_follows_depends_on_the_item_and_on_the_taste(steps: pd.DataFrame) -> None:
    """The most frequent follower of an item, of everybody and of one segment: how often it is right."""
    for segments, of_everybody, of_segment in (("majority", 0.6, 0.8), ("minority", 0.45, 0.65)):
        rows = steps[steps.segment.str.startswith(segments)]
        by_item = rows.groupby(["item_id", "following"]).size()
        by_both = rows.groupby(["segment", "item_id", "following"]).size()
        assert by_item.groupby("item_id").max().sum() / len(rows) < of_everybody
        assert by_both.groupby(["segment", "item_id"]).max().sum() / len(rows) > of_segment


def test_the_5_core_keeps_nearly_everybody(world: World) -> None:
    kept = core_filter(ibis.memtable(world[0]), 5).to_pandas()
    assert kept.user_id.nunique() > 0.97 * 3000
    assert kept.item_id.nunique() > 0.97 * 500


@pytest.mark.parametrize("sizes", [(10, 10), (10, 500), (300, 10)])
def test_odd_sizes(sizes: tuple[int, int]) -> None:
    events, users = generate(*sizes, seed=3)
    assert len(users) == events.user_id.nunique() == sizes[0]
    assert events.item_id.between(1, sizes[1]).all()
