"""The generated world: always the same, and with the structure that the methods are compared on."""

from __future__ import annotations

import ibis
import pandas as pd
import pytest

from fairrec_pipeline.interactions.core_filter import core_filter
from fairrec_pipeline.interactions.sources.synthetic import generate


@pytest.fixture(scope="module")
def world() -> tuple[pd.DataFrame, pd.DataFrame]:
    return generate(3000, 600, 0)


def test_same_seed_same_world(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    for table, again in zip(world, generate(3000, 600, 0), strict=True):
        pd.testing.assert_frame_equal(table, again)
    assert not world[0].equals(generate(3000, 600, 1)[0])


def test_lengths_have_a_heavy_tail(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    lengths = world[0].groupby("user_id").size()
    assert 15 < lengths.mean() < 21
    assert lengths.median() < 0.8 * lengths.mean()
    assert lengths.min() == 8
    assert 150 < lengths.max() <= 200


def test_popularity_is_skewed_and_items_return(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    counts = world[0].item_id.value_counts()
    assert counts.head(60).sum() > 0.35 * len(world[0])
    assert 0.15 < world[0].duplicated(["user_id", "item_id"]).mean() < 0.45


def test_the_last_item_tells_the_next(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    events = world[0].assign(following=world[0].groupby("user_id").item_id.shift(-1)).dropna()
    pairs = events.groupby(["item_id", "following"]).size()
    first_guess = pairs.groupby("item_id").max().sum() / pairs.sum()
    by_popularity = world[0].item_id.value_counts(normalize=True).max()
    assert first_guess > 5 * by_popularity


def test_the_segment_is_a_noisy_sign_of_the_taste(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    events, users = world
    assert set(users.segment) == {"mainstream", *(f"niche-{letter}" for letter in "abcde")}
    merged = events.merge(users, on="user_id")
    popular = events.item_id.value_counts().index[:60]
    share = merged.assign(popular=merged.item_id.isin(popular)).groupby("segment").popular.mean()
    assert share["mainstream"] > 2 * share.drop("mainstream").max()
    by_segment = merged.groupby("segment").item_id.agg(lambda items: set(items.value_counts().index[:20]))
    assert len(by_segment["niche-a"] & by_segment["niche-b"]) < 10


def test_the_5_core_keeps_nearly_everybody(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    kept = core_filter(ibis.memtable(world[0]), 5).to_pandas()
    assert kept.user_id.nunique() > 0.97 * 3000
    assert kept.item_id.nunique() > 0.95 * 600


@pytest.mark.parametrize("sizes", [(10, 10), (10, 500), (300, 10)])
def test_odd_sizes(sizes: tuple[int, int]) -> None:
    events, users = generate(*sizes, seed=3)
    assert len(users) == events.user_id.nunique() == sizes[0]
    assert events.item_id.between(1, sizes[1]).all()
